"""Random variations of an image, each a pure function of the image and a seed."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import tensorflow as tf

from keras_resnet18 import distributed
from keras_resnet18.data.stored import StoredImage
from keras_resnet18.preprocess import IMAGENET_MEAN, Preprocess
from keras_resnet18.recipe import Augment

_CROP_TRIES = 10
# How many random numbers each kind takes
_DRAWS = {"crop": 4 * _CROP_TRIES, "flip": 1, "shift": 2, "erase": 5, "jitter": 3}
_CROP_ASPECTS = (3 / 4, 4 / 3)
_ERASE_AREAS = (0.02, 0.33)  # Zhong et al. 2017, as are the aspects
_ERASE_ASPECTS = (0.3, 3.3)
_ERASE_COLOR = tuple(round(255 * mean) for mean in IMAGENET_MEAN)


def augment(
    image: StoredImage, seed: tf.Tensor, *, preprocess: Preprocess, settings: Augment
) -> tf.Tensor:
    """Makes a random training image, uint8 of shape (*preprocess.size, 3).

    Each kind of randomness has its own numbers, so that turning one off changes none of the others.

    Args:
        image: The image.
        seed: Two whole numbers, shape (2,). The same seed gives the same image.
        preprocess: Size, fit and interpolation of the result; its crop ratio is for evaluation.
        settings: Kinds of augmentation and their strengths.
    """
    # all at once: an op that draws takes 60 µs, for one number or a hundred
    numbers = tf.random.stateless_uniform((sum(_DRAWS.values()),), tf.cast(seed, tf.int64))
    random = dict(zip(_DRAWS, tf.split(numbers, [*_DRAWS.values()]), strict=True))
    if settings.resized_crop is not None:
        tries = tf.reshape(random["crop"], (4, _CROP_TRIES))
        pixels = _random_resized_crop(image, tries, preprocess, settings.resized_crop)
    else:
        whole = dataclasses.replace(preprocess, crop_ratio=1.0)
        pixels = whole.resize_and_crop(image.whole())
    pixels = tf.ensure_shape(pixels, (*preprocess.size, 3))
    if settings.flip:
        pixels = _random_flip(pixels, random["flip"][0])
    if settings.jitter:
        pixels = _random_jitter(pixels, random["jitter"], settings.jitter)
    if settings.shift:
        pixels = _random_shift(pixels, random["shift"], settings.shift)
    if settings.erase:
        pixels = _random_erase(pixels, random["erase"], settings.erase)
    return pixels


def _random_resized_crop(
    image: StoredImage, random: tf.Tensor, preprocess: Preprocess, areas: tuple[float, float]
) -> tf.Tensor:
    """The first of ten random windows that fits, else the largest allowed one in the middle.

    Width and height of a window differ from the proportions of the size by up to 4 to 3; with
    `fit="squash"` from those of the image, and with `fit="pad"` it may hold bars. This is
    torchvision's `RandomResizedCrop`, the numbers for its ten tries, shape (4, 10), drawn at once.
    """
    real = tf.cast(image.size, tf.float32)
    target = tf.constant(preprocess.size, tf.float32)
    canvas = real
    if preprocess.fit == "pad":
        bars = tf.floor((target * tf.reduce_max(real / target) - real) / 2)
        canvas = real + 2 * bars
    height, width = preprocess.size if preprocess.fit == "crop" else tf.unstack(canvas)
    shape = width / height
    area = tf.reduce_prod(canvas) * _between(areas, random[0])
    tries = _windows(area, _CROP_ASPECTS, random[1], shape)
    narrow, wide = _CROP_ASPECTS
    widest = tf.round(canvas[::-1] * (1 / (narrow * shape), wide * shape))
    windows = tf.concat([tries, tf.minimum(canvas, widest)[:, tf.newaxis]], 1)
    places = tf.concat([random[2:], [[0.5], [0.5]]], 1)
    fits = tf.reduce_all((windows >= 1) & (windows <= canvas[:, tf.newaxis]), 0)
    first = tf.argmax(fits)
    extent, place = windows[:, first], places[:, first]
    if preprocess.fit == "pad":
        return _padded_window(image, extent, place, bars, preprocess)
    box = tf.cast((tf.floor(place * (canvas - extent + 1)), extent), tf.int32)
    return image.window(box[0], box[1], preprocess.size, preprocess.interpolation)


def _padded_window(
    image: StoredImage,
    extent: tf.Tensor,
    place: tf.Tensor,
    bars: tf.Tensor,
    preprocess: Preprocess,
) -> tf.Tensor:
    """A window of the image between its bars; its middle lies on the image."""
    real = tf.cast(image.size, tf.float32)
    full = tf.constant(preprocess.size)
    target = tf.cast(full, tf.float32)
    least = tf.maximum(bars - extent / 2, 0)
    begin = tf.floor(least + place * (real + 2 * (bars - least) - extent + 1)) - bars
    start, end = tf.maximum(begin, 0), tf.minimum(begin + extent, real)
    size = tf.cast(tf.maximum(tf.round((end - start) * target / extent), 1), tf.int32)
    box = tf.cast((start, end - start), tf.int32)
    pixels = image.window(box[0], box[1], size, preprocess.interpolation)
    before = tf.cast(tf.round((start - begin) * target / extent), tf.int32)
    before = tf.minimum(before, full - size)
    bands = tf.stack([before, full - size - before], 1)
    return tf.pad(pixels, tf.concat([bands, [[0, 0]]], 0))


def _random_flip(image: tf.Tensor, random: tf.Tensor) -> tf.Tensor:
    # not tf.where, whose broadcast costs 1 ms at 224 pixels
    return tf.cond(random < 0.5, lambda: tf.reverse(image, [1]), lambda: image)


def _random_jitter(image: tf.Tensor, random: tf.Tensor, most: float) -> tf.Tensor:
    """Brightness, contrast and saturation, each times a factor of 1 - most to 1 + most."""
    factors = _between((1 - most, 1 + most), random)
    pixels = tf.minimum(tf.cast(image, tf.float32) * factors[0], 255.0)
    pixels = tf.image.adjust_contrast(pixels, factors[1])
    gray = tf.image.rgb_to_grayscale(pixels)
    pixels = gray + factors[2] * (pixels - gray)
    return tf.saturate_cast(tf.round(pixels), tf.uint8)


def _random_shift(image: tf.Tensor, random: tf.Tensor, shift: int) -> tf.Tensor:
    start = tf.cast(random * (2 * shift + 1), tf.int32)
    padded = tf.pad(image, ((shift, shift), (shift, shift), (0, 0)))
    return tf.slice(padded, tf.concat([start, [0]], 0), image.shape)


def _random_erase(image: tf.Tensor, random: tf.Tensor, probability: float) -> tf.Tensor:
    height, width = image.shape[:2]

    def erased() -> tf.Tensor:
        area = height * width * _between(_ERASE_AREAS, random[0])
        # the longest rectangles of the largest areas would stick out
        window = tf.minimum(_windows(area, _ERASE_ASPECTS, random[1]), (height, width))
        start = tf.floor(random[2:4] * ((height + 1, width + 1) - window))
        top, left = tf.unstack(tf.cast(start, tf.int32))
        bottom, right = tf.unstack(tf.cast(start + window, tf.int32))
        patch = tf.broadcast_to(
            tf.constant(_ERASE_COLOR, tf.uint8), (bottom - top, right - left, 3)
        )
        rows = image[top:bottom]
        band = tf.concat([rows[:, :left], patch, rows[:, right:]], 1)
        return tf.ensure_shape(tf.concat([image[:top], band, image[bottom:]], 0), image.shape)

    return tf.cond(random[4] < probability, erased, lambda: image)


def _windows(
    area: tf.Tensor, aspects: tuple[float, float], random: tf.Tensor, shape: Any = 1.0
) -> tf.Tensor:
    """Heights and widths of an area, stacked; width / height is log-uniform, times `shape`."""
    root = tf.exp(_between((math.log(aspects[0]) / 2, math.log(aspects[1]) / 2), random))
    side = tf.sqrt(area)
    root *= shape**0.5
    return tf.round(tf.stack([side / root, side * root]))


def _between(limits: tuple[float, float], random: tf.Tensor) -> tf.Tensor:
    return limits[0] + (limits[1] - limits[0]) * random


# Mixup and CutMix: each mixed batch is a pure function of its images and a seed.


def mix(
    images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, *, classes: int, settings: Augment
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes each image of a batch with another one of it.

    The other image is the one at the mirrored place, as in timm. Each pair has a fraction of its
    own. With both kinds on, each batch is of one kind, drawn evenly. Each of several processes
    mixes its `distributed.rows` of a batch, an even number, as they are mixed in the whole batch.

    Args:
        images: uint8, shape (batch, height, width, 3).
        labels: Class numbers, shape (batch,).
        seed: Two whole numbers, shape (2,). The same seed gives the same batch.
        classes: Number of classes.
        settings: With `mixup` or `cutmix` over 0, or both.

    Returns:
        Images as they came in, rounded to whole levels, and distributions over the classes,
        float32 of shape (batch, classes).
    """
    seeds = tf.unstack(tf.random.experimental.stateless_split(tf.cast(seed, tf.int64), 3))

    mixed = functools.partial(_mixup, images, seeds[0], settings.mixup)
    pasted = functools.partial(_cutmix, images, seeds[1], settings.cutmix)
    if settings.mixup and settings.cutmix:
        is_mixup = tf.random.stateless_uniform((), seeds[2]) < 0.5
        result, fraction = tf.cond(is_mixup, mixed, pasted)
    else:
        result, fraction = mixed() if settings.mixup else pasted()
    targets = tf.one_hot(labels, classes)
    fraction = fraction[:, tf.newaxis]
    targets = fraction * targets + (1 - fraction) * targets[::-1]
    return tf.ensure_shape(result, images.shape), targets


