from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_resnet18.data.augment import augment, mix
from keras_resnet18.data.pipeline import eval_batches, steps_per_epoch, train_batches
from keras_resnet18.data.sources import Split, from_arrays, open_source
from keras_resnet18.data.stored import StoredImage
from keras_resnet18.errors import InputError
from keras_resnet18.images import broken_image
from keras_resnet18.preprocess import Preprocess

NOTHING: dict[str, Any] = {
    "resized_crop": None,
    "shift": 0,
    "flip": False,
    "erase": 0.0,
    "jitter": 0.0,
}
RESIZED = Preprocess(size=(8, 8), crop_ratio=1.0).resize_and_crop


def varied(image: StoredImage, seed: tf.Tensor) -> tf.Tensor:
    noise = tf.random.stateless_uniform((8, 8, 3), seed, maxval=256, dtype=tf.int32)
    return image.whole()[:8, :8] + tf.cast(noise, tf.uint8)


def as_is(image: StoredImage, seed: tf.Tensor) -> tf.Tensor:
    return image.whole()


def numbered(count: int) -> Split:
    """Images of one pixel each, whose value is their number."""
    numbers = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1)
    labels = np.arange(count) % 2
    return from_arrays(
        numbers, labels, validation=(numbers, labels), test=(numbers, labels)
    ).splits["train"]


def numbers(batches: Any, count: int) -> list[list[int]]:
    return [images[:, 0, 0, 0].tolist() for images, _ in batches.take(count).as_numpy_iterator()]


def test_an_epoch_has_whole_batches_only_and_at_least_one() -> None:
    assert [steps_per_epoch(size, 32) for size in (1, 31, 32, 33, 64, 1000)] == [1, 1, 1, 1, 2, 31]


def test_an_epoch_repeats_no_image_and_the_next_one_is_another_order() -> None:
    batches = numbers(train_batches(numbered(50), as_is, batch_size=8, seed=0), 12)
    first, second = np.ravel(batches[:6]).tolist(), np.ravel(batches[6:]).tolist()
    assert len(set(first)) == len(set(second)) == 48
    assert first != second
    assert first != sorted(first)


def test_a_whole_epoch_is_a_permutation() -> None:
    batches = numbers(train_batches(numbered(40), as_is, batch_size=8, seed=0), 10)
    for epoch in (batches[:5], batches[5:]):
        assert sorted(np.ravel(epoch)) == list(range(40))


def test_a_split_smaller_than_the_batch_is_one_batch() -> None:
    batches = train_batches(numbered(5), as_is, batch_size=32, seed=0)
    assert [sorted(batch) for batch in numbers(batches, 3)] == [[0, 1, 2, 3, 4]] * 3
    assert len({tuple(batch) for batch in numbers(batches, 8)}) > 1


def test_another_seed_gives_another_order() -> None:
    one, two = (
        numbers(train_batches(numbered(50), as_is, batch_size=8, seed=s), 6) for s in (1, 2)
    )
    assert one != two


@pytest.fixture(params=["arrays", "folder"])
def split(request: pytest.FixtureRequest, make_folder: Callable[..., Path]) -> Split:
    if request.param == "arrays":
        return open_source("digits").splits["test"]
    names = [f"{name}/{i}.png" for name in ("a", "b") for i in range(50)]
    return open_source(make_folder(*names)).splits["train"]


VARIED: dict[str, Any] = {
    "noise": {"transform": varied},
    **{
        name: {
            "transform": partial(
                augment, preprocess=Preprocess((8, 8)), **(NOTHING | {name: value})
            )
        }
        for name, value in {
            "resized_crop": (0.3, 1.0),
            "shift": 2,
            "flip": True,
            "erase": 0.5,
            "jitter": 0.4,
        }.items()
    },
    "mixup": {"transform": varied, "mix": partial(mix, classes=10, mixup=0.5, cutmix=0.0)},
    "cutmix": {"transform": varied, "mix": partial(mix, classes=10, mixup=0.0, cutmix=0.5)},
    "both": {"transform": varied, "mix": partial(mix, classes=10, mixup=0.5, cutmix=0.5)},
}


@pytest.mark.parametrize("variation", [name for name in VARIED if name != "noise"])
def test_a_batch_of_each_variation_is_the_same_from_the_start_and_directly(variation: str) -> None:
    assert_same_directly(open_source("digits").splits["test"], variation)


def test_a_batch_is_the_same_from_the_start_and_directly(split: Split) -> None:
    assert_same_directly(split, "noise")


