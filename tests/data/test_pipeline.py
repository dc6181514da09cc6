"""Batches are functions of (seed, number), whole, endless, and in order for evaluation."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import tensorflow as tf

from keras_resnet18.data.augment import augment, mix
from keras_resnet18.data.pipeline import eval_batches, steps_per_epoch, train_batches
from keras_resnet18.data.sources import Split, from_arrays, open_source
from keras_resnet18.errors import InputError
from keras_resnet18.images import broken_image
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.recipe import Augment

RESIZED = Preprocess(size=(8, 8), crop_ratio=1.0).resize_and_crop


def varied(image, seed):
    noise = tf.random.stateless_uniform((8, 8, 3), seed, maxval=256, dtype=tf.int32)
    return image.whole()[:8, :8] + tf.cast(noise, tf.uint8)


def as_is(image, seed):
    return image.whole()


def numbered(count):
    """Images of one pixel each, whose value is their number."""
    numbers = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1)
    given = numbers, np.arange(count) % 2
    return from_arrays(*given, validation=given, test=given).splits["train"]


def numbers(batches, count):
    return [images[:, 0, 0, 0].tolist() for images, _ in batches.take(count).as_numpy_iterator()]


def test_an_epoch_has_whole_batches_only_and_at_least_one():
    assert [steps_per_epoch(size, 32) for size in (1, 31, 32, 33, 64, 1000)] == [1, 1, 1, 1, 2, 31]


def test_an_epoch_repeats_no_image_and_another_one_or_another_seed_is_another_order():
    batches = numbers(train_batches(numbered(50), as_is, batch_size=8, seed=0), 12)
    first, second = np.ravel(batches[:6]).tolist(), np.ravel(batches[6:]).tolist()
    assert len(set(first)) == len(set(second)) == 48
    other = np.ravel(numbers(train_batches(numbered(50), as_is, batch_size=8, seed=1), 6)).tolist()
    assert len({tuple(order) for order in (first, second, other, sorted(first))}) == 4
    whole = numbers(train_batches(numbered(40), as_is, batch_size=8, seed=0), 10)
    for epoch in (whole[:5], whole[5:]):
        assert sorted(np.ravel(epoch)) == list(range(40))


def test_a_split_smaller_than_the_batch_is_one_batch():
    batches = numbers(train_batches(numbered(5), as_is, batch_size=32, seed=0), 8)
    assert [sorted(batch) for batch in batches] == [[0, 1, 2, 3, 4]] * 8
    assert len({tuple(batch) for batch in batches}) > 1


@pytest.fixture(params=["arrays", "folder"])
def split(request, make_folder):
    if request.param == "arrays":
        return open_source("digits").splits["test"]
    names = [f"{name}/{i}.png" for name in ("a", "b") for i in range(50)]
    return open_source(make_folder(*names)).splits["train"]


def augmented(**options):
    return partial(augment, preprocess=Preprocess((8, 8)), settings=Augment(**options))


MIXED = partial(mix, classes=10, settings=Augment(mixup=1.0, cutmix=1.0))
VARIED = {
    "noise": {"transform": varied},
    "resized_crop": {"transform": augmented(resized_crop=(0.3, 1.0))},
    "shift and flip": {"transform": augmented(shift=2, flip=True)},
    "erase and jitter": {"transform": augmented(erase=0.5, jitter=0.4)},
    "mixup and cutmix": {"transform": varied, "mix": MIXED},
}


@pytest.mark.parametrize(
    ("split", "variation"),
    [("folder", "noise"), *(("arrays", name) for name in VARIED)],
    indirect=["split"],
)
def test_a_batch_is_the_same_from_the_start_and_directly(split, variation):
    steps = steps_per_epoch(split.size, 16)
    make = partial(train_batches, split, **VARIED[variation], batch_size=16, seed=7)
    run = list(make().take(2 * steps + 2).as_numpy_iterator())  # two epochs and a bit
    for step in (1, steps, 2 * steps + 1):
        tf.random.set_seed(step)  # which TensorFlow's own random numbers depend on
        images, labels = next(iter(make(first_step=step)))
        np.testing.assert_array_equal(images, run[step][0])
        np.testing.assert_array_equal(labels, run[step][1])


def test_an_image_is_varied_otherwise_in_every_epoch():
    def seeds_only(image, seed):
        return tf.reshape(seed, (1, 1, 2))

    batches = train_batches(numbered(50), seeds_only, batch_size=8, seed=9).take(12)
    seeds = np.concatenate([images[:, 0, 0] for images, _ in batches.as_numpy_iterator()])
    np.testing.assert_array_equal(seeds, [(9, position) for position in range(96)])


def test_the_training_data_is_endless_uint8_and_of_known_shape(split):
    settings = Augment(resized_crop=(0.5, 1.0), shift=1, flip=True, erase=0.5)
    cropped = partial(augment, preprocess=Preprocess((9, 7)), settings=settings)
    batches = train_batches(split, cropped, batch_size=16, seed=0)
    assert batches.cardinality() == tf.data.INFINITE_CARDINALITY
    images, labels = batches.element_spec
    assert images.shape.as_list() == [16, 9, 7, 3] and images.dtype == tf.uint8
    assert labels.shape.as_list() == [16] and labels.dtype == tf.int64
    assert next(iter(batches))[0].shape == (16, 9, 7, 3)


def test_starting_late_does_not_read_the_images_before():
    inner = numbered(50)
    fetched = []

    def note(value):
        fetched.append(int(value))
        return value

    def stored(index):
        return inner.stored(tf.ensure_shape(tf.numpy_function(note, [index], tf.int64), ()))

    split = Split(inner.size, inner.elements, stored)
    next(iter(train_batches(split, as_is, batch_size=5, seed=0, first_step=10**9)))
    assert len(fetched) < 40  # the batch and what is prefetched


def test_labels_stay_with_their_images():
    for images, labels in train_batches(numbered(50), as_is, batch_size=8, seed=0).take(12):
        np.testing.assert_array_equal(images[:, 0, 0, 0] % 2, labels)


def test_evaluation_sees_each_image_once_in_order(split):
    batches = eval_batches(split, RESIZED, batch_size=16)
    assert batches.cardinality() == -(-split.size // 16)
    assert split.size % 16  # the last batch is smaller
    images, labels = map(np.concatenate, zip(*batches.as_numpy_iterator(), strict=True))
    assert images.shape == (split.size, 8, 8, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(labels, split.labels)
    expected = [RESIZED(image) for image, _ in split.elements(None, 0).map(split.fetch)]
    np.testing.assert_array_equal(images, np.stack(expected))


def test_a_file_that_breaks_later_stops_the_run_with_its_name(make_folder):
    folder = make_folder(*[f"{name}/{i}.png" for name in ("Äpfel", "b") for i in range(40)])
    split = open_source(folder).splits["train"]
    broken = folder / split.names[0]
    broken.write_bytes(broken.read_bytes()[:-30])  # its header still stands
    with pytest.raises(tf.errors.OpError) as caught:
        list(train_batches(split, varied, batch_size=8, seed=0).take(20))
    error = broken_image(caught.value)
    assert isinstance(error, InputError) and str(broken) in str(error)
    assert "\n" not in str(error) and str(error).endswith("Replace or delete it.")
