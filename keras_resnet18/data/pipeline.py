"""Batches of a split: endless and random for training, finite and in order for evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_resnet18 import distributed
from keras_resnet18.data.splits import Order, Split
from keras_resnet18.data.stored import StoredImage
from keras_resnet18.machine import cpu_count

_PREFETCHED_BATCHES = 2


def steps_per_epoch(split_size: int, batch_size: int) -> int:
    """Number of whole batches in an epoch, at least one.

    The images left over differ from epoch to epoch. A last batch of one image would spoil
    BatchNorm's statistics.
    """
    return max(1, split_size // batch_size)


def train_batches(
    split: Split,
    transform: Callable[[StoredImage, tf.Tensor], tf.Tensor],
    *,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    mix: Callable[..., tuple[tf.Tensor, tf.Tensor]] | None = None,
) -> tf.data.Dataset:
    """Endless dataset of (images, labels), in which batch g is a pure function of (seed, g).

    Batches are counted over the whole training; `steps_per_epoch` of them are an epoch, in which
    no image comes twice. Each of several processes makes `distributed.rows` of every batch.

    Args:
        split: The images.
        transform: Function of (`StoredImage`, seed), such as `augment`, to an image of one size for
            all; the seed is an int64 tensor of shape (2,), different for every image and epoch.
        batch_size: Images in a batch; a smaller split gives batches of all of its images.
        seed: Seed of order and transforms, 0 to 2**31 - 1.
        first_step: Number of the first batch; the images before it are not read, except of TFDS.
        mix: Function of (images, labels, seed) of a batch to those that are trained on; the seed is
            an int64 tensor of shape (2,), different for every batch.
    """
    steps = steps_per_epoch(split.size, batch_size)
    batch_size = min(batch_size, split.size)
    images = steps * batch_size
    first_epoch, steps_before = divmod(first_step, steps)

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        start = tf.where(epoch == first_epoch, tf.constant(steps_before * batch_size, tf.int64), 0)
        elements = split.elements(Order(seed, epoch), start).take(images - start)
        return elements.enumerate(epoch * images + start)

    def example(position: tf.Tensor, element: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image, label = split.stored(element)
        return transform(image, tf.stack([tf.constant(seed, tf.int64), position])), label

    examples = tf.data.Dataset.range(first_epoch, 2**40).flat_map(one_epoch)
    examples, rows = _share(examples, batch_size)
    endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    batches = _batches(examples, example, rows, drop_remainder=True)
    if mix is not None:
        numbered = batches.enumerate(first_step)  # no image has its seeds
        batches = numbered.map(lambda g, batch: mix(*batch, tf.stack([2**31 + seed, g])))
    return batches.prefetch(_PREFETCHED_BATCHES).apply(endless)


def eval_batches(
    split: Split,
    transform: Callable[[tf.Tensor], tf.Tensor],
    *,
    batch_size: int = 32,
    shuffled: bool = False,
    limit: int | None = None,
) -> tf.data.Dataset:
    """Finite dataset of (images, labels), each image once.

    Each of several processes takes every `distributed.count()`-th image, which
    `distributed.gather` joins again.

    Args:
        split: The images.
        transform: Function of an image to one of a size for all, such as
            `Preprocess.resize_and_crop`.
        batch_size: Images in a batch; the last one may be smaller.
        shuffled: Whether images come in a fixed shuffled order, so that a few are of all classes,
            and not in the split's own order.
        limit: Maximum number of images; None for all.
    """

    def example(element: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image, label = split.fetch(element)
        return transform(image), label

    elements = split.elements(Order(seed=0, epoch=0) if shuffled else None, 0)
    if limit is not None:
        elements = elements.take(limit)
    elements = elements.shard(distributed.count(), distributed.index())
    batches = _batches(elements, example, batch_size, drop_remainder=False)
    return batches.prefetch(_PREFETCHED_BATCHES)


def whole_eval_batches(
    split: Split,
    transform: Callable[[tf.Tensor], tf.Tensor],
    *,
    batch_size: int,
) -> tf.data.Dataset:
    """`eval_batches` of (images, labels, weights) with a whole last batch, for several devices.

    It is filled up with repeated images of weight 0; all others have weight 1. Each of several
    processes makes `distributed.rows` of every batch.
    """

    def example(position: tf.Tensor, element: tf.Tensor) -> tuple[tf.Tensor, ...]:
        image, label = split.fetch(element)
        return transform(image), label, tf.cast(position < split.size, tf.float32)

    count = -(-split.size // batch_size)
    elements = split.elements(None, 0).repeat().enumerate().take(count * batch_size)
    elements, rows = _share(elements, batch_size)
    batches = _batches(elements, example, rows, drop_remainder=True)
    counted = tf.data.experimental.assert_cardinality(count)
    return batches.prefetch(_PREFETCHED_BATCHES).apply(counted)


def _share(elements: tf.data.Dataset, batch_size: int) -> tuple[tf.data.Dataset, int]:
    """Elements of each batch that this process makes, and their number."""
    if distributed.count() == 1:
        return elements, batch_size
    rows = distributed.rows(batch_size)

    def mine(*batch: Any) -> Any:
        return tf.nest.map_structure(lambda values: tf.gather(values, rows), batch)

    return elements.batch(batch_size, drop_remainder=True).map(mine).unbatch(), len(rows)


def _batches(
    elements: tf.data.Dataset,
    example: Callable[..., tuple[tf.Tensor, ...]],
    batch_size: int,
    drop_remainder: bool,
) -> tf.data.Dataset:
    options = tf.data.Options()
    # An endless dataset that tunes itself hangs when it is closed: it waits for its tuner's sleep,
    # which doubles up to 20 s. So the parallelism is set by hand.
    options.autotune.enabled = False
    options.deterministic = True
    return (
        elements.map(example, num_parallel_calls=cpu_count(), deterministic=True)
        .batch(batch_size, drop_remainder=drop_remainder)
        .with_options(options)
    )