def assert_same_directly(split: Split, variation: str) -> None:
    steps = steps_per_epoch(split.size, 16)
    make = partial(train_batches, split, **VARIED[variation], batch_size=16, seed=7)
    run = list(make().take(2 * steps + 2).as_numpy_iterator())  # two epochs and a bit
    for step in (1, steps, 2 * steps + 1):
        images, labels = next(iter(make(first_step=step)))
        np.testing.assert_array_equal(images, run[step][0])
        np.testing.assert_array_equal(labels, run[step][1])


def test_batches_do_not_depend_on_tensorflows_global_seed(split: Split) -> None:
    results = []
    for global_seed in (1, 2):
        tf.random.set_seed(global_seed)
        results.append(next(iter(train_batches(split, varied, batch_size=16, seed=7))))
    np.testing.assert_array_equal(results[0][0], results[1][0])


def test_an_image_is_varied_otherwise_in_every_epoch() -> None:
    def seeds_only(image: StoredImage, seed: tf.Tensor) -> tf.Tensor:
        return tf.reshape(seed, (1, 1, 2))

    batches = train_batches(numbered(50), seeds_only, batch_size=8, seed=9).take(12)
    seeds = np.concatenate([images[:, 0, 0] for images, _ in batches.as_numpy_iterator()])
    np.testing.assert_array_equal(seeds, [(9, position) for position in range(96)])


def test_the_training_data_is_endless_uint8_and_of_known_shape(split: Split) -> None:
    cropped = partial(
        augment,
        preprocess=Preprocess((9, 7)),
        **(NOTHING | {"resized_crop": (0.5, 1.0), "shift": 1, "flip": True, "erase": 0.5}),
    )
    batches = train_batches(split, cropped, batch_size=16, seed=0)
    assert batches.cardinality() == tf.data.INFINITE_CARDINALITY
    images, labels = batches.element_spec
    assert images.shape.as_list() == [16, 9, 7, 3] and images.dtype == tf.uint8
    assert labels.shape.as_list() == [16] and labels.dtype == tf.int64
    assert next(iter(batches))[0].shape == (16, 9, 7, 3)


def test_starting_late_does_not_read_the_images_before() -> None:
    inner = numbered(50)
    fetched = []

    def note(value: np.ndarray) -> np.ndarray:
        fetched.append(int(value))
        return value

    def stored(index: tf.Tensor) -> tuple[StoredImage, tf.Tensor]:
        return inner.stored(tf.ensure_shape(tf.numpy_function(note, [index], tf.int64), ()))

    split = Split(inner.size, inner.elements, stored)
    next(iter(train_batches(split, as_is, batch_size=5, seed=0, first_step=10**9)))
    assert len(fetched) < 40  # the batch and what is prefetched


def test_endless_data_can_be_closed_at_once() -> None:
    iterator = iter(train_batches(numbered(50), as_is, batch_size=8, seed=0))
    end = time.monotonic() + 1.5  # long enough for an autotuner to fall asleep, if there were one
    while time.monotonic() < end:
        next(iterator)
    start = time.monotonic()
    del iterator
    assert time.monotonic() - start < 2


def test_labels_stay_with_their_images() -> None:
    for images, labels in train_batches(numbered(50), as_is, batch_size=8, seed=0).take(12):
        np.testing.assert_array_equal(images[:, 0, 0, 0] % 2, labels)


def test_evaluation_sees_each_image_once_in_order(split: Split) -> None:
    batches = eval_batches(split, RESIZED, batch_size=16)
    assert batches.cardinality() == -(-split.size // 16)
    images, labels = map(np.concatenate, zip(*batches.as_numpy_iterator(), strict=True))
    assert images.shape == (split.size, 8, 8, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(labels, split.labels)
    expected = [RESIZED(image) for image, _ in split.elements(None, 0).map(split.fetch)]
    np.testing.assert_array_equal(images, np.stack(expected))


def test_evaluation_keeps_a_last_small_batch() -> None:
    batches = eval_batches(numbered(10), lambda image: image, batch_size=4)
    assert numbers(batches, -1) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_file_that_breaks_later_stops_the_run_with_its_name(
    make_folder: Callable[..., Path],
) -> None:
    folder = make_folder(*[f"{name}/{i}.png" for name in ("Äpfel", "b") for i in range(40)])
    split = open_source(folder).splits["train"]
    broken = folder / (split.names or ())[0]
    broken.write_bytes(broken.read_bytes()[:-30])  # its header still stands
    with pytest.raises(tf.errors.OpError) as caught:
        list(train_batches(split, varied, batch_size=8, seed=0).take(20))
    error = broken_image(caught.value)
    assert isinstance(error, InputError) and str(broken) in str(error)
    assert "\n" not in str(error) and str(error).endswith("Replace or delete it.")
