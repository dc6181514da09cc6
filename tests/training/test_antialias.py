"""training/antialias.py: both folders hold the same pixels in the same splits."""

from __future__ import annotations

import antialias
import numpy as np
import pytest
import seeds
from images import arrays
from PIL import Image

from keras_resnet18 import open_source


@pytest.fixture
def photos(tmp_path):
    random = np.random.default_rng(0)
    for i in range(24):
        path = tmp_path / "photos" / ("ant", "bee")[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 30, 3), np.uint8)).save(path)
    return tmp_path / "photos"


def test_jpeg_and_png_are_the_same_pixels_in_the_same_splits(photos, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(seeds, "main", given.append)
    antialias.main([str(photos), "--size", "16", "--out", str(tmp_path / "out")])
    assert [images for images, *_ in given] == [str(tmp_path / "out" / k) for k in ("jpeg", "png")]
    jpeg, png = (open_source(images) for images, *_ in given)
    for name, split in open_source(photos).splits.items():
        of_jpeg, of_png = jpeg.splits[name], png.splits[name]
        assert split.size == of_jpeg.size == of_png.size > 0
        for a, b in zip(arrays(of_jpeg), arrays(of_png), strict=True):
            np.testing.assert_array_equal(a, b)
    assert all("image_size=16" in words for words in given)
