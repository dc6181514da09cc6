"""Images and answers, as the programs of training/ take them."""

from __future__ import annotations

import numpy as np
import pytest
from images import answers, arrays, mirrored, read_classes
from PIL import Image

from keras_resnet18 import Preprocess, from_arrays
from keras_resnet18.errors import InputError

AS_THEY_ARE = Preprocess(size=(32, 32), crop_ratio=1.0)


@pytest.fixture
def split(digits):
    images, labels = digits[0][:40], digits[1][:40]
    return from_arrays(images, labels, test=(images[:7], labels[:7])).splits["test"]


def test_images_come_as_arrays_and_answers_are_of_changed_ones(split, digits):
    for images, labels in (
        arrays(split),
        answers(lambda pixels: pixels[:, :, ::-1], split, AS_THEY_ARE, mirrored),
    ):
        np.testing.assert_array_equal(images, digits[0][:7])
        np.testing.assert_array_equal(labels, digits[1][:7])
    seen, labels = answers(lambda pixels: pixels, split, AS_THEY_ARE, limit=3)
    kept = [i for i in range(7) if any((digits[0][i] == image).all() for image in seen)]
    assert len(seen) == 3  # drawn from all
    np.testing.assert_array_equal(labels, digits[1][kept])


def test_images_of_class_folders_are_read_with_their_numbers(digits, tmp_path):
    for name, index in (("b/0.png", 0), ("a/0.png", 1), ("a/1.png", 2)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(digits[0][index]).save(tmp_path / name)
    images, labels = read_classes(tmp_path, ["b", "a"])
    np.testing.assert_array_equal(images, digits[0][:3])
    np.testing.assert_array_equal(labels, [0, 1, 1])

    Image.fromarray(digits[0][0, :16]).save(tmp_path / "b/1.png")
    with pytest.raises(InputError, match=r"of one size.*\(16, 32, 3\), \(32, 32, 3\)"):
        read_classes(tmp_path, ["b", "a"])
    with pytest.raises(InputError, match=r"Missing or empty: .*c$"):
        read_classes(tmp_path, ["a", "c"])
