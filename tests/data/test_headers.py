"""Headers tell which files TensorFlow may decode, and a JPEG's window is cut as it is decoded."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from corpus import encoded
from PIL import Image
from sklearn.datasets import load_sample_image

from keras_resnet18.data import files
from keras_resnet18.data.files import Header, each_file, read_header
from keras_resnet18.data.stored import encoded_image
from keras_resnet18.images import broken_image, decode_image

JPEG = encoded(Image.fromarray(load_sample_image("flower.jpg")).resize((203, 131)), "JPEG")


def viewed(data, plain, view):
    """A view of an image, made in a `tf.data` graph."""

    def decode(value):
        return decode_image(value, name="image.jpg")

    files = tf.data.Dataset.from_tensors((data, plain))
    views = files.map(lambda data, plain: view(encoded_image(data, plain, decode, data)))
    return next(views.as_numpy_iterator())


@pytest.mark.parametrize("slow", [0, 1e9], ids=["slow storage", "fast storage"])
def test_many_headers_come_in_order_with_progress(slow, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_CHUNK", 3)
    monkeypatch.setattr(files, "_SLOW", slow)
    plain, text = tmp_path / "a.jpg", tmp_path / "b.jpg"
    plain.write_bytes(JPEG)
    text.write_text("not an image")
    steps = []
    paths = [*[plain] * 4, *[text] * 3, tmp_path / "missing.png"]
    found = each_file(read_header, paths, lambda *step: steps.append(step))
    assert found == [Header.PLAIN_JPEG] * 4 + [Header.BROKEN] * 4
    assert steps == [(3, 8), (3, 8), (2, 8)]


@pytest.mark.parametrize("times", [1, 2, 4, 8])
@pytest.mark.parametrize("plain", [True, False])
def test_a_window_is_the_part_of_the_image_that_was_asked_for(times, plain):
    # red and green hold a pixel's place, so the ends of a result tell its window
    y, x = np.mgrid[:240, :240]
    places = np.stack([y, x, 0 * y], -1).astype(np.uint8)
    data = encoded(Image.fromarray(places), "JPEG", quality=100, subsampling=0)
    size = 24
    start, extent = (8, 16), (size * times + 5, size * times + 2)
    box = tf.constant(start), tf.constant(extent), (size, size), "bilinear"
    window = viewed(data, plain, lambda image: image.window(*box))
    for axis, ends in enumerate((window[[0, -1], 12, 0], window[12, [0, -1], 1])):
        step = extent[axis] / size
        expected = [start[axis] + step / 2 - 0.5, start[axis] + extent[axis] - step / 2 - 0.5]
        np.testing.assert_allclose(ends, expected, atol=2 + times / 2)


def test_a_window_of_a_photo_is_near_the_antialiased_one():
    photo = Image.fromarray(load_sample_image("flower.jpg")).resize((1280, 854))
    data = encoded(photo, "JPEG", quality=90)
    box = tf.constant((50, 100)), tf.constant((700, 900)), (96, 96), "bilinear"
    ours, exact = (
        viewed(data, plain, lambda image: tf.cast(image.window(*box), tf.float32))
        for plain in (True, False)
    )
    unfiltered = tf.image.resize(decode_image(data)[50:750, 100:1000], (96, 96))
    assert np.abs(ours - exact).mean() < 4 < np.abs(unfiltered - exact).mean()


def test_a_jpeg_cut_short_or_emptied_is_named():
    for data in (JPEG[:-200], b""):
        with pytest.raises(tf.errors.OpError) as caught:
            viewed(data, True, lambda image: image.whole())
        assert "'image.jpg'" in str(broken_image(caught.value))
