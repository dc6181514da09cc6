"""TrivialAugment: one random change of an image, of random strength (Müller & Hutter 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

# Strengths at their highest, as in torchvision's TrivialAugmentWide.
_MOST_SHEAR = 0.99
_MOST_SHIFT = 32.0  # pixels
_MOST_DEGREES = 135.0
_MOST_ENHANCEMENT = 0.99
_FEWEST_BITS = 2
_STRENGTHS = 31  # evenly spaced, from nothing to the highest

# ITU-R 601, as Pillow's mode L has it.
_LUMA = (0.299, 0.587, 0.114)


# From an image, a strength of 0 to 1, and the same with a random sign.
Change = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


def trivial_augment(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Changes an image by one of 14 operations at one of 31 strengths, all equally likely.

    Identity, shear and shift along each axis, rotation, brightness, colour, contrast, sharpness,
    posterise, solarise, autocontrast and equalise, each strength up or down where it has a
    direction. What comes in from outside of the image is black.

    Args:
        image: uint8, shape (height, width, 3).
        seed: Two whole numbers, shape (2,). The same seed gives the same image.

    Returns:
        uint8, of the same shape.
    """
    seed = tf.cast(seed, tf.int64)
    draws = tf.random.stateless_uniform((3,), seed)
    number = tf.cast(draws[0] * len(_OPERATIONS), tf.int32)
    strength = tf.floor(draws[1] * _STRENGTHS) / (_STRENGTHS - 1)
    signed = tf.where(draws[2] < 0.5, -strength, strength)

    def operation(change: Change) -> Callable[[], tf.Tensor]:
        return lambda: tf.ensure_shape(change(image, strength, signed), image.shape)

    return tf.switch_case(number, [operation(change) for change in _OPERATIONS])


def _identity(image: tf.Tensor, strength: tf.Tensor, signed: tf.Tensor) -> tf.Tensor:
    return image


def _shear_x(image: tf.Tensor, strength: tf.Tensor, signed: tf.Tensor) -> tf.Tensor:
    return _affine(image, [[1.0, _MOST_SHEAR * signed], [0.0, 1.0]])


def _shear_y(image: tf.Tensor, strength: tf.Tensor, signed: tf.Tensor) -> tf.Tensor:
    return _affine(image, [[1.0, 0.0], [_MOST_SHEAR * signed, 1.0]])


def _shift_x(image: tf.Tensor, strength: tf.Tensor, signed: tf.Tensor) -> tf.Tensor:
    return _affine(image, [[1.0, 0.0], [0.0, 1.0]], (_MOST_SHIFT * signed, 0.0))


def _shift_y(image: tf.Tensor, strength: tf.Tensor, signed: tf.Tensor) -> tf.Tensor:
    return _affine(image, [[1.0, 0.0], [0.0, 1.0]], (0.0, _MOST_SHIFT * signed))


def _rotate(image: tf.Tensor, strength: tf.Tensor, signed: tf.Tensor) -> tf.Tensor:
    angle = math.radians(_MOST_DEGREES) * signed
    cosine, sine = tf.cos(angle), tf.sin(angle)
    return _affine(image, [[cosine, -sine], [sine, cosine]])


def _brightness(image: tf.Tensor, strength: tf.Tensor, signed: tf.Tensor) -> tf.Tensor:
    return _blend(image, tf.zeros_like(image), signed)


def _colour(image: tf.Tensor, strength: tf.Tensor, signed: tf.Tensor) -> tf.Tensor:
    grey = tf.tensordot(tf.cast(image, tf.float32), tf.constant(_LUMA), 1)
    return _blend(image, grey[..., tf.newaxis], signed)


def _contrast(image: tf.Tensor, strength: tf.Tensor, signed: tf.Tensor) -> tf.Tensor:
    grey = tf.tensordot(tf.cast(image, tf.float32), tf.constant(_LUMA), 1)
    return _blend(image, tf.reduce_mean(grey), signed)


