"""Images come in every form that Keras users have, and as the same pixels out of each."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_resnet18.errors import InputError
from keras_resnet18.exporters.compare import pixel_batches

SHAPE = (4, 6, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (70, *SHAPE), dtype=np.uint8)
NUMBERS = np.arange(70) % 5
ONE_HOT = np.eye(5, dtype=np.float32)[NUMBERS]
WEIGHTS = np.ones(70, np.float32)
slices = tf.data.Dataset.from_tensor_slices


def collect(data, **arguments):
    batches = list(pixel_batches(data, SHAPE, argument="check", **arguments))
    images = np.concatenate([pixels for pixels, _ in batches])
    if any(numbers is None for _, numbers in batches):
        assert all(numbers is None for _, numbers in batches)
        return images, None
    return images, np.concatenate([numbers for _, numbers in batches])


LABELLED = {
    "arrays": (IMAGES, NUMBERS),
    "one-hot arrays": (IMAGES, ONE_HOT),
    "arrays with weights": (IMAGES, NUMBERS, WEIGHTS),
    "tensors": (tf.constant(IMAGES), tf.constant(NUMBERS)),
    "batched": slices((IMAGES, NUMBERS)).batch(9),
    "one-hot batched": slices((IMAGES, ONE_HOT)).batch(9),
    "one-hot batched with weights": slices((IMAGES, ONE_HOT, WEIGHTS)).batch(9),
    "float32": slices((IMAGES.astype(np.float32), NUMBERS)).batch(9),
}
ALONE = {
    "uint8": IMAGES,
    "float16": IMAGES.astype(np.float16),
    "not whole": np.minimum(IMAGES + np.float32(0.4), 255),
    "batched": slices(IMAGES).batch(9),
    "1-tuples": slices((IMAGES,)),
    "generator": tf.data.Dataset.from_generator(
        lambda: iter(IMAGES), output_signature=tf.TensorSpec(SHAPE, tf.uint8)
    ),
}


@pytest.mark.parametrize("data", LABELLED.values(), ids=LABELLED)
def test_labelled_images_of_any_form_are_the_same_pixels_and_class_numbers(data):
    images, numbers = collect(data)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(numbers, NUMBERS)


@pytest.mark.parametrize("data", ALONE.values(), ids=ALONE)
def test_images_alone_come_without_class_numbers(data):
    images, numbers = collect(data)
    np.testing.assert_array_equal(images, IMAGES)
    assert numbers is None


def test_batches_hold_at_most_32_images_however_the_data_is_batched():
    batches = pixel_batches(slices(IMAGES).batch(50), SHAPE, argument="check")
    assert [len(pixels) for pixels, _ in batches] == [32, 32, 6]


@pytest.mark.parametrize(
    "data", [IMAGES, slices(IMAGES).batch(9), slices(IMAGES).batch(9).repeat()]
)
def test_a_limit_takes_the_first_images_even_of_endless_data(data):
    images, _ = collect(data, limit=40)
    np.testing.assert_array_equal(images, IMAGES[:40])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (slices(IMAGES).repeat(), "must come to an end.*Received: endless data"),
        (IMAGES[:0], "needs at least one image. Received: none"),
        (IMAGES[:, :3], r"input shape \(4, 6, 3\). Received: \(3, 6, 3\)"),
        (IMAGES[..., :1], r"Received: \(4, 6, 1\)"),
        (IMAGES[0], r"must hold images .*Received: .*shape=\(6, 3\)"),
        (slices({"image": IMAGES, "label": NUMBERS}), r"alone or as \(image, label\).*'label'"),
        ((IMAGES, NUMBERS[:3]), "of images or .*Received: tuple"),
        (5, "Received: int"),
        (IMAGES / 255, "normalized ones. Received: float64 values from 0 to 1"),
        (IMAGES.astype(int) * 4, "values from 0 to 1.02e"),
        (np.full((2, *SHAPE), np.nan), "values from nan to nan"),
        ((IMAGES, np.full(70, "cat")), "class numbers or one-hot rows.*Received: b'cat'"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_cannot_be_used_is_named(data, message):
    with pytest.raises(InputError, match=message) as error:
        collect(data)
    assert str(error.value).startswith("check ") and "\n" not in str(error.value)


def test_images_of_different_sizes_are_named_by_the_first_wrong_size():
    def images():
        yield IMAGES[0]
        yield IMAGES[0][:3]

    data = tf.data.Dataset.from_generator(
        images, output_signature=tf.TensorSpec((None, None, 3), tf.uint8)
    )
    with pytest.raises(InputError, match=r"Received: \(3, 6, 3\)"):
        collect(data)


def test_black_images_are_not_taken_for_normalized_ones():
    images, _ = collect(np.zeros((3, *SHAPE), np.float32))
    assert not images.any()
