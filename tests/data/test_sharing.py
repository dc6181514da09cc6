"""Processes that share every batch make the very batch that one process would make."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_resnet18.data.augment import mix
from keras_resnet18.data.pipeline import (
    eval_batches,
    steps_per_epoch,
    train_batches,
    whole_eval_batches,
)
from keras_resnet18.data.sources import Split, open_source
from keras_resnet18.data.stored import StoredImage
from keras_resnet18.distributed import Processes

BATCH = 48
COUNTS = (1, 2, 3, 8)

MIXES: dict[str, Any] = {
    "no mix": None,
    "mixup": partial(mix, classes=10, mixup=0.5, cutmix=0.0),
    "cutmix": partial(mix, classes=10, mixup=0.0, cutmix=0.5),
}


@pytest.fixture(scope="module")
def split() -> Split:
    return open_source("digits").splits["test"]


def varied(image: StoredImage, seed: tf.Tensor) -> tf.Tensor:
    noise = tf.random.stateless_uniform((8, 8, 3), seed, maxval=256, dtype=tf.int32)
    return image.whole() + tf.cast(noise, tf.uint8)


def as_is(image: tf.Tensor) -> tf.Tensor:
    return image


def all_of(count: int) -> list[Processes]:
    return [Processes(i, count) for i in range(count)]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("batch_size", [BATCH, 24])  # 8 processes have an odd number of rows of 24
def test_every_row_is_one_processs_and_all_have_as_many(count: int, batch_size: int) -> None:
    rows = [processes.rows(batch_size) for processes in all_of(count)]
    assert {len(some) for some in rows} == {batch_size // count}
    np.testing.assert_array_equal(np.sort(np.concatenate(rows)), np.arange(batch_size))


@pytest.mark.parametrize("count", COUNTS)
def test_a_process_has_the_partner_of_each_of_its_rows(count: int) -> None:
    for processes in all_of(count):
        rows = processes.rows(BATCH)
        np.testing.assert_array_equal(rows[::-1], BATCH - 1 - rows)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", MIXES)
def test_all_shares_together_are_the_batch_of_one_process(
    split: Split, count: int, name: str
) -> None:
    steps = steps_per_epoch(split.size, BATCH)
    first = steps - 1  # across the epoch's end

    def make(processes: Processes) -> list[Any]:
        mixing = MIXES[name]
        batches = train_batches(
            split,
            varied,
            batch_size=BATCH,
            seed=7,
            first_step=first,
            mix=mixing and partial(mixing, processes=processes),
            processes=processes,
        )
        return list(batches.take(3).as_numpy_iterator())

    whole, shares = make(Processes()), [make(processes) for processes in all_of(count)]
    for step, batch in enumerate(whole):
        joined = [np.empty_like(values) for values in batch]
        for processes, share in zip(all_of(count), shares, strict=True):
            for values, part in zip(joined, share[step], strict=True):
                values[processes.rows(BATCH)] = part
        for values, expected in zip(joined, batch, strict=True):
            np.testing.assert_array_equal(values, expected)


def test_a_share_reads_its_own_images_alone(split: Split) -> None:
    read = []

    def note(value: np.ndarray) -> np.ndarray:
        read.append(int(value))
        return value

    def stored(index: tf.Tensor) -> tuple[StoredImage, tf.Tensor]:
        return split.stored(tf.ensure_shape(tf.numpy_function(note, [index], tf.int64), ()))

    watched = Split(split.size, split.elements, stored)
    batches = train_batches(
        watched, varied, batch_size=BATCH, seed=0, processes=Processes(5, 8), first_step=10**9
    )
    next(iter(batches))
    assert len(read) < 60  # of this batch 6 and what is prefetched; of all rows it would be 480


@pytest.mark.parametrize("count", COUNTS)
def test_evaluation_shares_count_every_image_once(split: Split, count: int) -> None:
    everything = np.concatenate([b[0] for b in eval_batches(split, as_is, batch_size=16)])
    joined = np.zeros_like(everything)
    for processes in all_of(count):
        batches = eval_batches(split, as_is, batch_size=16, processes=processes)
        joined[processes.index :: count] = np.concatenate([b[0] for b in batches])
    np.testing.assert_array_equal(joined, everything)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("batch_size", [BATCH, 240])  # larger than the split too
def test_filled_up_batches_weigh_every_image_once(
    split: Split, count: int, batch_size: int
) -> None:
    assert split.size % batch_size and split.size < 240
    seen = []
    for processes in all_of(count):
        batches = whole_eval_batches(split, as_is, batch_size=batch_size, processes=processes)
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
