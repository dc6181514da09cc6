"""What is read from a .tflite file is what is in it, and what is mended gives the same classes."""

from __future__ import annotations

import copy
import dataclasses
import re
import shutil
import subprocess
import zipfile

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils

from keras_resnet18 import info
from keras_resnet18 import tflite_file as metadata
from keras_resnet18.classify.exported import TFLiteFile
from keras_resnet18.errors import InputError
from keras_resnet18.tflite_file import (
    Tensor,
    add_metadata,
    append_files,
    contents,
    keep_softmax_float,
    op_histogram,
)


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
    assert contents(as_converted).labels is None
    append_files(as_converted, {"labels.txt": "".join(f"{x}\n" for x in labels)})
    assert contents(as_converted).labels == labels
    np.testing.assert_array_equal(TFLiteFile(as_converted)(held_out[0][:1]), before)


def test_labels_can_be_had_with_unzip(as_converted, tmp_path):
    append_files(as_converted, {"labels.txt": "".join(f"{x}\n" for x in ["a", "b"])})
    with zipfile.ZipFile(as_converted) as archive:
        assert archive.namelist() == ["labels.txt"]
    if shutil.which("unzip"):
        subprocess.run(["unzip", "-q", as_converted, "-d", tmp_path], check=False)
        assert (tmp_path / "labels.txt").read_text() == "a\nb\n"


def test_another_archive_behind_the_model_holds_no_labels_of_ours(as_converted):
    with zipfile.ZipFile(as_converted, "a") as archive:
        archive.writestr("notes.txt", "")
    assert contents(as_converted).labels is None


def test_labels_of_another_name_are_found_by_the_metadata(as_converted):
    file = {"name": "labels_en.txt", "type": 2}
    outputs = [{"name": "scores", "associated_files": [file]}]
    buffer = metadata.pack({"subgraph_metadata": [{"output_tensor_metadata": outputs}]})
    add_metadata(as_converted, buffer)
    assert contents(as_converted).labels is None
    with zipfile.ZipFile(as_converted, "a") as archive:
        archive.writestr("labels.txt", "of something else")
        archive.writestr("labels_en.txt", "cat\r\nsea lion")
    assert contents(as_converted).labels == ["cat", "sea lion"]


def test_metadata_changes_nothing_of_the_model(as_converted, held_out):
    before = TFLiteFile(as_converted)(held_out[0][:2])
    add_metadata(as_converted, metadata.pack({"name": "digits"}))
    np.testing.assert_array_equal(TFLiteFile(as_converted)(held_out[0][:2]), before)
    assert contents(as_converted).metadata == {"name": "digits"}


@pytest.mark.parametrize("buffer", [b"no metadata at all", b"\xff\xff\xff\x7fM001"])
def test_of_broken_metadata_it_is_said_and_the_rest_is_read(as_converted, labels, buffer):
    before = contents(as_converted)
    add_metadata(as_converted, buffer)
    append_files(as_converted, {"labels.txt": "".join(f"{x}\n" for x in labels)})
    assert contents(as_converted) == dataclasses.replace(before, metadata=None, labels=labels)
    assert re.search("^metadata +cannot be read$", info(as_converted), re.MULTILINE)


def test_names_are_those_of_the_signature_of_the_same_graph(as_converted):
    before = contents(as_converted)
    model = flatbuffer_utils.read_model(str(as_converted))
    other = copy.deepcopy(model.signatureDefs[0])
    other.subgraphIndex, other.inputs[0].name = 1, b"of another graph"
    model.subgraphs.append(copy.deepcopy(model.subgraphs[0]))
    model.signatureDefs.insert(0, other)
    flatbuffer_utils.write_model(model, str(as_converted))
    assert contents(as_converted).inputs == before.inputs


def test_contents_are_those_of_the_file(int8_file, labels):
    found = contents(int8_file.path)
    assert found.inputs == (Tensor("image", "uint8", (1, 32, 32, 3), (1.0,), (0,)),)
    assert found.outputs == (Tensor("probabilities", "float32", (1, 10), (), ()),)
    assert found.operators == int8_file.report.operators
    assert found.labels == labels


@pytest.fixture
def foreign(as_converted):
    """A file as others have them: no signature, an open batch, an operator from the future."""
    model = flatbuffer_utils.read_model(str(as_converted))
    model.signatureDefs = None
    image = model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]]
    image.name, image.shapeSignature = b"input:0", [-1, 32, 32, 3]
    model.operatorCodes[0].builtinCode = 9999
    flatbuffer_utils.write_model(model, str(as_converted))
    return as_converted


def test_contents_of_a_file_that_cannot_be_run_here_are_read(foreign):
    with pytest.raises(InputError, match="cannot be run"):
        TFLiteFile(foreign)
    found = contents(foreign)
    assert found.inputs[0].name == "input:0" and found.inputs[0].shape == (-1, 32, 32, 3)
    assert found.operators["operator 9999"] >= 1
    assert (found.metadata, found.labels) == ({}, None)


@pytest.mark.parametrize("content", [b"", b"TFL", b"no flatbuffer at all"])
def test_contents_of_something_else_are_none(tmp_path, content):
    path = tmp_path / "a.tflite"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"the mark TFL3. Received: {path}, without"):
        contents(path)


def test_contents_of_a_damaged_file_are_read_or_refused_in_one_line(int8_file, tmp_path):
    path, whole = tmp_path / "damaged.tflite", int8_file.path.read_bytes()
    random, refused = np.random.default_rng(0), 0
    heads = [whole[:length] for length in (8, 100, 10_000, len(whole) // 2, len(whole) - 100)]
    for _ in range(20):
        damaged = bytearray(whole)
        for place in random.integers(8, 3000, 5):
            damaged[place] = random.integers(256)
        heads.append(bytes(damaged))
    for content in heads:
        path.write_bytes(content)
        try:
            contents(path)
        except InputError as error:
            refused += 1
            assert str(path) in str(error)
            assert "\n" not in str(error)
    assert refused > 5


def test_labels_that_cannot_be_unpacked_are_told(as_converted):
    append_files(as_converted, {"labels.txt": "".join(f"{x}\n" for x in ["first", "second"])})
    content = as_converted.read_bytes()
    as_converted.write_bytes(content.replace(b"first\nsecond", b"third\nsecond"))
    with pytest.raises(InputError, match=r"labels\.txt that cannot be unpacked"):
        contents(as_converted)
