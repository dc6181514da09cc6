"""A run and what is exported from it are one classifier."""

from __future__ import annotations

import shutil
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_resnet18.classify.classifier import image_files, open_classifier, open_images
from keras_resnet18.errors import InputError
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.spec import ClassifierSpec
from keras_resnet18.tflite_file import append_files


def top(classifier, path, k):
    ((best, _),) = classifier.answer(classifier.read(path)[np.newaxis], k)
    return list(best)


def test_a_run_and_its_exports_name_the_same_classes(run, exported, images):
    files = image_files([images / "test"])
    of_run = open_classifier(run.path)
    expected = [top(of_run, file, 3) for file in files]
    tolerances = {"saved_model": 1e-4, "model.tflite": 1e-4, "model-int8.tflite": 0.2}
    if (exported / "model.onnx").exists():
        tolerances["model.onnx"] = 1e-4
    for name, tolerance in tolerances.items():
        classifier = open_classifier(exported / name)
        assert classifier.spec == run.spec
        for file, best in zip(files, expected, strict=True):
            got = top(classifier, file, 3)
            assert got[0][0] == best[0][0]
            assert dict(got) == pytest.approx(dict(best), abs=tolerance)


@pytest.mark.parametrize("name", ["model.tflite", "model-int8.tflite", "model.onnx"])
def test_a_file_alone_knows_its_labels_and_how_images_are_prepared(run, exported, tmp_path, name):
    file = shutil.copy(exported / name, tmp_path)
    (tmp_path / "classifier.json").write_text("not read")
    classifier = open_classifier(file)
    assert classifier.spec.labels == ("ant", "bee", "蝉")
    assert classifier.preprocess == run.preprocess != Preprocess(size=(16, 16))
    assert classifier.run is None
    with pytest.raises(InputError, match="data="):
        classifier.open_images()


def without_spec(path, folder):
    """A copy of a .tflite file as another program writes it: with labels, without our file."""
    copy = Path(shutil.copy(path, folder))
    with zipfile.ZipFile(path) as archive:
        labels = archive.read("labels.txt").decode()
        start = min(entry.header_offset for entry in archive.infolist())
    copy.write_bytes(path.read_bytes()[:start])
    append_files(copy, {"labels.txt": labels})
    return copy


def test_a_file_without_a_specification_takes_that_beside_it(float16_file, labels, tmp_path):
    file = without_spec(float16_file.path, tmp_path)
    with pytest.warns(UserWarning, match="does not say how images are prepared.*middle 87.5%"):
        found = open_classifier(file).spec
    assert found == ClassifierSpec(tuple(labels), Preprocess(size=(32, 32)))
    other = ClassifierSpec(tuple("abcdefghij"), Preprocess(size=(32, 32), crop_ratio=0.5), 0.9)
    (tmp_path / "classifier.json").write_text(other.to_json())
    assert open_classifier(file).spec == other


def test_a_specification_for_another_size_than_the_files_is_refused(float16_file, labels, tmp_path):
    file = without_spec(float16_file.path, tmp_path)
    other = ClassifierSpec(tuple(labels), Preprocess(size=(32, 16))).to_json()
    (tmp_path / "classifier.json").write_text(other)
    with pytest.raises(InputError, match=r"32×32×3.*Received: 32×16×3.*classifier\.json"):
        open_classifier(file)
    append_files(file, {"classifier.json": other})
    with pytest.raises(InputError, match=r"32×32×3.*Received: 32×16×3.*digits\.tflite"):
        open_classifier(file)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ({"image_shape": (None, None, 3)}, "takes any size"),
        ({"image_shape": (16, 16, 1)}, "three channels.*which takes 1"),
    ],
)
def test_a_file_that_cannot_classify_images_is_told(exported, tmp_path, monkeypatch, file, message):
    known = {"image_shape": (16, 16, 3), "classes": 3, "spec": None} | file
    opened = types.SimpleNamespace(**known)
    monkeypatch.setattr("keras_resnet18.classify.classifier.open_exported", lambda path: opened)
    with pytest.raises(InputError, match=message):
        open_classifier(shutil.copy(exported / "model.tflite", tmp_path))


def test_a_saved_model_of_somebody_else_is_refused(tmp_path):
    class Doubling(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None,), tf.float32)])
        def double(self, x):
            return 2 * x

    module = Doubling()
    tf.saved_model.save(module, str(tmp_path / "a"), signatures=module.double)
    with pytest.raises(InputError, match=r"serving_default from image, .* signatures serving_def"):
        open_classifier(tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "variables")
    (tmp_path / "a" / "saved_model.pb").write_bytes(b"no model")
    with pytest.raises(InputError, match="cannot be opened by TensorFlow") as error:
        open_classifier(tmp_path / "a")
    assert "\n" not in str(error.value)


def test_images_of_other_classes_are_refused():
    with pytest.raises(InputError, match=r"2 classes.*digits with '0'.* without 'ant', 'bee'"):
        open_images(ClassifierSpec(("ant", "bee"), None), None, "digits")


def test_images_are_listed_in_the_order_given_and_sorted_in_a_folder(tmp_path):
    for name in ("b.png", "a.JPG", "deep/c.gif", "._a.JPG", ".cache/d.png", "notes.txt"):
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    single, folder = tmp_path / "z.dat", tmp_path / "folder"
    names = [path.name for path in image_files([single, folder, folder / "b.png"])]
    assert names == ["z.dat", "a.JPG", "b.png", "c.gif", "b.png"]


def test_a_folder_without_images_is_refused_before_any_row(tmp_path):
    with pytest.raises(InputError, match="images in it"):
        image_files([tmp_path / "a.png", tmp_path])
