"""`StoredImage`: an image whose pixels are decoded when they are asked for, inside a graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

_JPEG = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}  # the arithmetic of Pillow
_SHRINKS = (1, 2, 4, 8)  # what a JPEG decoder can divide the sides by for next to nothing


@dataclasses.dataclass(frozen=True)
class StoredImage:
    """An upright RGB image in a `tf.data` graph.

    Attributes:
        size: int32 tensor of shape (2,), height and width.
        whole: Returns the image, uint8 of shape (height, width, 3).
        window: `window(start, extent, size, interpolation)` returns a window of the image, resized
            to `size`: uint8 of shape (*size, 3). Start and extent are int32 tensors of shape (2,).
            For training: the decoder shrinks a JPEG, which is then resized without filter.
    """

    size: tf.Tensor
    whole: Callable[[], tf.Tensor]
    window: Callable[[tf.Tensor, tf.Tensor, Any, str], tf.Tensor]


def decoded_image(pixels: tf.Tensor) -> StoredImage:
    """Makes a `StoredImage` of decoded pixels, uint8 of shape (height, width, 3)."""

    def window(start: tf.Tensor, extent: tf.Tensor, size: Any, method: str) -> Any:
        cut = tf.slice(pixels, tf.concat([start, [0]], 0), tf.concat([extent, [3]], 0))
        return _whole_levels(tf.image.resize(cut, size, method, antialias=True), method)

    return StoredImage(tf.shape(pixels)[:2], lambda: pixels, window)


def encoded_image(
    data: tf.Tensor, is_plain: tf.Tensor, decode: Callable[[Any], Any], argument: tf.Tensor
) -> StoredImage:
    """Makes a `StoredImage` that TensorFlow decodes if it is a plain JPEG, and Python otherwise.

    Both give the same pixels. A JPEG that is cut short goes to Python, whose error names it.

    Args:
        data: The JPEG, a string scalar; anything if it is not plain.
        is_plain: Whether it is plain (`files.Header`), a boolean scalar.
        decode: Function of the value of `argument` to a uint8 array of shape (height, width, 3).
        argument: Argument of `decode`.
    """
    tail = tf.strings.substr(data, tf.maximum(tf.strings.length(data) - 2, 0), 2)
    native = is_plain & (tail == b"\xff\xd9")  # the end of a whole JPEG

    def decoded() -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.numpy_function(decode, [argument], tf.uint8)
        return image, tf.shape(image)[:2]

    nothing = tf.zeros((0, 0, 3), tf.uint8)
    other, size = tf.cond(native, lambda: (nothing, tf.image.extract_jpeg_shape(data)[:2]), decoded)
    pixels = decoded_image(tf.ensure_shape(other, (None, None, 3)))

    def whole() -> tf.Tensor:
        image = tf.cond(native, lambda: tf.io.decode_jpeg(data, **_JPEG), pixels.whole)
        return tf.ensure_shape(image, (None, None, 3))

    def window(start: tf.Tensor, extent: tf.Tensor, size: Any, method: str) -> Any:
        def jpeg(shrink: int) -> Any:
            # the decoder rounds sides up: a window of whole pixels after shrinking stays inside
            box = tf.concat([start // shrink, tf.maximum(extent // shrink, 1)], 0)
            cut = tf.image.decode_and_crop_jpeg(data, box, ratio=shrink, **_JPEG)
            # a cast is cheaper than what the resizing does to whole numbers
            resized = tf.image.resize(tf.cast(cut, tf.float32), size, method)
            return _whole_levels(resized, method)

        times = tf.reduce_min(extent // size)
        choice = tf.reduce_sum(tf.cast(times >= _SHRINKS[1:], tf.int32))
        branches = [lambda shrink=shrink: jpeg(shrink) for shrink in _SHRINKS]
        return tf.cond(
            native,
            lambda: tf.switch_case(choice, branches),
            lambda: pixels.window(start, extent, size, method),
        )

    return StoredImage(size, whole, window)


def _whole_levels(pixels: tf.Tensor, interpolation: str) -> tf.Tensor:
    """Pixels as uint8, rounded."""
    if interpolation == "bilinear":  # which stays between the levels that it is made of
        return tf.cast(pixels + 0.5, tf.uint8)
    return tf.saturate_cast(tf.round(pixels), tf.uint8)
