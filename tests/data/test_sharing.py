"""Processes that share every batch make the very batch that one process would make."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_resnet18 import distributed
from keras_resnet18.data.augment import mix
from keras_resnet18.data.pipeline import (
    eval_batches,
    steps_per_epoch,
    train_batches,
    whole_eval_batches,
)
from keras_resnet18.data.sources import Split, open_source
from keras_resnet18.data.stored import StoredImage
from keras_resnet18.recipe import Augment

BATCH = 48
FEW = (2, 3)

MIXES: dict[str, Any] = {
    "no mix": None,
    "mixup": partial(mix, classes=10, settings=Augment(mixup=0.5)),
    "cutmix": partial(mix, classes=10, settings=Augment(cutmix=0.5)),
}


@pytest.fixture(scope="module")
def split() -> Split:
    return open_source("digits").splits["test"]


def varied(image: StoredImage, seed: tf.Tensor) -> tf.Tensor:
    noise = tf.random.stateless_uniform((8, 8, 3), seed, maxval=256, dtype=tf.int32)
    return image.whole() + tf.cast(noise, tf.uint8)


def as_is(image: tf.Tensor) -> tf.Tensor:
    return image


Of = Callable[[int, Callable[[], Any]], list[Any]]


@pytest.fixture
def of(as_process: Callable[[int, int], None]) -> Of:
    """`of(count, make)`: what each of so many processes makes, and its number of the rows."""

    def each(count: int, make: Callable[[], Any]) -> list[Any]:
        made = []
        for index in range(count):
            as_process(index, count)
            made.append(make())
        as_process(0, 1)
        return made

    return each


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_every_row_is_one_processs_beside_its_partner(of: Of, count: int) -> None:
    rows = of(count, lambda: distributed.rows(BATCH))
    np.testing.assert_array_equal(np.sort(np.concatenate(rows)), np.arange(BATCH))
    for some in rows:
        np.testing.assert_array_equal(some[::-1], BATCH - 1 - some)


@pytest.mark.parametrize("count", FEW)
@pytest.mark.parametrize("name", MIXES)
def test_all_shares_together_are_the_batch_of_one_process(
    of: Of, split: Split, count: int, name: str
) -> None:
    steps = steps_per_epoch(split.size, BATCH)
    first = steps - 1  # across the epoch's end

    def make() -> tuple[Any, list[Any]]:
        batches = train_batches(
            split, varied, batch_size=BATCH, seed=7, first_step=first, mix=MIXES[name]
        )
        return distributed.rows(BATCH), list(batches.take(3).as_numpy_iterator())

    ((_, whole),) = of(1, make)
    shares = of(count, make)
    for step, batch in enumerate(whole):
        joined = [np.empty_like(values) for values in batch]
        for rows, share in shares:
            for values, part in zip(joined, share[step], strict=True):
                values[rows] = part
        for values, expected in zip(joined, batch, strict=True):
            np.testing.assert_array_equal(values, expected)


def test_a_share_reads_its_own_images_alone(
    split: Split, as_process: Callable[[int, int], None]
) -> None:
    read = []

    def note(value: np.ndarray) -> np.ndarray:
        read.append(int(value))
        return value

    def stored(index: tf.Tensor) -> tuple[StoredImage, tf.Tensor]:
        return split.stored(tf.ensure_shape(tf.numpy_function(note, [index], tf.int64), ()))

    watched = Split(split.size, split.elements, stored)
    as_process(5, 8)
    batches = train_batches(watched, varied, batch_size=BATCH, seed=0, first_step=10**9)
    next(iter(batches))
    assert len(read) < 60  # of this batch 6 and what is prefetched; of all rows it would be 480


@pytest.mark.parametrize("count", FEW)
def test_evaluation_shares_count_every_image_once(of: Of, split: Split, count: int) -> None:
    def make() -> Any:
        return np.concatenate([b[0] for b in eval_batches(split, as_is, batch_size=16)])

    everything = make()
    joined = np.zeros_like(everything)
    for index, share in enumerate(of(count, make)):
        joined[index::count] = share
    np.testing.assert_array_equal(joined, everything)


@pytest.mark.parametrize("count", FEW)
@pytest.mark.parametrize("batch_size", [BATCH, 240])  # larger than the split too
def test_filled_up_batches_weigh_every_image_once(
    of: Of, split: Split, count: int, batch_size: int
) -> None:
    assert split.size % batch_size and split.size < 240
    seen = []
    for batches in of(count, lambda: whole_eval_batches(split, as_is, batch_size=batch_size)):
        assert batches.cardinality() == -(-split.size // batch_size)
        for images, labels, weights in batches.as_numpy_iterator():
            assert len(images) == len(labels) == len(weights) == batch_size // count
            counted = weights == 1
            assert (counted | (weights == 0)).all()
            rows = zip(images[counted], labels[counted], strict=True)
            seen += [(image.tobytes(), int(label)) for image, label in rows]
    expected = [
        (image.numpy().tobytes(), int(label))
        for image, label in split.elements(None, 0).map(split.fetch)
    ]
    assert sorted(seen) == sorted(expected)
