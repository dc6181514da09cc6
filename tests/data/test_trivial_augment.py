"""TrivialAugment's operations are Pillow's, and each comes as often as the others."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from keras_resnet18.data import trivial_augment as operations
from keras_resnet18.data.trivial_augment import trivial_augment


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    from sklearn.datasets import load_sample_image

    return np.asarray(load_sample_image("china.jpg")[100:148, 200:264])


def changed(name: str, photo: np.ndarray, strength: float) -> np.ndarray:
    level = tf.constant(strength, tf.float32)
    operation = getattr(operations, f"_{name}")
    return operation(tf.constant(photo), abs(level), level).numpy().astype(int)


def affine(image: Image.Image, *six: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, six, Image.Resampling.NEAREST)


# How Pillow does it, as torchvision's TrivialAugmentWide asks it to; shears and turns are about the
# middle, whose place is half a pixel from Pillow's.
PILLOW = {
    "brightness": lambda image, s: ImageEnhance.Brightness(image).enhance(1 + 0.99 * s),
    "colour": lambda image, s: ImageEnhance.Color(image).enhance(1 + 0.99 * s),
    "contrast": lambda image, s: ImageEnhance.Contrast(image).enhance(1 + 0.99 * s),
    "sharpness": lambda image, s: ImageEnhance.Sharpness(image).enhance(1 + 0.99 * s),
    "posterise": lambda image, s: ImageOps.posterize(image, 8 - round(6 * abs(s))),
    "solarise": lambda image, s: ImageOps.solarize(image, 255 * (1 - abs(s))),
    "autocontrast": lambda image, s: ImageOps.autocontrast(image),
    "equalise": lambda image, s: ImageOps.equalize(image),
    "shift_x": lambda image, s: affine(image, 1, 0, -32 * s, 0, 1, 0),
    "shift_y": lambda image, s: affine(image, 1, 0, 0, 0, 1, -32 * s),
}


@pytest.mark.parametrize("strength", [-1.0, -0.5, 0.0, 0.25, 1.0])
@pytest.mark.parametrize("name", PILLOW)
def test_each_is_pillows_to_a_level(photo: np.ndarray, name: str, strength: float) -> None:
    expected = np.asarray(PILLOW[name](Image.fromarray(photo), strength)).astype(int)
    assert abs(changed(name, photo, strength) - expected).max() <= 1


@pytest.mark.parametrize(("name", "degrees"), [("rotate", 90), ("rotate", -90)])
def test_a_quarter_turn_is_numpys(name: str, degrees: int) -> None:
    square = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    got = changed(name, square, degrees / 135)
    np.testing.assert_array_equal(got, np.rot90(square, degrees // 90))


def test_a_shear_moves_each_row_by_its_distance_from_the_middle() -> None:
    line = np.zeros((9, 9, 3), np.uint8)
    line[:, 4] = 255
    got = changed("shear_x", line, 1.0)
    places = [int(np.argmax(row)) for row in got[..., 0]]
    assert places == [8, 7, 6, 5, 4, 3, 2, 1, 0]
    np.testing.assert_array_equal(
        changed("shear_y", line.transpose(1, 0, 2), 1.0), got.transpose(1, 0, 2)
    )


@pytest.mark.parametrize("colour", [0, 7, 255])
def test_an_image_of_one_colour_survives_all(colour: int) -> None:
    flat = np.full((1, 1, 3), colour, np.uint8)
    for name in ("autocontrast", "equalise", "contrast", "sharpness", "rotate"):
        assert changed(name, flat, 0.5).shape == (1, 1, 3)
    np.testing.assert_array_equal(changed("autocontrast", flat, 0.5), flat)
    np.testing.assert_array_equal(changed("equalise", flat, 0.5), flat)


def test_each_comes_as_often_as_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def paint(number: int):
        return lambda image, strength, signed: tf.fill(
            tf.shape(image), tf.constant(number, "uint8")
        )

    count = len(operations._OPERATIONS)
    monkeypatch.setattr(operations, "_OPERATIONS", [paint(i) for i in range(count)])
    image = tf.zeros((1, 1, 3), tf.uint8)
    seeds = tf.data.Dataset.range(count * 100).map(
        lambda i: trivial_augment(image, tf.stack([1, i]))
    )
    drawn = np.bincount([int(x[0, 0, 0]) for x in seeds.as_numpy_iterator()], minlength=count)
    assert drawn.min() >= 60 and drawn.max() <= 140  # 4 standard deviations
