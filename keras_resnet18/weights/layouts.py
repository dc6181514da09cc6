"""What torchvision, timm and Hugging Face transformers call our layers, and how torch stores them.

A layout is a set of names only: a tensor is the same array in all three. torchvision and timm agree
on the names; variant "d" (ResNet-D) is timm's alone. A new network of the same family is a new
column, or new rows, of the tables below.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_resnet18.errors import InputError

Array = npt.NDArray[Any]

LAYOUTS = ("torchvision", "timm", "transformers")

HEAD = "predictions"

# The column below for a layout and a variant of the network.
_COLUMNS = {
    ("torchvision", None): 1,
    ("timm", None): 1,
    ("timm", "d"): 2,
    ("transformers", None): 3,
}
# Ours, torchvision's and timm's, timm's of variant d, transformers'; None if that network has no
# such layer. A stage s, a block b of it, and both from zero.
_STEM = (
    ("stem_conv", "conv1", None, "resnet.embedder.embedder.convolution"),
    ("stem_bn", "bn1", None, "resnet.embedder.embedder.normalization"),
    ("stem_conv1", None, "conv1.0", None),
    ("stem_bn1", None, "conv1.1", None),
    ("stem_conv2", None, "conv1.3", None),
    ("stem_bn2", None, "conv1.4", None),
    ("stem_conv3", None, "conv1.6", None),
    ("stem_bn3", None, "bn1", None),
)
_BLOCK_PREFIX = (
    "stage{s}_block{b}_",
    "layer{s}.{b0}.",
    "layer{s}.{b0}.",
    "resnet.encoder.stages.{s0}.layers.{b0}.",
)
_BLOCK = (
    ("conv1", "conv1", "conv1", "layer.0.convolution"),
    ("bn1", "bn1", "bn1", "layer.0.normalization"),
    ("conv2", "conv2", "conv2", "layer.1.convolution"),
    ("bn2", "bn2", "bn2", "layer.1.normalization"),
    ("shortcut_conv", "downsample.0", "downsample.1", "shortcut.convolution"),
    ("shortcut_bn", "downsample.1", "downsample.2", "shortcut.normalization"),
)
_HEAD = ((HEAD, "fc", "fc", "classifier.1"),)

# The layers that variant d alone has: one in the stem, one in each stage after the first.
_OF_VARIANT_D = re.compile(r"stem_conv1|stage\d_block\d_shortcut_pool")

# What the first tensor of a network is called, and so what a prefix stands before.
_FIRST = ("conv1.weight", "conv1.0.weight", "embedder.embedder.convolution.weight")

_STAGES = range(1, 5)
_BLOCKS = range(1, 7)  # of a stage: six is the most that ResNet-34 has

# torch's name of a variable, and the attribute of a Keras layer that holds it
_BATCH_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_KERNEL = {"weight": "kernel", "bias": "bias"}

# Counts torch's training steps; nothing depends on it in a BatchNorm with a fixed momentum.
COUNTER = "num_batches_tracked"


# What a name of the network begins with, in some layout.
_ROOTS = {"conv1", "bn1", "fc", "resnet", "classifier", *(f"layer{s}" for s in _STAGES)}


def has_variant(layout: str, variant: str | None) -> bool:
    """Whether a layout has names for this variant of the network."""
    return (layout, variant) in _COLUMNS


def module_names(layout: str, variant: str | None) -> dict[str, str]:
    """Our layers, in the order of the network, and what they are called in `layout`.

    The names are those of every basic-block ResNet of this variant with four stages of at most six
    blocks, so a network has some of them.
    """
    column = _COLUMNS[layout, variant]
    names = {row[0]: name for row in _STEM if (name := row[column])}
    for s, b in itertools.product(_STAGES, _BLOCKS):
        prefixes = [prefix.format(s=s, b=b, s0=s - 1, b0=b - 1) for prefix in _BLOCK_PREFIX]
        names |= {prefixes[0] + row[0]: prefixes[column] + row[column] for row in _BLOCK}
    return names | {row[0]: row[column] for row in _HEAD}


def of_network(tensors: Mapping[str, Array]) -> tuple[dict[str, Array], list[str]]:
    """The network's tensors without the prefix of their names, and the names of all others.

    A prefix is `module.` (DataParallel), `model.` (Lightning) or `_orig_mod.` (torch.compile);
    beside the network may lie a loss' weights, or averaged weights under another prefix. Taken is
    the prefix under which most names are known, of equals one that does not say average.
    """
    prefixes = dict.fromkeys([_common_prefix([*tensors]), ""])
    for name in tensors:
        prefixes |= {name.removesuffix(stem): None for stem in _FIRST if name.endswith(stem)}
    known = {
        prefix: _known(name.removeprefix(prefix) for name in tensors if name.startswith(prefix))
        for prefix in prefixes
    }
    best = max(known, key=lambda prefix: (known[prefix], not is_average(prefix)))
    found = {name.removeprefix(best): x for name, x in tensors.items() if name.startswith(best)}
    if any(name.startswith("embedder.") for name in found):  # a transformers model with no head
        found = {f"resnet.{name}": array for name, array in found.items()}
    found = {name: x for name, x in found.items() if name.partition(".")[0] in _ROOTS}
    kept = {id(array) for array in found.values()}
    return _with_plain_head(found), [name for name, x in tensors.items() if id(x) not in kept]


def is_average(name: str) -> bool:
    """Whether a name is that of averaged weights, which a person might have meant."""
    return any(part in ("ema", "averaged", "swa") for part in re.split(r"[^a-z]+", name.lower()))


def _common_prefix(names: list[str]) -> str:
    prefix = ""
    while names and all(name.startswith(names[0].partition(".")[0] + ".") for name in names):
        prefix += names[0].partition(".")[0] + "."
        names = [name.partition(".")[2] for name in names]
    return prefix


def _known(names: Iterable[str]) -> int:
    """How many of these names some layout has; a transformers model may lack its first part."""
    every = {name for column in _COLUMNS for name in module_names(*column).values()}
    modules = {module_of(name) for name in names}
    return len(modules & every) + len({f"resnet.{module}" for module in modules} & every)


def _with_plain_head(tensors: dict[str, Array]) -> dict[str, Array]:
    """Names a head of a dropout and one dense layer, `fc.1`, as one without the dropout, `fc`."""
    heads = {match[1] for name in tensors if (match := re.match(r"fc\.(\d+)\.weight$", name))}
    if len(heads) != 1:
        return tensors
    (number,) = heads
    return {re.sub(rf"^fc\.{number}\.", "fc.", name): array for name, array in tensors.items()}


def recognise(tensors: Iterable[str]) -> str | None:
    """The layout that has most of these names, if any has one.

    That is `"torchvision"` for what timm calls the same, and `"timm"` for variant d.
    """
    modules = {module_of(name) for name in tensors}
    known = {names: len(modules & {*module_names(*names).values()}) for names in _COLUMNS}
    layout, variant = max(known, key=lambda names: known[names])  # of equals the first
    return layout if known[layout, variant] else None


def is_of_head(tensor: str, layout: str, variant: str | None) -> bool:
    """Whether a tensor belongs to the classifier, which may be more than one layer."""
    return tensor.startswith(f"{module_names(layout, variant)[HEAD].partition('.')[0]}.")


def module_of(tensor: str) -> str:
    """`layer1.0.conv1.weight` → `layer1.0.conv1`."""
    return tensor.rpartition(".")[0]


def variant_of(model: keras.Model) -> str | None:
    """`"d"` if a model, or one within it, has the layers that only variant d has."""
    found = any(_OF_VARIANT_D.fullmatch(layer.name) for layer in _leaves(model))
    return "d" if found else None


def own_layers(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """The layers of a model, and of models within it, that have weights and one of our names.

    Raises:
        InputError: If one is not built, or two have the same name.
    """
    known = module_names("timm", variant_of(model))  # which has every variant
    found: dict[str, keras.layers.Layer] = {}
    for layer in _leaves(model):
        if layer.name not in known or found.get(layer.name) is layer:
            continue
        if not layer.built:
            raise InputError(
                "the model must have its variables: call it once, or model.build(input_shape). "
                f"Received: {model.name!r}, whose layer {layer.name!r} is not built"
            )
        if layer.weights and layer.name in found:
            raise InputError(
                "a model must have one network with our layers' names: give each of its networks "
                f"by itself. Received: {model.name!r} with two layers {layer.name!r}"
            )
        if layer.weights:
            found[layer.name] = layer
    if not found:
        raise InputError(
            "the model must have layers with our names, such as stem_conv: see build_resnet18. "
            f"Received: {model.name!r} with none of them"
        )
    return {name: found[name] for name in known if name in found}


def _leaves(model: Any) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _leaves(layer)
        else:
            yield layer


def is_batch_norm(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)


def variables(layer: keras.layers.Layer) -> dict[str, keras.Variable]:
    """torch's names of a layer's variables: `weight`, `bias`, `running_mean`, `running_var`."""
    names = _BATCH_NORM if is_batch_norm(layer) else _KERNEL
    parts = {part: getattr(layer, attribute, None) for part, attribute in names.items()}
    return {part: variable for part, variable in parts.items() if variable is not None}


def to_keras(array: Array) -> Array:
    """A convolution's (out, in, h, w) → (h, w, in, out), a dense layer's (out, in) → (in, out)."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def to_torch(array: Array) -> Array:
    """The way back from `to_keras`."""
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def torch_shape(variable: keras.Variable) -> tuple[int, ...]:
    """The shape that torch gives such a tensor."""
    h_w_in_out = tuple(variable.shape)
    return (*h_w_in_out[:1:-1], *h_w_in_out[:2]) if len(h_w_in_out) == 4 else h_w_in_out[::-1]


def adapt_channels(kernel: Array, channels: int) -> Array:
    """Makes a kernel for RGB one for another number of channels, as timm's `adapt_input_conv`.

    Args:
        kernel: Shape (out, 3, h, w). One of another shape is returned as it is.
        channels: How many the image has.

    Returns:
        Shape (out, channels, h, w). For one channel the sum over red, green and blue, which gives a
        grey image the answers that it has as RGB; for n the three repeated and scaled by 3/n.
    """
    if kernel.ndim != 4 or kernel.shape[1] != 3 or channels == 3:
        return kernel
    if channels == 1:
        grey: Array = kernel.sum(axis=1, keepdims=True)
        return grey
    repeats = -(-channels // 3)  # ⌈channels / 3⌉
    return np.tile(kernel, (1, repeats, 1, 1))[:, :channels] * np.float32(3 / channels)
