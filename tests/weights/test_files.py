"""A checkpoint file is read whole, or refused in a line that says what it is."""

from __future__ import annotations

import json
import struct
import sys

import numpy as np
import pytest

from keras_resnet18.errors import InputError
from keras_resnet18.weights import checkpoints as files

TENSORS = {"conv1.weight": np.ones((2, 3, 1, 1), "f"), "bn1.bias": np.arange(3, dtype="f")}


def header(**tensors):
    """The beginning of a .safetensors file: the length of a JSON object, and the object."""
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


def with_dtype(dtype):
    return header(w={"dtype": dtype, "shape": [2], "data_offsets": [0, 2]}) + b"\0\0"


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "whole.safetensors"
    files.write(path, TENSORS)
    return path


def test_tensors_come_back_as_they_were_written(tmp_path):
    # transposed, as a kernel of Keras is: not as it lies in memory
    tensors = {**TENSORS, "fc.weight": np.arange(6, dtype="f").reshape(2, 3).T}
    files.write(tmp_path / "a.safetensors", tensors)
    read, others = files.read(tmp_path / "a.safetensors")
    assert read.keys() == tensors.keys() and others == []
    for name, array in read.items():
        np.testing.assert_array_equal(array, tensors[name])


BAD = {
    "longer than the file": (struct.pack("<Q", 1 << 62) + b"{}", "must be whole.*get it again"),
    "a pickle": (b"\x80\x02}q\x00X\x05\x00\x00\x00conv1q\x01.", "must be whole"),
    "a web page": (b"\n <!DOCTYPE html><html>404</html>", "must be whole.*get it again"),
    "int8": (with_dtype("I8"), "floating-point.*with w of I8"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content, message):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"{message}.*") as error:
        files.read(path)
    assert f"Received: {path}" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(whole, fraction):
    content = whole.read_bytes()
    whole.write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(InputError, match="must be whole"):
        files.read(whole)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.safetensors", r"must be a file\. Received: .*which does not exist"),
        ("", "a folder: name the file in it"),
        ("model.weights.h5", r"\.safetensors .*\.pth.*model\.load_weights.*Received: .*s\.h5"),
        ("model", r"\.safetensors .*\.pth.*Received: .*model"),
        ("a.bin", r"pip install 'keras-resnet18\[torch\]'.*Received: .*/a\.bin"),
    ],
)
def test_a_path_that_cannot_be_read_is_refused(tmp_path, monkeypatch, name, message):
    monkeypatch.setitem(sys.modules, "torch", None)
    for kind in ("model.weights.h5", "model", "a.bin"):
        (tmp_path / kind).touch()
    with pytest.raises(InputError, match=message):
        files.read(tmp_path / name)


def test_only_safetensors_are_written(tmp_path, whole):
    with pytest.raises(InputError, match=r"\.safetensors file\. Received: .*new\.pth"):
        files.write(tmp_path / "new.pth", TENSORS)
    with pytest.raises(InputError, match="below the file"):
        files.write(whole / "new.safetensors", TENSORS)


def test_a_folder_as_save_pretrained_leaves_it_is_opened(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    files.write(tmp_path / "model.safetensors", TENSORS)
    assert files.read(tmp_path)[0].keys() == TENSORS.keys()