def _sharpness(image: tf.Tensor, strength: tf.Tensor, signed: tf.Tensor) -> tf.Tensor:
    """Against the image smoothed by 3×3, whose border stays as it is."""
    kernel = tf.constant([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    kernel = tf.tile(kernel[:, :, tf.newaxis, tf.newaxis], [1, 1, 3, 1])
    pixels = tf.cast(image, tf.float32)
    smooth = tf.nn.depthwise_conv2d(pixels[tf.newaxis], kernel, [1, 1, 1, 1], "SAME")[0]
    rows, columns = tf.range(tf.shape(image)[0]), tf.range(tf.shape(image)[1])
    inside = ((rows > 0) & (rows < rows[-1]))[:, tf.newaxis]
    inside &= (columns > 0) & (columns < columns[-1])
    return _blend(image, tf.where(inside[..., tf.newaxis], smooth, pixels), signed)


def _posterise(image: tf.Tensor, strength: tf.Tensor, signed: tf.Tensor) -> tf.Tensor:
    dropped = tf.cast(tf.round((8 - _FEWEST_BITS) * strength), tf.uint8)
    return tf.bitwise.left_shift(tf.bitwise.right_shift(image, dropped), dropped)


def _solarise(image: tf.Tensor, strength: tf.Tensor, signed: tf.Tensor) -> tf.Tensor:
    limit = 255 * (1 - strength)
    return tf.where(tf.cast(image, tf.float32) < limit, image, 255 - image)


def _autocontrast(image: tf.Tensor, strength: tf.Tensor, signed: tf.Tensor) -> tf.Tensor:
    pixels = tf.cast(image, tf.float32)
    low = tf.reduce_min(pixels, (0, 1))
    high = tf.reduce_max(pixels, (0, 1))
    stretched = (pixels - low) * 255 / tf.maximum(high - low, 1)
    return tf.saturate_cast(tf.round(tf.where(high > low, stretched, pixels)), tf.uint8)


def _equalise(image: tf.Tensor, strength: tf.Tensor, signed: tf.Tensor) -> tf.Tensor:
    """Each channel's levels spread evenly, as Pillow's `ImageOps.equalize` does."""
    return tf.stack([_equalised(image[..., channel]) for channel in range(3)], -1)


def _equalised(channel: tf.Tensor) -> tf.Tensor:
    levels = tf.cast(channel, tf.int32)
    counts = tf.math.bincount(tf.reshape(levels, [-1]), minlength=256, maxlength=256)
    highest = tf.reduce_max(levels)
    step = (tf.reduce_sum(counts) - counts[highest]) // 255
    below = tf.cumsum(counts, exclusive=True)
    spread = tf.clip_by_value((below + step // 2) // tf.maximum(step, 1), 0, 255)
    table = tf.where(step > 0, spread, tf.range(256))
    return tf.cast(tf.gather(table, levels), tf.uint8)


_OPERATIONS = (
    _identity,
    _shear_x,
    _shear_y,
    _shift_x,
    _shift_y,
    _rotate,
    _brightness,
    _colour,
    _contrast,
    _sharpness,
    _posterise,
    _solarise,
    _autocontrast,
    _equalise,
)


def _blend(image: tf.Tensor, other: tf.Tensor, signed: tf.Tensor) -> tf.Tensor:
    """The image moved away from another one, or towards it where the strength is negative."""
    other = tf.cast(other, tf.float32)
    factor = 1 + _MOST_ENHANCEMENT * signed
    mixed = other + factor * (tf.cast(image, tf.float32) - other)
    return tf.saturate_cast(tf.round(mixed), tf.uint8)


def _affine(
    image: tf.Tensor, matrix: list[list[tf.Tensor]], shift: tuple[Any, Any] = (0.0, 0.0)
) -> tf.Tensor:
    """The image seen through a linear map about its middle, then moved; nearest neighbours."""
    (a, b), (c, d) = matrix
    middle = (tf.cast(tf.shape(image)[:2], tf.float32) - 1) / 2
    x, y = middle[1], middle[0]
    # from a place of the result to one of the image
    row = [a, b, x - a * (x + shift[0]) - b * (y + shift[1])]
    column = [c, d, y - c * (x + shift[0]) - d * (y + shift[1])]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis],
        transforms=tf.cast(tf.stack([*row, *column, 0.0, 0.0]), tf.float32)[tf.newaxis],
        output_shape=tf.shape(image)[:2],
        interpolation="NEAREST",
        fill_mode="CONSTANT",
        fill_value=0.0,
    )[0]
