"""Random variations of an image, each a pure function of the image and a seed."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from keras_resnet18.data.stored import StoredImage
from keras_resnet18.data.trivial_augment import trivial_augment as changed
from keras_resnet18.preprocess import IMAGENET_MEAN, Preprocess

_CROP_TRIES = 10
_CROP_ASPECTS = (3 / 4, 4 / 3)
_ERASE_AREAS = (0.02, 0.33)  # Zhong et al. 2017, as are the aspects
_ERASE_ASPECTS = (0.3, 3.3)
_ERASE_COLOUR = tuple(round(255 * mean) for mean in IMAGENET_MEAN)


def augment(
    image: StoredImage,
    seed: tf.Tensor,
    *,
    preprocess: Preprocess,
    resized_crop: tuple[float, float] | None,
    shift: int,
    flip: bool,
    erase: float,
    trivial_augment: bool,
    jitter: float,
) -> tf.Tensor:
    """Makes a random training image.

    Each kind of randomness has its own seed, so that turning one off changes none of the others.

    Args:
        image: The image.
        seed: Two whole numbers, shape (2,). The same seed gives the same image.
        preprocess: Size, fit and interpolation of the result; its crop ratio is for evaluation.
        resized_crop: Smallest and largest fraction of the area, over 0 and up to 1, of a random
            window that is resized to the size (Szegedy et al. 2015). Its width and height differ
            from the proportions of the size by up to 4 to 3; with `fit="squash"` from those of the
            image, and with `fit="pad"` it may hold bars. None fits the whole image, as in
            evaluation with a crop ratio of 1.
        shift: Largest distance in pixels to move the image by in each direction, with black behind
            (He et al. 2015 use 4 for CIFAR); 0 is off.
        flip: Whether to mirror left and right half of the time.
        erase: Probability, 0 to 1, of covering a rectangle of 2 to 33 % of the image with
            ImageNet's mean colour (Zhong et al. 2017); 0 is off.
        trivial_augment: Whether to apply TrivialAugment, before shift and erasure.
        jitter: Largest relative change of brightness, contrast and saturation, 0 to 1; 0 is off.

    Returns:
        uint8, shape (*preprocess.size, 3).
    """
    seeds = tf.unstack(tf.random.experimental.stateless_split(tf.cast(seed, tf.int64), 6))
    if resized_crop is not None:
        pixels = _random_resized_crop(image, seeds[0], preprocess, resized_crop)
    else:
        whole = dataclasses.replace(preprocess, crop_ratio=1.0)
        pixels = whole.resize_and_crop(image.whole())
    pixels = tf.ensure_shape(pixels, (*preprocess.size, 3))
    if flip:
        pixels = _random_flip(pixels, seeds[1])
    if trivial_augment:
        pixels = changed(pixels, seeds[4])
    if jitter:
        pixels = _random_jitter(pixels, seeds[5], jitter)
    if shift:
        pixels = _random_shift(pixels, seeds[2], shift)
    if erase:
        pixels = _random_erase(pixels, seeds[3], erase)
    return pixels


def _random_resized_crop(
    image: StoredImage, seed: tf.Tensor, preprocess: Preprocess, areas: tuple[float, float]
) -> tf.Tensor:
    """The first of ten random windows that fits, else the largest allowed one in the middle.

    torchvision's `RandomResizedCrop` with its ten tries drawn at once.
    """
    real = tf.cast(image.size, tf.float32)
    target = tf.constant(preprocess.size, tf.float32)
    bars = tf.zeros(2)
    if preprocess.fit == "pad":
        bars = tf.floor((target * tf.reduce_max(real / target) - real) / 2)
    canvas = real + 2 * bars
    shape = target if preprocess.fit == "crop" else canvas
    aspects = tuple(aspect * shape[1] / shape[0] for aspect in _CROP_ASPECTS)
    random = tf.random.stateless_uniform((4, _CROP_TRIES), seed)
    tries = _windows(tf.reduce_prod(canvas) * _between(areas, random[0]), aspects, random[1])
    widest = tf.round(canvas[::-1] * tf.stack([1 / aspects[0], aspects[1]]))
    windows = tf.concat([tries, tf.minimum(canvas, widest)[:, tf.newaxis]], 1)
    places = tf.concat([random[2:], [[0.5], [0.5]]], 1)
    fits = tf.reduce_all((windows >= 1) & (windows <= canvas[:, tf.newaxis]), 0)
    first = tf.argmax(fits)
    extent = windows[:, first]
    # the middle of a window lies on the image, not on a bar
    least = tf.maximum(bars - extent / 2, 0)
    begin = tf.floor(least + places[:, first] * (canvas - extent - 2 * least + 1)) - bars
    start, end = tf.maximum(begin, 0), tf.minimum(begin + extent, real)
    full = size = tf.constant(preprocess.size)
    if preprocess.fit == "pad":
        size = tf.cast(tf.maximum(tf.round((end - start) * target / extent), 1), tf.int32)
    whole = tf.cast((start, end - start), tf.int32)
    resized = image.window(whole[0], whole[1], size, preprocess.interpolation)
    pixels = tf.saturate_cast(tf.round(resized), tf.uint8)
    if preprocess.fit == "pad":
        before = tf.cast(tf.round((start - begin) * target / extent), tf.int32)
        before = tf.minimum(before, full - size)
        bands = tf.stack([before, full - size - before], 1)
        pixels = tf.pad(pixels, tf.concat([bands, [[0, 0]]], 0))
    return pixels


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
        # the longest rectangles of the largest areas would stick out
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
    root = tf.exp(_between((tf.math.log(aspects[0]) / 2, tf.math.log(aspects[1]) / 2), random))
    side = tf.sqrt(area)
    return tf.round(tf.stack([side / root, side * root]))


def _between(limits: tuple[float, float], random: tf.Tensor) -> tf.Tensor:
    return limits[0] + (limits[1] - limits[0]) * random
