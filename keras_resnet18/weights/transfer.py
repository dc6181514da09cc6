"""Transfer of weights between models and checkpoints."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from keras_resnet18.errors import InputError, listed, one_of, path_of
from keras_resnet18.weights import checkpoints as files
from keras_resnet18.weights.layouts import (
    COLUMNS,
    COUNTER,
    HEAD,
    LAYOUTS,
    Array,
    adapt_channels,
    module_names,
    module_of,
    of_network,
    recognize,
    to_keras,
    to_torch,
    torch_shape,
)

_LISTED = 3  # names of each kind that an error gives

# Layers that only variant d has: one in the stem, one in each stage after the first.
_OF_VARIANT_D = re.compile(r"stem_conv1|stage\d_block\d_shortcut_pool")

# torch's name of the variable that a Keras layer holds as this attribute
_TORCH_NAMES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def copy_weights(
    model: keras.Model,
    trained: keras.Model,
    *,
    classes: Sequence[str],
    trained_classes: Sequence[str],
) -> str:
    """Copies the weights of a trained model to a model, and returns a summary for people.

    Layers are matched by name and shape. The head is copied class by class: a class that `trained`
    does not know keeps the weights that it has.

    Raises:
        InputError: If a layer is missing or has another shape. The model is unchanged.
    """
    ours, theirs = _own_layers(model), _own_layers(trained)
    heads = ours.pop(HEAD, None), theirs.pop(HEAD, None)
    wanted, given = (
        {name: [v.shape for v in layer.weights] for name, layer in layers.items()}
        for layers in (ours, theirs)
    )
    if different := [name for name in wanted | given if wanted.get(name) != given.get(name)]:
        raise InputError(
            "a run's weights fit a network of the same depth, stem and variant: leave network.* as "
            f"it is in the run. Received: other layers at {', '.join(different[:3])}"
        )
    for name, layer in ours.items():
        layer.set_weights(theirs[name].get_weights())
    known = [name for name in classes if name in trained_classes]
    if heads[0] is not None and heads[1] is not None:
        to, of = ([names.index(x) for x in known] for names in (classes, trained_classes))
        weights = heads[0].get_weights()  # kernel (features, classes) and bias (classes,)
        for ours_, theirs_ in zip(weights, heads[1].get_weights(), strict=True):
            ours_[..., to] = theirs_[..., of]
        heads[0].set_weights(weights)
    summary = f"{sum(len(layer.weights) for layer in ours.values())} variables"
    if not known:
        return f"{summary}, its head left out: the classes are different"
    new = [name for name in classes if name not in known]
    gone = [name for name in trained_classes if name not in known]
    return (
        f"{summary}, with the head of {len(known)} classes"
        + (f"; new: {listed(new)}" if new else "")
        + (f"; left out: {listed(gone)}" if gone else "")
    )


@dataclasses.dataclass(frozen=True)
class Transfer:
    """Summary of a load from a checkpoint into a model, or of a save.

    Attributes:
        layout: Layout of the checkpoint: `"torchvision"` (timm's names are the same), `"timm"`
            (when loading, only for variant d) or `"transformers"`.
        tensors: Number of tensors transferred.
        left_out: When loading, names in the checkpoint that the model has no place for; when
            saving, variables of the model that the layout has no place for.
        kept: Layers of the model that a load did not change.
    """

    layout: str
    tensors: int
    left_out: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.tensors} tensors in {self.layout}'s layout"]
        if self.left_out:
            parts.append(_list("left out", [*self.left_out]))
        if self.kept:
            parts.append(f"{', '.join(self.kept)} kept as it was")
        return "; ".join(parts)


def load_weights(
    model: keras.Model, path: str | os.PathLike[str], *, head: str = "strict"
) -> Transfer:
    """Loads a checkpoint of torchvision, timm or Hugging Face transformers into a model.

    Layers are matched by name, also in models inside the model; layers with other names do not
    change. Between the model's first and last matching layer, the checkpoint must have the same
    tensors, no more and no fewer. Tensors before or after them are left out, such as the classifier
    for a model with `include_top=False`. A kernel for RGB is adapted to another number of input
    channels, as timm does.

    Args:
        model: Model from a builder of this library, a part of one, or a model around one.
        path: `.safetensors` file, `save_pretrained` folder, or file of `torch.save` (`.pth`, `.pt`,
            `.bin`, `.ckpt`, `.tar`; needs torch); float64, float32, float16 or bfloat16.
        head: `"strict"`, or `"skip"` to keep `predictions` if the checkpoint has no classifier or
            one with another number of classes.

    Returns:
        `Transfer` with the layout, the number of tensors, and what was left out or kept.

    Raises:
        InputError: If the file cannot be read or a tensor does not fit. The model is unchanged.
    """
    one_of("head", head, ("strict", "skip"))
    layers = _own_layers(model)
    contents, beside = files.read(path_of(path, "the path of a checkpoint"))
    tensors, others = of_network(contents)
    others += beside
    layout = recognize(tensors)
    if layout is None:
        raise InputError(
            "a checkpoint must have torchvision's, timm's or transformers' names, such as "
            f"layer1.0.conv1.weight. Received: {path} with {_list('tensors', [*contents])}"
        )
    variant = _variant_of(model)
    if (layout, variant) not in COLUMNS:
        layout = "timm"  # which has every variant: the checkpoint must have its names
    names = module_names(layout, variant)
    slots = {
        f"{names[name]}.{part}": variable
        for name, layer in layers.items()
        for part, variable in _variables(layer).items()
    }
    first = f"{next(iter(names.values()))}.weight"
    if first in slots and first in tensors:
        tensors[first] = adapt_channels(tensors[first], slots[first].shape[-2])

    classifier = f"{names[HEAD].partition('.')[0]}."  # which may have more than one layer
    of_head = {name for name in (*slots, *tensors) if name.startswith(classifier)}
    skipped = head == "skip" and not all(_fits(name, tensors, slots) for name in of_head)
    if skipped:
        slots = {name: variable for name, variable in slots.items() if name not in of_head}
        others += [name for name in tensors if name in of_head]
        tensors = {name: array for name, array in tensors.items() if name not in of_head}
    left_out = _outside(tensors, slots, names.values())
    if unfit := _unfit(tensors, slots, left_out):
        cure = "build the network that it was made with, of the same depth, stem and variant"
        if all(name in of_head for kind in unfit.values() for name in kind):
            cure = "head='skip' leaves its classifier out"
        found = ", ".join(_list(kind, [*named.values()]) for kind, named in unfit.items())
        raise InputError(
            f"a checkpoint must have the tensors of {model.name!r}: {cure}. "
            f"Received: {path} with {found}"
        )
    for name in slots:
        _check_values(path, name, tensors[name])
    for name, variable in slots.items():
        variable.assign(to_keras(tensors[name]))
    kept = (HEAD,) if skipped and HEAD in layers else ()
    return Transfer(layout, len(slots), (*left_out, *others), kept)


def save_weights(
    model: keras.Model, path: str | os.PathLike[str], layout: str = "torchvision"
) -> Transfer:
    """Saves a model's weights as a checkpoint of torchvision, timm or Hugging Face transformers.

    A ResNet-18 or -34 with the imagenet stem loads there with `strict=True`, and here bit for bit;
    variant `"d"` loads in timm only. timm also takes a network without a classifier
    (`num_classes=0`). transformers needs a configuration: `ResNetConfig(embedding_size=64,
    hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic")`. The normalization
    of `include_preprocessing` is not part of a checkpoint.

    Args:
        model: Model that has layers with our names, as for `load_weights`.
        path: Path of the `.safetensors` file to write or replace.
        layout: `"torchvision"`, `"timm"` or `"transformers"`.

    Returns:
        `Transfer` with the number of tensors saved (float32, and torch's step counters) and the
        variables of the model that have no place in the checkpoint.

    Raises:
        InputError: If the layout is unknown or has no such network, or the path cannot be written.
    """
    one_of("layout", layout, LAYOUTS)
    variant = _variant_of(model)
    if (layout, variant) not in COLUMNS:
        raise InputError(
            f"{layout} has no ResNet of variant {variant!r}: save with layout='timm'. "
            f"Received: {model.name!r}, layout={layout!r}"
        )
    names, saved = module_names(layout, variant), set()
    tensors: dict[str, Array] = {}
    for name, layer in _own_layers(model).items():
        for part, variable in (variables := _variables(layer)).items():
            array = variable.numpy().astype(np.float32)
            tensors[f"{names[name]}.{part}"] = to_torch(array)
            saved.add(id(variable))
        if "running_var" in variables:  # of a BatchNorm
            tensors[f"{names[name]}.{COUNTER}"] = np.zeros((), np.int64)
    files.write(Path(path), tensors)
    left_out = tuple(v.path for v in model.weights if id(v) not in saved)
    return Transfer(layout, len(tensors), left_out)


def _variant_of(model: keras.Model) -> str | None:
    """Returns `"d"` if a model, or a model in it, has layers that only variant d has."""
    found = any(_OF_VARIANT_D.fullmatch(layer.name) for layer in leaves(model))
    return "d" if found else None


def _own_layers(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """Returns the layers, also of nested models, that have weights and one of our names."""
    known = module_names("timm", _variant_of(model))  # which has every variant
    found: dict[str, keras.layers.Layer] = {}
    for layer in leaves(model):
        if layer.name not in known or not layer.weights:
            continue
        if found.setdefault(layer.name, layer) is not layer:
            raise InputError(
                "a model must have one network with our layers' names: pass each of its networks "
                f"by itself. Received: {model.name!r} with two layers {layer.name!r}"
            )
    if not found:
        raise InputError(
            "the model must have built layers with our names, such as stem_conv: see "
            f"build_resnet18. Received: {model.name!r} with none of them"
        )
    return {name: found[name] for name in known if name in found}


def leaves(model: keras.Model) -> list[keras.layers.Layer]:
    """Layers of a model and of the models nested in it, without those models."""
    return [layer for layer in model._flatten_layers() if not isinstance(layer, keras.Model)]


def _variables(layer: keras.layers.Layer) -> dict[str, keras.Variable]:
    """Variables of a convolution, a dense layer or a BatchNorm by torch's names."""
    parts = ((part, getattr(layer, name, None)) for name, part in _TORCH_NAMES.items())
    return {part: variable for part, variable in parts if variable is not None}


def _outside(tensors: Iterable[str], slots: Iterable[str], modules: Iterable[str]) -> list[str]:
    """Returns the tensors before the first or after the last slot, in the network's order."""
    order = {module: i for i, module in enumerate(modules)}
    places = {name: order[module_of(name)] for name in tensors if module_of(name) in order}
    inside = [order[module_of(name)] for name in slots] or [-1]  # a head alone may be skipped
    known = sorted(places, key=places.__getitem__)
    return [name for name in known if not inside[0] <= places[name] <= inside[-1]]


def _fits(name: str, tensors: Mapping[str, Array], slots: Mapping[str, keras.Variable]) -> bool:
    """Whether a tensor and a variable have this name, and the same shape."""
    return name in slots and name in tensors and tensors[name].shape == torch_shape(slots[name])


def _unfit(
    tensors: Mapping[str, Array], slots: Mapping[str, keras.Variable], left_out: Iterable[str]
) -> dict[str, dict[str, str]]:
    """Maps each kind of mismatch to its tensors, with their names in an error."""
    expected = {*slots, *left_out}
    found = {
        "missing": {name: name for name in slots if name not in tensors},
        "unexpected": {name: name for name in tensors if name not in expected},
        "of another shape": {
            name: f"{name} {tensors[name].shape} for {torch_shape(variable)}"
            for name, variable in slots.items()
            if name in tensors and not _fits(name, tensors, slots)
        },
    }
    return {kind: named for kind, named in found.items() if named}


def _check_values(path: str | os.PathLike[str], name: str, array: Array) -> None:
    """Raises InputError for values that no training leaves."""
    found = {
        "NaN": np.isnan(array),
        "infinity": np.isinf(array),
        "a negative variance": array < 0 if name.endswith(".running_var") else np.False_,
    }
    if wrong := next((kind for kind, where in found.items() if where.any()), None):
        raise InputError(
            "a checkpoint must hold finite numbers, and variances of 0 or more: get it again, or "
            f"take an earlier one of the same training. Received: {path} with {wrong} in {name}"
        )


def _list(kind: str, names: list[str]) -> str:
    """`102 missing (conv1.weight, bn1.weight, bn1.bias, …)`."""
    more = ", …" if len(names) > _LISTED else ""
    return f"{len(names)} {kind} ({', '.join(names[:_LISTED])}{more})"
