"""training/robustness.py: what is done to images, and its table."""

from __future__ import annotations

import io

import numpy as np
import pytest
import robustness
from corpus import color_card, display_p3
from PIL import ImageCms
from rows import read_rows

from keras_resnet18 import evaluate


@pytest.fixture(scope="module")
def photo():
    """A light square above a dark one."""
    image = np.full((40, 60, 3), 100, np.uint8)
    image[5:15, 10:20], image[25:35, 10:20] = 250, 10
    image[..., 2] //= 2  # a color
    return image


@pytest.mark.parametrize("name", robustness.CHANGES)
def test_a_change_keeps_the_image_but_not_its_pixels(photo, name):
    change = robustness.CHANGES[name]
    if change is None:
        return
    changed = change(photo)
    assert changed.shape == photo.shape and changed.dtype == np.uint8
    assert (changed != photo).any()
    assert np.corrcoef(changed[5:35, 5:25].ravel(), photo[5:35, 5:25].ravel())[0, 1] > 0.4


def test_display_p3_is_converted_as_littlecms_does_and_back():
    card = color_card()
    profiles = (ImageCms.ImageCmsProfile(io.BytesIO(display_p3())), ImageCms.createProfile("sRGB"))
    expected = np.asarray(ImageCms.profileToProfile(card, *profiles), np.int64)
    levels = np.asarray(card)
    converted = robustness.CHANGES["Display P3 converted to sRGB"](levels)
    assert np.abs(converted - expected).max() <= 1
    assert np.abs(expected - levels).max() == 116  # as docs/reference.md says
    stored = robustness.CHANGES["sRGB stored as Display P3"](levels)
    again = robustness.CHANGES["Display P3 converted to sRGB"](stored).astype(np.int64)
    assert np.abs(again - levels).mean() < 1


def test_figures_are_of_the_model_and_of_the_file():
    found = np.array([[0, 0], [1, 0], [2, 2], [2, 2]])
    row = robustness.figures(found, np.array([0, 1, 2, 0]))
    assert (row["accuracy"], row["int8_accuracy"], row["agreement"]) == (0.75, 0.5, 0.75)
    assert row["interval"][0] < 0.75 < row["interval"][1]
    assert "agreement" not in robustness.figures(found[:, :1], np.array([0, 1, 2, 0]))


def test_a_run_and_its_file_are_measured_once(exported, tmp_path, capsys, monkeypatch):
    run, file = exported.parent, tmp_path / "rows.jsonl"
    robustness.main([str(run), f"--rows={file}"])
    rows = read_rows(file)
    assert [row["change"] for row in rows] == list(robustness.CHANGES)
    assert rows[0]["accuracy"] == evaluate(run).accuracy and rows[0]["n"] == 12
    assert rows[0]["int8_accuracy"] == evaluate(exported / "model-int8.tflite").accuracy
    printed = capsys.readouterr().out
    assert "| brightness × 1.3 | " in printed and "n = 12 test images" in printed

    monkeypatch.delattr(robustness, "answers")
    robustness.main([str(run), f"--rows={file}"])
    assert capsys.readouterr().out in printed


def test_a_missing_file_is_exported_or_it_is_said_why_not(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(robustness, "CHANGES", {"as they are": None})
    robustness.main([str(run.path), f"--rows={tmp_path / 'rows'}", "--images=5"])
    printed = capsys.readouterr().out
    assert "without an int8 file: tflite-int8 needs 200 training images" in printed
    (row,) = read_rows(tmp_path / "rows")
    assert row["n"] == 5 and "int8_accuracy" not in row
