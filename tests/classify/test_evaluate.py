"""`evaluate --data` measures all of what it is given, and says what it cannot tell."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from small import CLASSES, draw_images

from keras_resnet18 import evaluate, report, train
from keras_resnet18.classify.evaluate import count_trained_on, whole_of
from keras_resnet18.data.sources import from_arrays, open_source
from keras_resnet18.errors import InputError


@pytest.mark.parametrize(("split", "n", "trained_on"), [("train", 49, 49), ("all", 70, 49)])
def test_training_images_are_counted(run, images, split, n, trained_on):
    for data in (None, str(images)):
        found = evaluate(run, data=data, split=split)
        assert (found.n, found.trained_on) == (n, trained_on)
        assert f"49 of the {n} images are training images" in " ".join(found.notes())


def test_all_of_a_folder_is_measured_with_few_images_of_few_classes(run, images, tmp_path):
    draw_images(tmp_path / "new", {"bee": 3, "ant": 2})
    found = evaluate(run, data=str(tmp_path / "new"), out=tmp_path / "out")
    assert (found.n, found.trained_on) == (5, 0)
    assert found.never_tested == ("蝉",)
    assert [found.spec.labels[i] for i in found.labels] == ["ant"] * 2 + ["bee"] * 3
    written = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert (written["n"], written["split"], written["trained_on"]) == (5, "all", 0)
    assert written["never_tested"] == ["蝉"]
    # a copy under another name is a training image too
    shutil.copy(images / "train" / "bee" / "3.png", tmp_path / "new" / "bee" / "copy.png")
    assert evaluate(run, data=str(tmp_path / "new")).trained_on == 1


@pytest.mark.parametrize("layout", ["test", "Test/..", "manifest.csv"])
def test_a_test_alone_may_be_a_class_folder_a_split_folder_or_a_table(run, tmp_path, layout):
    draw_images(tmp_path / "Test", {"bee": 3, "ant": 2})
    rows = [f"Test/{name}/{i}.png,{name}" for name, i in (("bee", 0), ("ant", 1))]
    (tmp_path / "manifest.csv").write_text("\n".join(["path,label", *rows]))
    data = {"test": "Test", "Test/..": ".", "manifest.csv": "manifest.csv"}[layout]
    found = evaluate(run, data=str(tmp_path / data))
    assert found.n == (2 if layout == "manifest.csv" else 5)


def test_a_class_that_the_classifier_does_not_know_is_refused(run, tmp_path):
    draw_images(tmp_path / "new", {"bee": 3})
    (tmp_path / "new" / "bee").rename(tmp_path / "new" / "wasp")
    with pytest.raises(InputError, match=r"classes, 'ant', 'bee', '蝉'. Received: .*'wasp'"):
        evaluate(run, data=str(tmp_path / "new"))
    with pytest.raises(InputError, match=r"classifier's classes.*Received: digits with '0'"):
        evaluate(run, data="digits")
    with pytest.raises(InputError, match=r"Received: .* with none of them so"):
        evaluate(run, data=str(tmp_path / "new" / "wasp"))


def test_what_is_not_known_is_said(run, exported, images, tmp_path):
    file = shutil.copy(exported / "model.tflite", tmp_path)
    found = evaluate(file, data=str(images))
    assert (found.n, found.trained_on) == (70, None)
    assert re.search("training images is not known", " ".join(found.notes()))


def test_pixels_are_compared_where_there_are_no_files():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 4, 4), np.uint8)
    training = from_arrays(pixels, np.arange(60) % 2)
    again = from_arrays(pixels[:40], np.arange(40) % 2, test=(pixels[:5], np.arange(5) % 2))
    seen = {pixels[i].tobytes() for i in range(60)} & set(training.splits["train"].content())
    expected = sum(one in seen for split in again.splits.values() for one in split.content())
    assert 0 < expected < 45
    assert count_trained_on(whole_of(again, ("1", "0")), training) == expected
    assert whole_of(again, ("1", "0")).numbers == (1, 0)
    digits = whole_of(open_source("digits"), tuple("0123456789"))
    assert count_trained_on(digits, again) == 0


@pytest.fixture
def own(tiny_network, quick_recipe, tmp_path):
    """A run of one epoch on a folder of its own, whose splits are a hash of seed 3."""
    photos = draw_images(tmp_path / "photos", dict.fromkeys(CLASSES, 30))
    settings = ["epochs=1"]
    return train(photos, quick_recipe, tmp_path / "own", settings=settings, split_seed=3), photos


def test_images_that_changed_since_the_training_are_no_test(own):
    run, photos = own
    assert evaluate(run).trained_on == 0
    assert evaluate(run, split="all").trained_on == run.environment["images"]["train"]["n"]
    for path in list(photos.rglob("*.png")):
        path.rename(path.with_name(f"photo-{path.name}"))
    with pytest.raises(InputError, match=r"the test images of .* have changed since .*data="):
        evaluate(run)
    found = evaluate(run, data=str(photos))
    assert found.n == 90 and found.trained_on is None  # the files of its training are not known


def test_images_that_moved_are_split_as_in_the_training(own, tmp_path):
    run, photos = own
    before = evaluate(run)
    moved = photos.rename(tmp_path / "moved")
    after = evaluate(run, data=str(moved), split="test")
    assert after.names == before.names and after.trained_on == 0
    assert report(run, data=str(moved)).is_file()
