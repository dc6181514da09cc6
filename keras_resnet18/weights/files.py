"""Checkpoint files: named float32 arrays in and out. A file is data here, never a program."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from keras_resnet18.errors import InputError
from keras_resnet18.staging import check_parent, staged
from keras_resnet18.weights.endings import SAFETENSORS, TORCH
from keras_resnet18.weights.layouts import COUNTER, Array

# where a training script puts the weights, beside its optimizer and epoch
_WRAPPERS = ("state_dict", "model", "model_state_dict")

_FLOATS = ("F64", "F32", "F16", "BF16")


def read(path: Path) -> dict[str, Array]:
    """The tensors of a checkpoint as float32, without torch's step counters.

    Raises:
        InputError: If there is no such file, or it cannot be read as what it claims to be.
    """
    if not path.is_file():
        what = "a folder: name the file in it" if path.is_dir() else "which does not exist"
        raise InputError(f"a checkpoint must be a file. Received: {path}, {what}")
    if path.suffix == SAFETENSORS:
        return _read_safetensors(path)
    if path.suffix in TORCH:
        return _read_torch(path)
    raise InputError(
        f"a checkpoint must be a {SAFETENSORS} file or one of torch's, {', '.join(TORCH)} "
        f"(model.load_weights reads Keras' own .weights.h5). Received: {path}"
    )


def write(path: Path, tensors: Mapping[str, Array]) -> None:
    """Writes a `.safetensors` file, whole or not at all.

    Raises:
        InputError: If the path has another ending or lies below a file.
    """
    if path.suffix != SAFETENSORS:
        raise InputError(f"weights are written to a {SAFETENSORS} file. Received: {path}")
    check_parent(path)
    # safetensors copies memory as it lies, whatever an array's strides say
    contiguous = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    with staged(path) as new:
        # transformers refuses a file that does not say that its tensors are in torch's layout
        safetensors.numpy.save_file(contiguous, new, metadata={"format": "pt"})


def _read_safetensors(path: Path) -> dict[str, Array]:
    tensors = {}
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118, it is no mapping
                if not name.endswith(f".{COUNTER}"):
                    dtype = file.get_slice(name).get_dtype()
                    _check_float(path, name, dtype, dtype in _FLOATS)
                    tensors[name] = file.get_tensor(name).astype(np.float32)
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(
            "a .safetensors file must be whole, with a header that is true: get it again. "
            f"Received: {path} ({error})"
        ) from None
    return tensors


def _read_torch(path: Path) -> dict[str, Array]:
    try:
        import torch
    except ImportError:
        raise InputError(
            f"a {path.suffix} file needs torch: pip install 'keras-resnet18[torch]', or get the "
            f"checkpoint as {SAFETENSORS}. Received: {path}"
        ) from None
    try:
        # training scripts of torchvision and timm save their arguments too, which are plain values
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file can make torch raise anything
        raise InputError(
            "a torch file must hold tensors and plain values, no code, as torch.save("
            f"model.state_dict(), path) writes. Received: {path} ({type(error).__name__})"
        ) from None
    state = _unwrap(content)
    if not isinstance(state, Mapping) or not all(torch.is_tensor(v) for v in state.values()):
        raise InputError(
            f"a torch file must hold a state dict, bare or under {', '.join(_WRAPPERS)}. "
            f"Received: {path} with {_summary(state)}"
        )
    tensors = {}
    for name, tensor in state.items():
        if not name.endswith(f".{COUNTER}"):
            _check_float(path, name, str(tensor.dtype), tensor.is_floating_point())
            tensors[name] = tensor.detach().float().numpy()
    return tensors


def _unwrap(content: Any) -> Any:
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _WRAPPERS if key in content), None)
        if not isinstance(inner, Mapping):
            break
        content = inner
    return content


def _summary(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"the entries {', '.join(map(str, [*content][:5]))}"
    return f"a {type(content).__name__}"


def _check_float(path: Path, name: str, dtype: str, is_float: bool) -> None:
    if not is_float:
        raise InputError(
            "weights must be floating-point numbers of 16 to 64 bits: get a checkpoint that is not "
            f"quantized. Received: {path} with {name} of {dtype}"
        )
