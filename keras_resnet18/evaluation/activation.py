"""Class activation maps (Zhou et al. 2016, arXiv:1512.04150)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_SMALLEST_SIDE = 3  # of a map; a smaller one says nothing about the place


def activation_maps(
    model: Any, pixels: npt.NDArray[np.uint8], classes: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32] | None:
    """Where in each image the network finds a class: the last maps times the class's weights.

    With a global average and one dense layer this is Grad-CAM up to a factor, without a gradient.

    Args:
        model: A `keras.Model` with the layers `head_pool` and `predictions`.
        pixels: uint8 (n, height, width, 3).
        classes: A class for each image, (n,).

    Returns:
        float32 (n, map height, map width), 0 where nothing speaks for the class, 1 at most; None
        for a network with another head, or with maps smaller than 3 by 3.
    """
    import keras

    maps = model.get_layer("head_pool").input
    kernel = keras.ops.convert_to_numpy(model.get_layer("predictions").kernel)
    if (
        len(maps.shape) != 4
        or maps.shape[-1] != len(kernel)
        or min(maps.shape[1:3]) < (_SMALLEST_SIDE)
    ):
        return None
    features = keras.Model(model.inputs[0], maps)(pixels, training=False)
    features = keras.ops.convert_to_numpy(keras.ops.cast(features, "float32"))
    found = np.einsum("nhwc,cn->nhw", features, kernel[:, classes]).clip(0)
    highest: npt.NDArray[np.float32] = found.max((1, 2), keepdims=True)
    scaled: npt.NDArray[np.float32] = np.divide(
        found, highest, out=np.zeros_like(found), where=highest > 0
    )
    return scaled
