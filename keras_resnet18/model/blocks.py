"""Residual blocks of He et al. 2015, "Deep Residual Learning" (arXiv 1512.03385), figure 2.

    x ──┬── 3×3 conv ── BN ── ReLU ── 3×3 conv ── BN ──(+)── ReLU ──▶
        └───────────────── shortcut ───────────────────┘

The block adds its input to the output of its two convolutions, *before* the last ReLU. Where the
shape stays the same, the shortcut is the input itself (`identity_block`). Where the shape changes,
a 1×1 convolution projects the input to the new shape (`conv_block`). `plain_block` is the same
block without a shortcut, for the plain networks of the paper's comparison.
"""

from __future__ import annotations

import keras
from keras import layers

from keras_resnet18.errors import InputError


def identity_block(x: keras.KerasTensor, filters: int, *, name: str) -> keras.KerasTensor:
    """Residual block that keeps the shape of its input: the shortcut is the input.

    Args:
        x: Tensor of shape (batch, height, width, filters).
        filters: Number of filters of both convolutions.
        name: Prefix of the layer names.

    Returns:
        Tensor of the same shape as `x`.

    Raises:
        InputError: If `x` does not have `filters` channels.
    """
    if x.shape[-1] != filters:
        raise InputError(
            f"an identity block keeps the number of channels, so filters must be {x.shape[-1]} "
            f"here (conv_block changes it). Received: filters={filters}"
        )
    return add(x, residual(x, filters, stride=1, name=name), name=name)


def conv_block(
    x: keras.KerasTensor, filters: int, *, stride: int = 2, name: str
) -> keras.KerasTensor:
    """Residual block that changes the shape: the shortcut is a 1×1 convolution and BatchNorm.

    Args:
        x: Tensor of shape (batch, height, width, channels).
        filters: Number of filters of all three convolutions.
        stride: Stride of the first 3×3 convolution and of the shortcut.
        name: Prefix of the layer names.

    Returns:
        Tensor of shape (batch, ⌈height / stride⌉, ⌈width / stride⌉, filters).
    """
    shortcut = projection(x, filters, stride=stride, name=name)
    return add(shortcut, residual(x, filters, stride=stride, name=name), name=name)


def plain_block(
    x: keras.KerasTensor, filters: int, *, stride: int = 1, name: str
) -> keras.KerasTensor:
    """Block of two convolutions without a shortcut; arguments and result as for `conv_block`."""
    x = residual(x, filters, stride=stride, name=name)
    return layers.ReLU(name=f"{name}_out")(x)


def residual(x: keras.KerasTensor, filters: int, *, stride: int, name: str) -> keras.KerasTensor:
    """The two 3×3 convolutions, which learn what to add to the shortcut."""
    x = convolution(x, filters, 3, stride=stride, name=f"{name}_conv1")
    x = batch_norm(x, name=f"{name}_bn1")
    x = layers.ReLU(name=f"{name}_relu1")(x)
    x = convolution(x, filters, 3, name=f"{name}_conv2")
    return batch_norm(x, name=f"{name}_bn2")


def projection(x: keras.KerasTensor, filters: int, *, stride: int, name: str) -> keras.KerasTensor:
    """The shortcut where the shape changes (option B in the paper)."""
    x = convolution(x, filters, 1, stride=stride, name=f"{name}_shortcut_conv")
    return batch_norm(x, name=f"{name}_shortcut_bn")


def add(
    shortcut: keras.KerasTensor, residual: keras.KerasTensor, *, name: str
) -> keras.KerasTensor:
    """Adds the residual to the shortcut and applies the last ReLU."""
    x = layers.Add(name=f"{name}_add")([shortcut, residual])
    return layers.ReLU(name=f"{name}_out")(x)


def convolution(
    x: keras.KerasTensor, filters: int, kernel_size: int, *, stride: int = 1, name: str
) -> keras.KerasTensor:
    """Convolution without bias that pads `kernel_size // 2` zeros on *every* side.

    Keras' "same" does so at stride 1. At stride 2 it pads less at the top and left than at the
    bottom and right, which is a different network from the paper's, so the padding is explicit.
    """
    padding = "same" if stride == 1 else "valid"
    if stride > 1 and kernel_size > 1:
        x = layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
    return layers.Conv2D(
        filters,
        kernel_size,
        strides=stride,
        padding=padding,
        use_bias=False,  # the BatchNorm that follows has one
        # He et al. 2015 (arXiv 1502.01852), by fan-out as in the authors' code
        kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
        name=name,
    )(x)


def batch_norm(x: keras.KerasTensor, *, name: str) -> keras.KerasTensor:
    """BatchNorm with the settings of published checkpoints, not Keras' defaults 0.99 and 1e-3."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)
