"""What a path is told to be, and how every command refuses what it does not take."""

from __future__ import annotations

import pytest

from keras_resnet18 import info
from keras_resnet18.classify.classifier import open_classifier
from keras_resnet18.classify.exported import open_exported
from keras_resnet18.errors import InputError
from keras_resnet18.files import format_of


def test_a_path_is_told_by_its_name_and_by_what_is_there(tmp_path):
    for name in ("a.tflite", "a.onnx", "a.keras", "a.h5", "saved/saved_model.pb", "run/a.keras"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.onnx").mkdir()
    assert {path.name: format_of(path) for path in tmp_path.iterdir()} == {
        "a.tflite": "tflite",
        "a.onnx": "onnx",
        "a.keras": "keras",
        "a.h5": None,
        "saved": "saved_model",
        "run": "run",
        "folder.onnx": "run",
    }
    assert format_of(tmp_path / "nothing.onnx") is None


@pytest.mark.parametrize(("name", "state"), [("a.h5", ""), ("b.tflite", ", which is not there")])
@pytest.mark.parametrize("use", [open_exported, open_classifier, info])
def test_whoever_takes_a_path_refuses_others_in_the_same_words(tmp_path, use, name, state):
    (tmp_path / "a.h5").touch()
    with pytest.raises(InputError) as error:
        use(tmp_path / name)
    expected, received = str(error.value).split(". Received: ")
    assert "a .tflite file, an .onnx file" in expected
    assert expected.startswith("expected ") and expected.endswith(" or a SavedModel's folder")
    assert received == f"{tmp_path / name}{state}"
