"""The first convolution rearranged for int8 kernels, which read channels four or eight at a time.

Three channels leave most of such a read empty. Every 2×2 pixels become one of twelve channels, and
the 7×7 kernel of stride 2 becomes a 4×4 kernel of stride 1: the same products and sums, with more
zeros among them.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

_PAD, _CONV = "stem_conv_pad", "stem_conv"  # as our builders name them


def with_packed_stem(model: keras.Model) -> keras.Model:
    """The same network with a rearranged stem; `model` itself if its stem is another.

    The layers `stem_conv_pad` and `stem_conv` of a `build_resnet18`, 7×7 with stride 2, are
    rearranged, if height and width are even. All other layers are the model's own.
    """
    layers = {layer.name: layer for layer in model.layers}
    if not _is_paper_stem(layers.get(_PAD), layers.get(_CONV)):
        return model

    def packed(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer.name == _PAD:
            return keras.layers.Lambda(_space_to_depth, name=_PAD)
        if layer.name == _CONV:
            changes = {"kernel_size": 4, "strides": 1}
            return type(layer).from_config({**layer.get_config(), **changes})
        return layer  # shared with the model

    kernel, *bias = layers[_CONV].get_weights()
    twin = keras.models.clone_model(model, clone_function=packed)
    twin.get_layer(_CONV).set_weights([_pack(kernel), *bias])
    return twin


def _is_paper_stem(pad: Any, conv: Any) -> bool:
    return (
        isinstance(pad, keras.layers.ZeroPadding2D)
        and isinstance(conv, keras.layers.Conv2D)
        and pad.padding == ((3, 3), (3, 3))
        and conv.kernel_size == (7, 7)
        and conv.strides == (2, 2)
        and conv.padding == "valid"
        and conv.groups == 1
        and conv.input is pad.output
        and all(side is not None and side % 2 == 0 for side in pad.input.shape[1:3])
    )


def _pack(kernel: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(7, 7, c, filters) to (4, 4, 4 · c, filters)."""
    kernel = np.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
    *_, channels, filters = kernel.shape
    blocks = kernel.reshape(4, 2, 4, 2, channels, filters).transpose(0, 2, 1, 3, 4, 5)
    return blocks.reshape(4, 4, 4 * channels, filters)


def _space_to_depth(images: Any) -> Any:
    """(batch, height, width, c) to (batch, height / 2 + 3, width / 2 + 3, 4 · c), padded by 0."""
    # a 7×7 kernel begins 3 pixels before its stride: 2 of the new ones, and half of one unused
    return tf.pad(tf.nn.space_to_depth(images, 2), ((0, 0), (2, 1), (2, 1), (0, 0)))
