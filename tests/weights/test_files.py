"""A file that is not what it claims to be is refused in a line."""

from __future__ import annotations

import json
import os
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


def test_tensors_come_back_as_they_were_written(tmp_path):
    # transposed, as a kernel of Keras is: not as it lies in memory
    tensors = {**TENSORS, "fc.weight": np.arange(6, dtype="f").reshape(2, 3).T}
    files.write(tmp_path / "a.safetensors", tensors)
    read = files.read(tmp_path / "a.safetensors").tensors
    assert read.keys() == tensors.keys()
    for name, array in read.items():
        np.testing.assert_array_equal(array, tensors[name])


LYING = {
    "more than there is": header(a={"dtype": "F32", "shape": [9], "data_offsets": [0, 36]})
    + b"1234",
    "shape": header(a={"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}) + b"1234",
    "overlap": header(
        a={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        b={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    )
    + b"1234",
    "longer than the file": struct.pack("<Q", 1 << 62) + b"{}",
    "no JSON": struct.pack("<Q", 8) + b"cos\nsys\n",
    "a pickle": b"\x80\x02}q\x00X\x05\x00\x00\x00conv1q\x01.",
    "a web page": b"<!DOCTYPE html><html><body>404</body></html>",
    "nothing": b"",
}


@pytest.mark.parametrize("content", LYING.values(), ids=LYING)
def test_a_lying_header_is_refused(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"must be whole.*get it again\. Received: .*a\.safe") as e:
        files.read(path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, part):
    path = tmp_path / "a.safetensors"
    files.write(path, TENSORS)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(InputError, match="must be whole"):
        files.read(path)


@pytest.mark.parametrize("dtype", ["I8", "U8", "F8_E4M3", "BOOL"])
def test_quantized_weights_are_refused(tmp_path, dtype):
    path = tmp_path / "a.safetensors"
    path.write_bytes(header(w={"dtype": dtype, "shape": [2], "data_offsets": [0, 2]}) + b"\0\0")
    with pytest.raises(InputError, match=f"floating-point.*with w of {dtype}"):
        files.read(path)


def test_a_file_must_be_there(tmp_path):
    with pytest.raises(InputError, match=r"must be a file\. Received: .*which does not exist"):
        files.read(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="a folder: name the file in it"):
        files.read(tmp_path)


@pytest.mark.parametrize("name", ["model.weights.h5", "model.onnx", "model"])
def test_a_file_of_another_kind_is_refused(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=rf"\.safetensors .*\.pth.*Received: .*{name}"):
        files.read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.pth", "a.bin", "a.pt"])
def test_a_torch_file_without_torch_names_the_extra(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / name).touch()
    with pytest.raises(
        InputError, match=r"pip install 'keras-resnet18\[torch\]'.*Received: .*/a\."
    ):
        files.read(tmp_path / name)


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    files.write(path, TENSORS)
    before = path.read_bytes()

    def fail(target, content):
        with target.open("wb") as file:
            file.write(content[:4])
        raise OSError("no space left")

    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    with pytest.raises(OSError, match="no space"):
        files.write(path, TENSORS)
    assert path.read_bytes() == before
    assert [*tmp_path.iterdir()] == [path]


def test_only_safetensors_are_written(tmp_path):
    with pytest.raises(InputError, match=r"\.safetensors file\. Received: .*new\.pth"):
        files.write(tmp_path / "new.pth", TENSORS)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="below the file"):
        files.write(tmp_path / "file" / "new.safetensors", TENSORS)


def test_a_written_file_has_the_mode_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        files.write(tmp_path / "a.safetensors", TENSORS)
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o640


def test_a_folder_as_save_pretrained_leaves_it_is_opened(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    files.write(tmp_path / "model.safetensors", TENSORS)
    assert files.read(tmp_path).tensors.keys() == TENSORS.keys()
