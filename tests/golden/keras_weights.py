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
    variables = _variables(model, arrays)
    missed = {v.path for v in model.weights} - {v.path for v in variables.values()}
    assert not missed, f"no torch tensor for {sorted(missed)}"
    for name, variable in variables.items():
        variable.assign(_to_keras(arrays[name]))


def torch_weights(model: keras.Model, names: Iterable[str]) -> dict[str, np.ndarray]:
    """The variables of `model` under their torch names, in torch's layout."""
    return {
        name: _to_torch(keras.ops.convert_to_numpy(variable)).copy()
        for name, variable in _variables(model, names).items()
    }


def keras_layer_name(torch_name: str, *, deep: bool = False) -> str:
    """The layer of ours for a torch module: `layer2.0.downsample.1` → `stage2_block1_shortcut_bn`.

    A ResNet-D (`deep`) has a stem of three convolutions, and a pool before its projections.

    Raises:
        KeyError: If there is none.
    """
    if torch_name == "fc":
        return "predictions"
    if deep and torch_name == "bn1":
        return "stem_bn3"
    if deep and (match := re.fullmatch(r"conv1\.([01346])", torch_name)):
        index = int(match[1])
        return f"stem_{'bn' if index % 3 else 'conv'}{index // 3 + 1}"
    if not deep and (match := re.fullmatch(r"(conv|bn)1", torch_name)):
        return f"stem_{match[1]}"
    if match := re.fullmatch(r"layer(\d)\.(\d+)\.((?:conv|bn)\d|downsample\.\d)", torch_name):
        shortcut = {f"downsample.{0 + deep}": "shortcut_conv"}
        shortcut[f"downsample.{1 + deep}"] = "shortcut_bn"
        part = shortcut.get(match[3], match[3])
        return f"stage{match[1]}_block{int(match[2]) + 1}_{part}"
    raise KeyError(torch_name)


def _variables(model: keras.Model, names: Iterable[str]) -> dict[str, keras.Variable]:
    deep = any(layer.name == "stem_conv1" for layer in model.layers)
    return {name: _variable(model, name, deep) for name in names}


def _variable(model: keras.Model, name: str, deep: bool) -> keras.Variable:
    module, _, part = name.rpartition(".")
    layer = model.get_layer(keras_layer_name(module, deep=deep))
    if isinstance(layer, keras.layers.BatchNormalization):
        return getattr(layer, _ATTRIBUTES[part])
    return layer.kernel if part == "weight" else layer.bias


def _to_keras(value: np.ndarray) -> np.ndarray:
    """(out, in, h, w) → (h, w, in, out) of convolutions, (out, in) → (in, out) of dense layers."""
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


def _to_torch(value: np.ndarray) -> np.ndarray:
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
