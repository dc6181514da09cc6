"""What torch.save wrote is read as data: tensors and plain values, whole and dense."""

from __future__ import annotations

import argparse
import pathlib
import pickle
from pathlib import Path

import numpy as np
import pytest

from keras_resnet18.errors import InputError
from keras_resnet18.weights import checkpoints as files

torch = pytest.importorskip("torch", reason="needs the extra interop")
pytestmark = pytest.mark.torch

KERNEL = torch.rand(2, 3, 1, 1)
STATE = {"conv1.weight": KERNEL, "bn1.num_batches_tracked": torch.tensor(3)}


def saved(tmp_path, content, suffix=".pth"):
    torch.save(content, tmp_path / f"model{suffix}")
    return tmp_path / f"model{suffix}"


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".pt", ".pth.tar", ".ckpt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_torch_file_is_read_as_the_same_tensors_in_float32(tmp_path, suffix, dtype):
    state = {name: tensor.to(dtype) for name, tensor in STATE.items()}  # the counter too
    tensors, others = files.read(saved(tmp_path, state, suffix))
    assert others == [] and [*tensors] == ["conv1.weight"]
    assert tensors["conv1.weight"].dtype == np.float32
    np.testing.assert_array_equal(tensors["conv1.weight"], KERNEL.to(dtype).float().numpy())


@pytest.mark.parametrize(
    ("content", "others"),
    [
        ({"state_dict": STATE, "epoch": 90, "optimizer": {"lr": 0.1}}, []),
        ({"model": STATE, "args": argparse.Namespace(lr=0.1)}, []),  # torchvision's scripts
        ({"model_state_dict": STATE, "best_acc": np.float64(0.93)}, []),
        ({"model": {"state_dict": STATE}, "out": pathlib.PosixPath("runs/1")}, []),
        ({**STATE, "epoch": np.int64(3)}, ["epoch"]),
        ({"state_dict": STATE, "state_dict_ema": STATE}, ["state_dict_ema"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_training_scripts_file_is_understood(tmp_path, content, others):
    tensors, found = files.read(saved(tmp_path, content))
    assert [*tensors] == ["conv1.weight"] and found == others


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def pickle_dump(content, path):
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("save", [torch.save, pickle_dump])
def test_code_is_refused_and_not_executed(tmp_path, save):
    path, trace = tmp_path / "model.pth", tmp_path / "was here"
    save({"state_dict": STATE, "epoch": Hostile(trace)}, path)
    with pytest.raises(InputError, match=r"no code.*Received: .*model\.pth \("):
        files.read(path)
    assert not trace.exists()
    # it would have been executed by a careless reader
    with path.open("rb") as file:
        pickle.load(file) if save is pickle_dump else torch.load(file, weights_only=False)
    assert trace.exists()


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.9])
def test_a_file_that_is_cut_short_is_said_to_be(tmp_path, fraction):
    path = saved(tmp_path, STATE)
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])
    with pytest.raises(InputError, match=r"must be whole, .* Received: "):
        files.read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"net": STATE, "acc": 95.0}, "state_dict, model.*Received: .* with the entries net, acc"),
        (torch.zeros(3), "state_dict, model.*Received: .* with a Tensor"),
        ({"a.b": torch.zeros(2, dtype=torch.int8)}, r"quantized.* with a\.b of torch\.int8"),
    ],
)
def test_a_file_without_float_weights_is_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        files.read(saved(tmp_path, content))
