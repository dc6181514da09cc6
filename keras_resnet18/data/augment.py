"""Random variations of an image, each a pure function of the image and a seed."""

from __future__ import annotations

import math

import tensorflow as tf

from keras_resnet18.data.trivial_augment import trivial_augment as changed
from keras_resnet18.preprocess import IMAGENET_MEAN, Preprocess

_CROP_TRIES = 10
_CROP_ASPECTS = (3 / 4, 4 / 3)
_ERASE_AREAS = (0.02, 0.33)  # Zhong et al. 2017, as are the aspects
_ERASE_ASPECTS = (0.3, 3.3)
_ERASE_COLOUR = tuple(round(255 * mean) for mean in IMAGENET_MEAN)


def augment(
    image: tf.Tensor,
    seed: tf.Tensor,
    *,
    size: tuple[int, int],
    resized_crop: tuple[float, float] | None,
    shift: int,
    flip: bool,
    erase: float,
    trivial_augment: bool,
    jitter: float,
) -> tf.Tensor:
    """Makes a random training image.

    Each kind of randomness has a seed of its own, so turning one off changes none of the others.

    Args:
        image: uint8, shape (height, width, 3).
        seed: Two whole numbers, shape (2,). The same seed gives the same image.
        size: (height, width) of the result.
        resized_crop: Least and greatest part of the area, over 0 and up to 1, of a random window
            with an aspect of 3/4 to 4/3 that is resized to `size` (Szegedy et al. 2015). None
            resizes the image until it covers `size` and keeps the middle.
        shift: Moves by up to so many pixels each way, with black behind (He et al. 2015 use 4 for
            CIFAR); 0 is off.
        flip: Whether to mirror left and right, half of the time.
        erase: Probability, 0 to 1, of covering a rectangle of 2 to 33 % of the image with
            ImageNet's mean colour (Zhong et al. 2017); 0 is off.
        trivial_augment: Whether to apply TrivialAugment, before shift and erasure.
        jitter: Largest relative change of brightness, contrast and saturation, 0 to 1; 0 is off.

    Returns:
        uint8, shape (*size, 3).
    """
    seeds = tf.unstack(tf.random.experimental.stateless_split(tf.cast(seed, tf.int64), 6))
    if resized_crop is not None:
        image = _random_resized_crop(image, seeds[0], size, resized_crop)
    else:
        image = Preprocess(size=size, crop_ratio=1.0).resize_and_crop(image)
    image = tf.ensure_shape(image, (*size, 3))
    if flip:
        image = _random_flip(image, seeds[1])
    if trivial_augment:
        image = changed(image, seeds[4])
    if jitter:
        image = _random_jitter(image, seeds[5], jitter)
    if shift:
        image = _random_shift(image, seeds[2], shift)
    if erase:
        image = _random_erase(image, seeds[3], erase)
    return image


def _random_resized_crop(
    image: tf.Tensor, seed: tf.Tensor, size: tuple[int, int], areas: tuple[float, float]
) -> tf.Tensor:
    """The first of ten random windows that fits, else the greatest allowed one in the middle.

    torchvision's `RandomResizedCrop`, with its ten tries drawn at once.
    """
    whole = tf.cast(tf.shape(image)[:2], tf.float32)
    random = tf.random.stateless_uniform((4, _CROP_TRIES), seed)
    tries = _windows(tf.reduce_prod(whole) * _between(areas, random[0]), _CROP_ASPECTS, random[1])
    widest = tf.round(whole[::-1] * (1 / _CROP_ASPECTS[0], _CROP_ASPECTS[1]))
    windows = tf.concat([tries, tf.minimum(whole, widest)[:, tf.newaxis]], 1)
    places = tf.concat([random[2:], [[0.5], [0.5]]], 1)
    fits = tf.reduce_all((windows >= 1) & (windows <= whole[:, tf.newaxis]), 0)
    first = tf.argmax(fits)
    window = windows[:, first]
    start = tf.floor(places[:, first] * (whole - window + 1))
    cut = tf.slice(image, _whole(start, 0), _whole(window, 3))
    resized = tf.image.resize(cut, size, antialias=True)
    return tf.saturate_cast(tf.round(resized), tf.uint8)


def _random_flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    def mirrored() -> tf.Tensor:
        return tf.reverse(image, [1])

    # not tf.where, whose broadcast costs 1 ms at 224 pixels
    return tf.cond(tf.random.stateless_uniform((), seed) < 0.5, mirrored, lambda: image)


def _random_jitter(image: tf.Tensor, seed: tf.Tensor, most: float) -> tf.Tensor:
    """Brightness, contrast and saturation, each times a factor of 1 - most to 1 + most."""
    factors = tf.random.stateless_uniform((3,), seed, 1 - most, 1 + most)
    pixels = tf.minimum(tf.cast(image, tf.float32) * factors[0], 255.0)
    pixels = tf.image.adjust_contrast(pixels, factors[1])
    grey = tf.image.rgb_to_grayscale(pixels)
    pixels = grey + factors[2] * (pixels - grey)
    return tf.saturate_cast(tf.round(pixels), tf.uint8)


def _random_shift(image: tf.Tensor, seed: tf.Tensor, shift: int) -> tf.Tensor:
    start = tf.random.stateless_uniform((2,), seed, maxval=2 * shift + 1, dtype=tf.int32)
    padded = tf.pad(image, ((shift, shift), (shift, shift), (0, 0)))
    return tf.slice(padded, tf.concat([start, [0]], 0), image.shape)


def _random_erase(image: tf.Tensor, seed: tf.Tensor, probability: float) -> tf.Tensor:
    height, width = image.shape[:2]
    random = tf.random.stateless_uniform((5,), seed)

    def erased() -> tf.Tensor:
        area = height * width * _between(_ERASE_AREAS, random[0])
        # the longest of them stick out a little where the area is greatest, and are cut there
        window = tf.minimum(_windows(area, _ERASE_ASPECTS, random[1]), (height, width))
        start = tf.floor(random[2:4] * ((height + 1, width + 1) - window))
        top, left = tf.unstack(tf.cast(start, tf.int32))
        bottom, right = tf.unstack(tf.cast(start + window, tf.int32))
        patch = tf.broadcast_to(
            tf.constant(_ERASE_COLOUR, tf.uint8), (bottom - top, right - left, 3)
        )
        rows = image[top:bottom]
        band = tf.concat([rows[:, :left], patch, rows[:, right:]], 1)
        return tf.ensure_shape(tf.concat([image[:top], band, image[bottom:]], 0), image.shape)

    return tf.cond(random[4] < probability, erased, lambda: image)


def _windows(area: tf.Tensor, aspects: tuple[float, float], random: tf.Tensor) -> tf.Tensor:
    """Heights and widths of an area, stacked; aspects, width / height, are log-uniform."""
    root = tf.exp(_between((math.log(aspects[0]) / 2, math.log(aspects[1]) / 2), random))
    side = tf.sqrt(area)
    return tf.round(tf.stack([side / root, side * root]))


def _between(limits: tuple[float, float], random: tf.Tensor) -> tf.Tensor:
    return limits[0] + (limits[1] - limits[0]) * random


def _whole(place: tf.Tensor, channel: int) -> tf.Tensor:
    return tf.concat([tf.cast(place, tf.int32), [channel]], 0)
