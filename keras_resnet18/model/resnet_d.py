"""ResNet-D of He et al. 2018, "Bag of Tricks" (arXiv 1812.01187), figure 2: `variant="d"`.

Two of its changes apply to basic blocks: a stem of three 3×3 convolutions, and shortcuts that
average 2×2 values before they project them, so that they skip no value.
"""

from __future__ import annotations

import keras
from keras import layers

from keras_resnet18.model.blocks import add, batch_norm, convolution, projection, residual


def deep_stem(x: keras.KerasTensor) -> keras.KerasTensor:
    """Three 3×3 convolutions with the stride and about the field of one 7×7 convolution."""
    for number, filters, stride in ((1, 32, 2), (2, 32, 1), (3, 64, 1)):
        x = convolution(x, filters, 3, stride=stride, name=f"stem_conv{number}")
        x = batch_norm(x, name=f"stem_bn{number}")
        x = layers.ReLU(name=f"stem_relu{number}")(x)
    return x


def averaging_block(x: keras.KerasTensor, filters: int, *, name: str) -> keras.KerasTensor:
    """`conv_block` of stride 2 whose shortcut averages before it projects."""
    # "same" pads an odd map below and on the right, and leaves the padding out of the mean
    mean = layers.AveragePooling2D(2, padding="same", name=f"{name}_shortcut_pool")(x)
    shortcut = projection(mean, filters, stride=1, name=name)
    return add(shortcut, residual(x, filters, stride=2, name=name), name=name)
