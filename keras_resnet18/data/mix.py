"""Mixup and CutMix: each mixed batch is a pure function of its images and a seed."""

from __future__ import annotations

import tensorflow as tf

from keras_resnet18.processes import ALONE, Processes


def mix(
    images: tf.Tensor,
    labels: tf.Tensor,
    seed: tf.Tensor,
    *,
    classes: int,
    mixup: float,
    cutmix: float,
    processes: Processes = ALONE,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes each image of a batch with another one of it.

    The other image is the one at the mirrored place, as in timm. Each pair has a fraction of its
    own. With both kinds on, each batch is of one kind, drawn evenly.

    Args:
        images: uint8, shape (batch, height, width, 3).
        labels: Class numbers, shape (batch,).
        seed: Two whole numbers, shape (2,). The same seed gives the same batch.
        classes: Number of classes.
        mixup: Alpha of the Beta distribution of the fraction in mixup (Zhang et al. 2018), such as
            0.2; 0 is off.
        cutmix: The same in CutMix (Yun et al. 2019), such as 1.0; 0 is off.
        processes: Those that share the batch: the images are this one's rows of it, an even number,
            and are mixed as in the whole batch.

    Returns:
        Images as they came in, rounded to whole levels, and distributions over the classes,
        float32 of shape (batch, classes).
    """
    seeds = tf.unstack(tf.random.experimental.stateless_split(tf.cast(seed, tf.int64), 3))

    def mixed() -> tuple[tf.Tensor, tf.Tensor]:
        return _mixup(images, seeds[0], mixup, processes)

    def pasted() -> tuple[tf.Tensor, tf.Tensor]:
        return _cutmix(images, seeds[1], cutmix, processes)

    if mixup and cutmix:
        is_mixup = tf.random.stateless_uniform((), seeds[2]) < 0.5
        result, fraction = tf.cond(is_mixup, mixed, pasted)
    else:
        result, fraction = mixed() if mixup else pasted()
    targets = tf.one_hot(labels, classes)
    fraction = fraction[:, tf.newaxis]
    targets = fraction * targets + (1 - fraction) * targets[::-1]
    return tf.ensure_shape(result, images.shape), targets


def _mixup(
    images: tf.Tensor, seed: tf.Tensor, alpha: float, processes: Processes
) -> tuple[tf.Tensor, tf.Tensor]:
    """Weighted means of two images, and the weight of the first."""
    batch = images.shape[0] * processes.count
    fraction = tf.gather(_beta(batch, seed, alpha), processes.rows(batch))
    weight = fraction[:, tf.newaxis, tf.newaxis, tf.newaxis]
    first = tf.cast(images, tf.float32)
    mean = weight * first + (1 - weight) * first[::-1]
    return tf.saturate_cast(tf.round(mean), images.dtype), fraction


def _cutmix(
    images: tf.Tensor, seed: tf.Tensor, alpha: float, processes: Processes
) -> tuple[tf.Tensor, tf.Tensor]:
    """Images with a rectangle of another one, and the fraction of the area that is their own."""
    height, width = tf.unstack(tf.shape(images)[1:3])
    batch = images.shape[0] * processes.count
    rows = processes.rows(batch)
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    side = tf.gather(tf.sqrt(1 - _beta(batch, seeds[0], alpha)), rows)
    centre = tf.gather(tf.random.stateless_uniform((2, batch), seeds[1]), rows, axis=1)
    rows, row_count = _span(centre[0], side, height)
    columns, column_count = _span(centre[1], side, width)
    inside = rows[:, :, tf.newaxis, tf.newaxis] & columns[:, tf.newaxis, :, tf.newaxis]
    area = tf.cast(height * width, tf.float32)
    fraction = 1 - tf.cast(row_count * column_count, tf.float32) / area
    return tf.where(inside, images[::-1], images), fraction


def _span(centre: tf.Tensor, side: tf.Tensor, length: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Which places along one axis lie in each rectangle, and how many; cut at the image's edge."""
    length_ = tf.cast(length, tf.float32)
    start = tf.cast(tf.round(length_ * (centre - side / 2)), tf.int32)
    end = tf.cast(tf.round(length_ * (centre + side / 2)), tf.int32)
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
