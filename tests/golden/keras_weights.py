"""Torch-named arrays in and out of a Keras model, independently of the library's own loading."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import keras
import numpy as np

_ATTRIBUTES = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def set_torch_weights(model: keras.Model, arrays: Mapping[str, np.ndarray]) -> None:
    """Assigns every array to the variable of `model` that it belongs to, and leaves out none."""
    variables = {name: _variable(model, name) for name in arrays}
    missed = {v.path for v in model.weights} - {v.path for v in variables.values()}
    assert not missed, f"no torch tensor for {sorted(missed)}"
    for name, variable in variables.items():
        variable.assign(_to_keras(arrays[name]))


def torch_weights(model: keras.Model, names: Iterable[str]) -> dict[str, np.ndarray]:
    """The variables of `model` under their torch names, in torch's layout."""
    return {
        name: _to_torch(keras.ops.convert_to_numpy(_variable(model, name))).copy() for name in names
    }


def keras_layer_name(torch_name: str) -> str:
    """The layer of ours for a torch module: `layer2.0.downsample.1` → `stage2_block1_shortcut_bn`.

    Raises:
        KeyError: If there is none.
    """
    if torch_name == "fc":
        return "predictions"
    if match := re.fullmatch(r"(conv|bn)1", torch_name):
        return f"stem_{match[1]}"
    if match := re.fullmatch(r"layer(\d)\.(\d+)\.((?:conv|bn)\d|downsample\.[01])", torch_name):
        shortcut = {"downsample.0": "shortcut_conv", "downsample.1": "shortcut_bn"}
        part = shortcut.get(match[3], match[3])
        return f"stage{match[1]}_block{int(match[2]) + 1}_{part}"
    raise KeyError(torch_name)


def _variable(model: keras.Model, name: str) -> keras.Variable:
    module, _, part = name.rpartition(".")
    layer = model.get_layer(keras_layer_name(module))
    if isinstance(layer, keras.layers.BatchNormalization):
        return getattr(layer, _ATTRIBUTES[part])
    return layer.kernel if part == "weight" else layer.bias


def _to_keras(value: np.ndarray) -> np.ndarray:
    """(out, in, h, w) → (h, w, in, out) of convolutions, (out, in) → (in, out) of dense layers."""
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


def _to_torch(value: np.ndarray) -> np.ndarray:
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
