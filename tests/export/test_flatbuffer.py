"""What is read from a .tflite file is what is in it, and what is mended gives the same classes."""

from __future__ import annotations

import shutil
import subprocess
import zipfile

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils

from keras_resnet18.export.flatbuffer import (
    append_labels,
    keep_softmax_float,
    op_histogram,
    read_labels,
)
from keras_resnet18.export.runtime import TFLiteFile


@pytest.fixture
def as_converted(int8_file, tmp_path):
    """A copy of the int8 file that the converter gave, with its softmax in int8."""
    return shutil.copy(int8_file.converted, tmp_path / "converted.tflite")


def test_a_softmax_kept_in_float_gives_the_same_to_a_256th(as_converted, held_out):
    images = held_out[0][:30]
    coarse = TFLiteFile(as_converted)(images)
    keep_softmax_float(as_converted)
    fine = TFLiteFile(as_converted)(images)
    np.testing.assert_array_equal(coarse * 256, np.rint(coarse * 256))  # the fault that is mended
    assert len(np.unique(fine)) > len(np.unique(coarse))
    np.testing.assert_allclose(fine, coarse, atol=1.5 / 256)


def test_a_softmax_kept_in_float_is_that_of_the_files_own_logits(as_converted, held_out):
    keep_softmax_float(as_converted)
    interpreter = Interpreter(str(as_converted), experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    (image,) = interpreter.get_input_details()
    interpreter.set_tensor(image["index"], held_out[0][:1])
    interpreter.invoke()
    logits, probabilities = (
        interpreter.get_tensor(detail["index"])
        for detail in interpreter.get_tensor_details()
        if detail["dtype"] == np.float32
    )
    exact = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(sorted(probabilities[0]), sorted(exact[0]), rtol=1e-4)


def test_a_softmax_that_is_float_already_is_left_alone(float32_file, tmp_path):
    path = shutil.copy(float32_file.converted, tmp_path / "float32.tflite")
    before = path.read_bytes()
    keep_softmax_float(path)
    assert path.read_bytes() == before


def test_operators_are_counted_and_custom_ones_told_apart(as_converted):
    before = op_histogram(as_converted)
    assert before["CONV_2D"] == 20 and list(before) == sorted(before)
    model = flatbuffer_utils.read_model(str(as_converted))
    for code in model.operatorCodes:
        if code.builtinCode == 3:  # CONV_2D
            code.builtinCode = code.deprecatedBuiltinCode = 32  # CUSTOM
            code.customCode = "FlexConv2D"
    flatbuffer_utils.write_model(model, str(as_converted))
    assert op_histogram(as_converted)["CUSTOM"] == 20


@pytest.mark.parametrize(
    "labels", [["a"], ["crane", "crane", "maillot"], ["chat, félin", " two words ", "猫"]]
)
def test_labels_are_read_back_as_they_were(as_converted, held_out, labels):
    before = TFLiteFile(as_converted)(held_out[0][:1])
    assert read_labels(as_converted) is None
    append_labels(as_converted, labels)
    assert read_labels(as_converted) == labels
    np.testing.assert_array_equal(TFLiteFile(as_converted)(held_out[0][:1]), before)


def test_labels_can_be_had_with_unzip(as_converted, tmp_path):
    append_labels(as_converted, ["a", "b"])
    with zipfile.ZipFile(as_converted) as archive:
        assert archive.namelist() == ["labels.txt"]
    subprocess.run(["unzip", "-q", as_converted, "-d", tmp_path], check=False)
    if shutil.which("unzip"):
        assert (tmp_path / "labels.txt").read_text() == "a\nb\n"


def test_another_archive_behind_the_model_holds_no_labels_of_ours(as_converted):
    with zipfile.ZipFile(as_converted, "a") as archive:
        archive.writestr("notes.txt", "")
    assert read_labels(as_converted) is None
