"""What torch.save wrote is read as data: tensors and plain values, whole and dense."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from keras_resnet18.errors import InputError
from keras_resnet18.weights import checkpoints as files

torch = pytest.importorskip("torch", reason="needs the extra interop")
pytestmark = pytest.mark.torch


def saved(tmp_path, content):
    torch.save(content, tmp_path / "model.pth")
    return tmp_path / "model.pth"


STATE = {"conv1.weight": torch.ones(2, 3, 1, 1), "bn1.num_batches_tracked": torch.tensor(3)}


@pytest.mark.parametrize(
    "beside",
    [
        {"best_acc": np.float64(0.93)},
        {"epoch": np.int64(3), "out": pathlib.PosixPath("runs/1")},
        {"optimizer": {"lr": 0.1}, "epoch": 3},
    ],
    ids=str,
)
def test_plain_values_beside_the_weights_are_no_code(tmp_path, beside):
    read = files.read(saved(tmp_path, {"state_dict": STATE, **beside}))
    assert [*read.tensors] == ["conv1.weight"] and read.others == ()
    read = files.read(saved(tmp_path, {**STATE, **beside}))
    assert [*read.tensors] == ["conv1.weight"] and {*read.others} == {*beside}


def test_averaged_weights_beside_the_raw_ones_are_named(tmp_path):
    read = files.read(saved(tmp_path, {"state_dict": STATE, "state_dict_ema": STATE}))
    assert read.others == ("state_dict_ema",)


class Code:
    def __reduce__(self):
        return print, ("code",)


def test_code_is_refused_and_named(tmp_path):
    path = saved(tmp_path, {"state_dict": STATE, "hook": Code()})
    with pytest.raises(InputError, match=r"no code.*print"):
        files.read(path)


def test_a_sparse_tensor_is_named(tmp_path):
    with pytest.raises(InputError, match=r"dense.*fc\.weight of layout"):
        files.read(saved(tmp_path, {"fc.weight": torch.eye(3).to_sparse()}))


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.9])
def test_a_file_that_is_cut_short_is_said_to_be(tmp_path, fraction):
    path = saved(tmp_path, STATE)
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])
    with pytest.raises(InputError, match=r"whole: get it again\. Received: .*cut short"):
        files.read(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("<!DOCTYPE html><html>404</html>", "a web page"),
        ("\n <html>", "a web page"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1", "a pointer of Git LFS"),
    ],
)
def test_what_was_downloaded_in_its_place_is_named(tmp_path, content, what):
    (tmp_path / "model.pth").write_text(content)
    with pytest.raises(InputError, match=f"download it.*{what}"):
        files.read(tmp_path / "model.pth")
