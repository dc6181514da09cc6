"""Weights of one network of this package in another."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import keras
import numpy as np

from keras_resnet18.errors import InputError
from keras_resnet18.weights import checkpoints as files
from keras_resnet18.weights.layouts import (
    COUNTER,
    HEAD,
    LAYOUTS,
    Array,
    adapt_channels,
    has_variant,
    is_batch_norm,
    is_of_head,
    module_names,
    module_of,
    of_network,
    own_layers,
    recognise,
    to_keras,
    to_torch,
    torch_shape,
    variables,
    variant_of,
)


def copy_weights(model: keras.Model, trained: keras.Model, *, classes_match: bool) -> str:
    """Gives a model the weights of a trained one, layer by layer.

    Args:
        model: The model that receives them.
        trained: A model with layers of the same names and shapes, the head aside.
        classes_match: Whether both heads tell the same classes apart; if not, the head is kept.

    Returns:
        What was done, in words.

    Raises:
        InputError: If a layer is missing or has another shape. The model is unchanged.
    """
    ours, theirs = own_layers(model), own_layers(trained)
    if not classes_match:
        ours.pop(HEAD, None)
        theirs.pop(HEAD, None)
    shapes = [
        {name: [v.shape for v in layer.weights] for name, layer in layers.items()}
        for layers in (ours, theirs)
    ]
    if shapes[0] != shapes[1]:
        names = [n for n in {**ours, **theirs} if shapes[0].get(n) != shapes[1].get(n)]
        raise InputError(
            "a run's weights fit a network of its depth, stem and variant: leave network.* as the "
            f"run has it. Received: other layers at {', '.join(names[:3])}"
        )
    for name, layer in ours.items():
        layer.set_weights(theirs[name].get_weights())
    kept = "with its head" if classes_match else "its head left out: the classes are others"
    return f"{sum(len(layer.weights) for layer in ours.values())} variables, {kept}"


# `load_weights` and `save_weights`: between a Keras model and a checkpoint of a torch library.

_LISTED = 3  # how many names an error gives of each kind


@dataclasses.dataclass(frozen=True)
class Transfer:
    """What went from a checkpoint into a model, or from a model into a checkpoint.

    Attributes:
        layout: Whose names the checkpoint has: `"torchvision"` (timm's are the same), `"timm"`
            (when loading, of variant d alone) or `"transformers"`.
        tensors: How many were transferred.
        left_out: What the other side has no place for: a checkpoint's tensors and what lies beside
            them, such as averaged weights, when loading; a model's variables when saving.
        kept: The model's layers that a load left as they were.
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

    Layers are found by their names, in models within the model too, and layers of any other name
    are left alone. Between the first and the last layer of ours that the model has, the checkpoint
    must have the same tensors, no more and no fewer. What it has before or after them, as the
    classifier for a model with `include_top=False`, is left out.

    A kernel for RGB is adapted to a model with another number of input channels, as timm does it.

    Args:
        model: Built by this library, or cut out of, or around, such a network.
        path: A `.safetensors` file, or one that `torch.save` wrote (`.pth`, `.pt`, `.bin`, `.ckpt`,
            `.tar`; this needs torch). float64, float32, float16 or bfloat16.
        head: `"strict"`, or `"skip"` to leave `predictions` as it is if the checkpoint's classifier
            has another number of classes or there is none.

    Returns:
        A `Transfer`: the layout, how many tensors were loaded, and what was left out or kept.

    Raises:
        InputError: If the file cannot be read or a tensor does not fit. The model is unchanged.
    """
    if head not in ("strict", "skip"):
        raise InputError(f"head must be 'strict' or 'skip'. Received: head={head!r}")
    layers, file = own_layers(model), files.read(Path(path))
    tensors, others = of_network(file.tensors)
    others += file.others
    layout = recognise(tensors)
    if layout is None:
        raise InputError(
            "a checkpoint must have torchvision's, timm's or transformers' names, such as "
            f"layer1.0.conv1.weight. Received: {path} with {_list('tensors', [*file.tensors])}"
        )
    variant = variant_of(model)
    if not has_variant(layout, variant):
        layout = "timm"  # it has every variant, and the checkpoint must have its names
    names = module_names(layout, variant)
    slots = {
        f"{names[name]}.{part}": variable
        for name, layer in layers.items()
        for part, variable in variables(layer).items()
    }
    first = f"{next(iter(names.values()))}.weight"
    if first in slots and first in tensors:
        tensors[first] = adapt_channels(tensors[first], slots[first].shape[-2])

    of_head = {name for name in (*slots, *tensors) if is_of_head(name, layout, variant)}
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
    one of variant `"d"` does so in timm, which alone has that network. timm takes one without a
    classifier too (`num_classes=0`). transformers also needs a configuration:
    `ResNetConfig(embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2],
    layer_type="basic")`. The normalisation of `include_preprocessing` is not part of any of these.

    Args:
        model: Any that has layers with our names, as for `load_weights`.
        path: Of the `.safetensors` file to write; what is there is replaced.
        layout: `"torchvision"`, `"timm"` or `"transformers"`.

    Returns:
        A `Transfer`: how many tensors were saved (float32, and torch's step counters), and which
        variables of the model have no place in such a checkpoint.

    Raises:
        InputError: If the layout is another or has no such network, or the file cannot be written
            there.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout must be one of {', '.join(LAYOUTS)}. Received: layout={layout!r}")
    variant = variant_of(model)
    if not has_variant(layout, variant):
        raise InputError(
            f"{layout} has no ResNet of variant {variant!r}: save with layout='timm'. "
            f"Received: {model.name!r}, layout={layout!r}"
        )
    names, saved = module_names(layout, variant), set()
    tensors: dict[str, Array] = {}
    for name, layer in own_layers(model).items():
        for part, variable in variables(layer).items():
            array = variable.numpy().astype(np.float32)
            tensors[f"{names[name]}.{part}"] = to_torch(array)
            saved.add(id(variable))
        if is_batch_norm(layer):
            tensors[f"{names[name]}.{COUNTER}"] = np.zeros((), np.int64)
    files.write(Path(path), tensors)
    left_out = tuple(v.path for v in model.weights if id(v) not in saved)
    return Transfer(layout, len(tensors), left_out)


def _outside(tensors: Iterable[str], slots: Iterable[str], modules: Iterable[str]) -> list[str]:
    """The tensors that lie before the first or after the last slot, in the network's order."""
    place = {module: i for i, module in enumerate(modules)}
    inside = [place[module_of(name)] for name in slots] or [-1]  # a head alone may be skipped
    known = sorted(
        (name for name in tensors if module_of(name) in place),
        key=lambda name: place[module_of(name)],
    )
    return [name for name in known if not inside[0] <= place[module_of(name)] <= inside[-1]]


def _fits(name: str, tensors: Mapping[str, Array], slots: Mapping[str, keras.Variable]) -> bool:
    """Whether a tensor and a variable of this name are there, and of one shape."""
    return name in slots and name in tensors and tensors[name].shape == torch_shape(slots[name])


def _unfit(
    tensors: Mapping[str, Array], slots: Mapping[str, keras.Variable], left_out: Iterable[str]
) -> dict[str, dict[str, str]]:
    """What is wrong → the tensors that it is wrong with → how an error names them."""
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
    """Raises InputError unless a tensor's values are those of a trained network."""
    wrong = None
    if not np.isfinite(array).all():
        wrong = "NaN" if np.isnan(array).any() else "infinity"
    elif name.endswith(".running_var") and (array < 0).any():
        wrong = "a negative variance"
    if wrong is not None:
        raise InputError(
            "a checkpoint must hold finite numbers, and variances of 0 or more: get it again, or "
            f"an earlier one of its training. Received: {path} with {wrong} in {name}"
        )


def _list(kind: str, names: list[str]) -> str:
    """`102 missing (conv1.weight, bn1.weight, bn1.bias, …)`."""
    more = ", …" if len(names) > _LISTED else ""
    return f"{len(names)} {kind} ({', '.join(names[:_LISTED])}{more})"
