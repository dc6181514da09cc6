"""Layouts: the layer names of torchvision, timm and Hugging Face transformers, and torch's axes.

The layouts differ in names only; a tensor is the same array in all three. torchvision and timm
agree on the names, and only timm has variant "d" (ResNet-D).
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

LAYOUTS = ("torchvision", "timm", "transformers")

HEAD = "predictions"

# Column of the tables below, by layout and variant of the network
COLUMNS = {
    ("torchvision", None): 1,
    ("timm", None): 1,
    ("timm", "d"): 2,
    ("transformers", None): 3,
}
# Our name, torchvision's and timm's, timm's for variant d, and transformers'; None where a network
# has no such layer. Stage s and block b count from one, s0 and b0 from zero.
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

# Names of the first tensor of a network, after the prefix of every name. The longer ones are first.
_FIRST = (
    "conv1.weight",
    "conv1.0.weight",
    "resnet.embedder.embedder.convolution.weight",
    "embedder.embedder.convolution.weight",  # of a transformers model without a head
)

_STAGES = range(1, 5)
_BLOCKS = range(1, 7)  # ResNet-34 has at most six in a stage

# torch's count of training steps, which a BatchNorm with a fixed momentum does not use
COUNTER = "num_batches_tracked"

# First parts of the network's names, in all layouts
_ROOTS = {"conv1", "bn1", "fc", "resnet", "classifier", *(f"layer{s}" for s in _STAGES)}


def module_names(layout: str, variant: str | None) -> dict[str, str]:
    """Maps our layer names, in the order of the network, to those of a layout.

    They are the names for four stages of six blocks each; a network has some of them.
    """
    column = COLUMNS[layout, variant]
    names = {row[0]: name for row in _STEM if (name := row[column])}
    for s, b in itertools.product(_STAGES, _BLOCKS):
        prefixes = [prefix.format(s=s, b=b, s0=s - 1, b0=b - 1) for prefix in _BLOCK_PREFIX]
        names |= {prefixes[0] + row[0]: prefixes[column] + row[column] for row in _BLOCK}
    return names | {row[0]: row[column] for row in _HEAD}


def of_network(tensors: Mapping[str, Array]) -> tuple[dict[str, Array], list[str]]:
    """Returns the network's tensors without the prefix of their names, and the names of all others.

    A prefix is `module.` (DataParallel), `model.` (Lightning) or `_orig_mod.` (torch.compile). A
    checkpoint may also hold a loss's weights, or averaged weights under another prefix. The prefix
    with the most known names wins; in a tie, one that does not belong to averaged weights.
    """
    ends = [(name, first) for name in tensors for first in _FIRST if name.endswith(first)]
    prefixes = dict.fromkeys(["", *(name.removesuffix(first) for name, first in ends)])
    every = {name for column in COLUMNS for name in module_names(*column).values()}
    every |= {name.removeprefix("resnet.") for name in every}  # a transformers model with no head

    def known(prefix: str) -> int:
        names = {name.removeprefix(prefix) for name in tensors if name.startswith(prefix)}
        return len({module_of(name) for name in names} & every)

    best = max(prefixes, key=lambda prefix: (known(prefix), not is_average(prefix)))
    found = {name.removeprefix(best): x for name, x in tensors.items() if name.startswith(best)}
    if any(name.startswith("embedder.") for name in found):
        found = {f"resnet.{name}": array for name, array in found.items()}
    found = {name: x for name, x in found.items() if name.partition(".")[0] in _ROOTS}
    kept = {id(array) for array in found.values()}
    return _with_plain_head(found), [name for name, x in tensors.items() if id(x) not in kept]


def is_average(name: str) -> bool:
    """Whether a name says that it belongs to averaged weights."""
    return any(part in ("ema", "averaged", "swa") for part in re.split(r"[^a-z]+", name.lower()))


def _with_plain_head(tensors: dict[str, Array]) -> dict[str, Array]:
    """Renames the dense layer after a dropout, `fc.1`, to `fc`."""
    heads = {match[1] for name in tensors if (match := re.match(r"fc\.(\d+)\.weight$", name))}
    if len(heads) != 1:
        return tensors
    (number,) = heads
    return {re.sub(rf"^fc\.{number}\.", "fc.", name): array for name, array in tensors.items()}


def recognize(tensors: Iterable[str]) -> str | None:
    """Returns the layout that has the most of these names, or None.

    That is `"torchvision"` for the names that timm shares, and `"timm"` for variant d.
    """
    modules = {module_of(name) for name in tensors}
    known = {names: len(modules & {*module_names(*names).values()}) for names in COLUMNS}
    layout, variant = max(known, key=lambda names: known[names])  # the first in a tie
    return layout if known[layout, variant] else None


def module_of(tensor: str) -> str:
    """`layer1.0.conv1.weight` → `layer1.0.conv1`."""
    return tensor.rpartition(".")[0]


def to_keras(array: Array) -> Array:
    """Transposes (out, in, h, w) to (h, w, in, out), and (out, in) to (in, out)."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def to_torch(array: Array) -> Array:
    """Transposes (h, w, in, out) to (out, in, h, w), and (in, out) to (out, in)."""
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def torch_shape(variable: keras.Variable) -> tuple[int, ...]:
    """Returns the shape of a variable in torch."""
    h_w_in_out = tuple(variable.shape)
    return (*h_w_in_out[:1:-1], *h_w_in_out[:2]) if len(h_w_in_out) == 4 else h_w_in_out[::-1]


def adapt_channels(kernel: Array, channels: int) -> Array:
    """Adapts a kernel for RGB to another number of channels, as timm's `adapt_input_conv` does.

    Args:
        kernel: Array of shape (out, 3, h, w); any other is returned unchanged.
        channels: Number of channels of the image.

    Returns:
        Array of shape (out, channels, h, w). For one channel, the sum over red, green and blue,
        which gives a gray image the same answers as its RGB copy; for n channels, the three
        repeated and scaled by 3/n.
    """
    if kernel.ndim != 4 or kernel.shape[1] != 3 or channels == 3:
        return kernel
    if channels == 1:
        gray: Array = kernel.sum(axis=1, keepdims=True)
        return gray
    repeats = math.ceil(channels / 3)
    return np.tile(kernel, (1, repeats, 1, 1))[:, :channels] * np.float32(3 / channels)
