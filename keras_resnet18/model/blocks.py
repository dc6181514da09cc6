"""The building blocks of He et al. 2015, "Deep Residual Learning" (arXiv 1512.03385), figure 2.

    x ──┬── 3×3 conv ── BN ── ReLU ── 3×3 conv ── BN ──(+)── ReLU ──▶
        └───────────────── shortcut ───────────────────┘

The shortcut adds a block's input to what its two convolutions make of it, *before* the last ReLU.
Where the shape stays the same the shortcut is the input itself (`identity_block`); where it
changes, a 1×1 convolution brings the input to the new shape (`conv_block`). `plain_block` is the
same block without a shortcut, the net that the paper compares with.

Two things that the paper does not have are off by default: a shortcut that averages before it
projects (`pool`, ResNet-D), and convolutions with holes (`dilation`), for a net that keeps its maps
large.
"""

from __future__ import annotations

import keras
from keras import layers

from keras_resnet18.errors import InputError


def identity_block(
    x: keras.KerasTensor, filters: int, *, dilation: int = 1, name: str
) -> keras.KerasTensor:
    """A residual block that keeps its input's shape: the shortcut is the input.

    Args:
        x: Shape (batch, height, width, filters).
        filters: Of both convolutions.
        dilation: Of both: how far apart, on the map, the values that they look at lie.
        name: What the names of the block's layers begin with.

    Returns:
        Same shape as `x`.

    Raises:
        InputError: If `x` does not have `filters` channels.
    """
    if x.shape[-1] != filters:
        raise InputError(
            f"an identity block keeps the number of channels, so filters must be {x.shape[-1]} "
            f"here (conv_block changes it). Received: filters={filters}"
        )
    residual = _residual(x, filters, stride=1, dilations=(dilation, dilation), name=name)
    return _add(x, residual, name=name)


def conv_block(
    x: keras.KerasTensor,
    filters: int,
    *,
    stride: int = 2,
    dilations: tuple[int, int] = (1, 1),
    pool: bool = False,
    name: str,
) -> keras.KerasTensor:
    """A residual block that changes the shape: the shortcut is a 1×1 convolution and BN.

    Args:
        x: Shape (batch, height, width, channels).
        filters: Of all three convolutions.
        stride: Of the first 3×3 convolution and of the shortcut.
        dilations: Of the first 3×3 convolution and of the second. A stride of 2 and dilations of
            (1, 1) become a stride of 1 and (1, 2) in a net that keeps its maps large.
        pool: Whether the shortcut takes the mean of 2×2 values and projects that at stride 1, so
            that no value is left out: ResNet-D of He et al. 2018 (arXiv 1812.01187), figure 2c.
        name: What the names of the block's layers begin with.

    Returns:
        Shape (batch, ⌈height / stride⌉, ⌈width / stride⌉, filters).

    Raises:
        InputError: If the first convolution would have a stride and a dilation.
    """
    if stride > 1 and dilations[0] > 1:
        raise InputError(
            "a convolution has a stride or a dilation, and the other is 1. "
            f"Received: stride={stride}, dilations={dilations}"
        )
    shortcut, step = x, stride
    if pool:
        shortcut, step = mean_of_2x2(x, stride, dilations[0], name=f"{name}_shortcut_pool"), 1
    shortcut = convolution(shortcut, filters, 1, stride=step, name=f"{name}_shortcut_conv")
    shortcut = batch_norm(shortcut, name=f"{name}_shortcut_bn")
    residual = _residual(x, filters, stride=stride, dilations=dilations, name=name)
    return _add(shortcut, residual, name=name)


def plain_block(
    x: keras.KerasTensor,
    filters: int,
    *,
    stride: int = 1,
    dilations: tuple[int, int] = (1, 1),
    name: str,
) -> keras.KerasTensor:
    """The same two convolutions without a shortcut.

    Args:
        x: Shape (batch, height, width, channels).
        filters: Of both convolutions.
        stride: Of the first convolution.
        dilations: Of the first convolution and of the second, as for `conv_block`.
        name: What the names of the block's layers begin with.

    Returns:
        Shape (batch, ⌈height / stride⌉, ⌈width / stride⌉, filters).
    """
    x = _residual(x, filters, stride=stride, dilations=dilations, name=name)
    return layers.ReLU(name=f"{name}_out")(x)


def _residual(
    x: keras.KerasTensor, filters: int, *, stride: int, dilations: tuple[int, int], name: str
) -> keras.KerasTensor:
    """What the block learns to add to its shortcut."""
    x = convolution(x, filters, 3, stride=stride, dilation=dilations[0], name=f"{name}_conv1")
    x = batch_norm(x, name=f"{name}_bn1")
    x = layers.ReLU(name=f"{name}_relu1")(x)
    x = convolution(x, filters, 3, dilation=dilations[1], name=f"{name}_conv2")
    return batch_norm(x, name=f"{name}_bn2")


def _add(
    shortcut: keras.KerasTensor, residual: keras.KerasTensor, *, name: str
) -> keras.KerasTensor:
    x = layers.Add(name=f"{name}_add")([shortcut, residual])
    return layers.ReLU(name=f"{name}_out")(x)


def convolution(
    x: keras.KerasTensor,
    filters: int,
    kernel_size: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    name: str,
) -> keras.KerasTensor:
    """A convolution without bias that pads `dilation * (kernel_size // 2)` zeros on *every* side.

    "same" does this too at stride 1. At stride 2 it pads less at the top and left than at the
    bottom and right, which is another network than the paper's: hence the explicit padding.
    """
    padding = "same"
    if stride > 1:
        padding = "valid"
        if kernel_size > 1:
            x = layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
    return layers.Conv2D(
        filters,
        kernel_size,
        strides=stride,
        padding=padding,
        dilation_rate=dilation,
        use_bias=False,  # the BatchNorm that follows has one
        # He et al. 2015 (arXiv 1502.01852), counted over the outputs as in the authors' code
        kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
        name=name,
    )(x)


def batch_norm(x: keras.KerasTensor, *, name: str) -> keras.KerasTensor:
    """BatchNorm with the settings of the published checkpoints, not Keras' 0.99 and 1e-3."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def mean_of_2x2(
    x: keras.KerasTensor, stride: int, dilation: int, *, name: str
) -> keras.KerasTensor:
    """The mean of each value, the next one below, right, and both; at an edge, of those within.

    "Next" is `dilation` away: the pool that goes with a convolution of this stride and dilation.
    """
    if dilation == 1:
        # "same" adds a row below and a column on the right, and leaves them out of the mean
        return layers.AveragePooling2D(2, strides=stride, padding="same", name=name)(x)
    # no pooling layer has holes; the last `dilation` rows and columns have no next one but theirs
    below = layers.Concatenate(1, name=f"{name}_below")([x[:, dilation:], x[:, -dilation:]])
    x = layers.Average(name=f"{name}_rows")([x, below])
    right = layers.Concatenate(2, name=f"{name}_right")([x[:, :, dilation:], x[:, :, -dilation:]])
    return layers.Average(name=name)([x, right])