def _mixup(images: tf.Tensor, seed: tf.Tensor, alpha: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Weighted means of two images, and the weight of the first."""
    batch = images.shape[0] * distributed.count()
    fraction = tf.gather(_beta(batch, seed, alpha), distributed.rows(batch))
    weight = fraction[:, tf.newaxis, tf.newaxis, tf.newaxis]
    first = tf.cast(images, tf.float32)
    mean = weight * first + (1 - weight) * first[::-1]
    return tf.saturate_cast(tf.round(mean), images.dtype), fraction


def _cutmix(images: tf.Tensor, seed: tf.Tensor, alpha: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Images with a rectangle of another one, and the fraction of the area that is their own."""
    height, width = tf.unstack(tf.shape(images)[1:3])
    batch = images.shape[0] * distributed.count()
    rows = distributed.rows(batch)
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    side = tf.gather(tf.sqrt(1 - _beta(batch, seeds[0], alpha)), rows)
    center = tf.gather(tf.random.stateless_uniform((2, batch), seeds[1]), rows, axis=1)
    rows, row_count = _span(center[0], side, height)
    columns, column_count = _span(center[1], side, width)
    inside = rows[:, :, tf.newaxis, tf.newaxis] & columns[:, tf.newaxis, :, tf.newaxis]
    area = tf.cast(height * width, tf.float32)
    fraction = 1 - tf.cast(row_count * column_count, tf.float32) / area
    return tf.where(inside, images[::-1], images), fraction


def _span(center: tf.Tensor, side: tf.Tensor, length: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mask of each rectangle along one axis, cut at the image's edge, and its number of places."""
    length_ = tf.cast(length, tf.float32)
    start = tf.cast(tf.round(length_ * (center - side / 2)), tf.int32)
    end = tf.cast(tf.round(length_ * (center + side / 2)), tf.int32)
    start, end = tf.maximum(start, 0), tf.minimum(end, length)
    places = tf.range(length)
    inside = (places >= start[:, tf.newaxis]) & (places < end[:, tf.newaxis])
    return inside, end - start


def _beta(count: int, seed: tf.Tensor, alpha: float) -> tf.Tensor:
    """Draws of Beta(alpha, alpha), shape (count,)."""
    gammas = tf.random.stateless_gamma((2, count), seed, alpha)
    # both are 0 where alpha is small and float32 has no smaller number
    total = gammas[0] + gammas[1]
    return tf.where(total > 0, tf.math.divide_no_nan(gammas[0], total), 1.0)
