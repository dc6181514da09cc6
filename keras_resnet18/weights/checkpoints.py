"""Checkpoint files, read and written as float32 arrays by name. Code in a file never runs."""

from __future__ import annotations

import argparse
import pathlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from keras_resnet18.errors import InputError
from keras_resnet18.files import check_parent, staged
from keras_resnet18.weights.layouts import COUNTER, Array, is_average

KERAS_WEIGHTS = ".weights.h5"  # read by Keras only
SAFETENSORS = ".safetensors"
# torch.save's: Lightning writes .ckpt, timm's training .pth.tar
TORCH = (".pth", ".pt", ".bin", ".ckpt", ".tar")

# Files of transformers' `save_pretrained`, today and in older versions
_PRETRAINED = ("model.safetensors", "pytorch_model.bin")

# Keys of the weights in a training script's checkpoint, beside its optimizer and epoch
_WRAPPERS = ("state_dict", "model", "model_state_dict")

_FLOATS = ("F64", "F32", "F16", "BF16")


def checkpoint_in(folder: Path) -> Path | None:
    """Returns the checkpoint that `save_pretrained` left in a folder, or None."""
    return next((folder / name for name in _PRETRAINED if (folder / name).is_file()), None)


def is_name(weights: str) -> bool:
    """Whether `weights` is a name, not the path of a file or of a `save_pretrained` folder."""
    endings = (KERAS_WEIGHTS, SAFETENSORS, *TORCH)
    return not weights.endswith(endings) and checkpoint_in(Path(weights)) is None


def read(path: Path) -> tuple[dict[str, Array], list[str]]:
    """Reads a checkpoint, or the one in a `save_pretrained` folder.

    Returns:
        float32 arrays by name, without torch's step counters, and the names of the file's other
        contents, such as averaged weights.
    """
    path = checkpoint_in(path) or path
    if not path.is_file():
        what = "a folder: name the file in it" if path.is_dir() else "which does not exist"
        raise InputError(f"a checkpoint must be a file. Received: {path}, {what}")
    if path.suffix not in (SAFETENSORS, *TORCH):
        raise InputError(
            f"a checkpoint must be a {SAFETENSORS} file or one of torch's, {', '.join(TORCH)} "
            f"(model.load_weights reads Keras' own .weights.h5). Received: {path}"
        )
    return _read_safetensors(path) if path.suffix == SAFETENSORS else _read_torch(path)


def write(path: Path, tensors: Mapping[str, Array]) -> None:
    """Writes a `.safetensors` file, whole or not at all."""
    if path.suffix != SAFETENSORS:
        raise InputError(f"weights are written to a {SAFETENSORS} file. Received: {path}")
    check_parent(path)
    # safetensors copies memory and ignores an array's strides
    contiguous = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    # transformers refuses a file without this metadata
    content = safetensors.numpy.save(contiguous, metadata={"format": "pt"})
    with staged(path) as new:
        new.write_bytes(content)  # save_file would let only the owner read it


def _read_safetensors(path: Path) -> tuple[dict[str, Array], list[str]]:
    tensors, others = {}, []
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118, it is not a mapping
                if name.endswith(COUNTER):
                    continue
                tensor = file.get_slice(name)
                is_float = tensor.get_dtype() in _FLOATS
                if not tensor.get_shape() and not is_float:
                    others.append(name)  # a count, such as n_averaged of an averaged model
                else:
                    _check_float(path, name, tensor.get_dtype(), is_float)
                    tensors[name] = file.get_tensor(name).astype(np.float32)
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(
            "a .safetensors file must be whole, with a header that fits its data: get it again. "
            f"Received: {path} ({error})"
        ) from None
    return tensors, others


def _read_torch(path: Path) -> tuple[dict[str, Array], list[str]]:
    try:
        import torch
    except ImportError:
        raise InputError(
            f"a {path.suffix} file needs torch: pip install 'keras-resnet18[torch]', or get the "
            f"checkpoint as {SAFETENSORS}. Received: {path}"
        ) from None
    try:
        with _plain_values_allowed(torch):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file can make torch raise anything
        unknown = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise InputError(
            "a torch file must be whole, and hold tensors and plain values but no code: save it "
            "with torch.save(model.state_dict(), path). "
            f"Received: {path} ({unknown[1] if unknown else type(error).__name__})"
        ) from None
    state, others = _unwrap(content)
    if not isinstance(state, Mapping) or not any(torch.is_tensor(v) for v in state.values()):
        what = f"a {type(state).__name__}"
        if isinstance(state, Mapping):
            what = f"the entries {', '.join(map(str, [*state][:5]))}"
        raise InputError(
            f"a torch file must hold a state dict, bare or under {', '.join(_WRAPPERS)}. "
            f"Received: {path} with {what}"
        )
    tensors = {}
    for name, value in state.items():
        if str(name).endswith(COUNTER):
            continue
        if not torch.is_tensor(value) or (not value.dim() and not value.is_floating_point()):
            others.append(str(name))
        else:
            _check_float(path, name, str(value.dtype), value.is_floating_point())
            tensors[name] = value.detach().float().numpy()
    return tensors, others


def _plain_values_allowed(torch: Any) -> Any:
    """Lets torch read the plain values that training scripts keep beside the weights."""
    numpy_scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    allowed = [
        argparse.Namespace,  # torchvision's and timm's arguments
        pathlib.PosixPath,
        *{type(np.dtype(kind)) for kind in np.typecodes["AllInteger"] + np.typecodes["Float"]},
        np.dtype,
        (numpy_scalar, "numpy._core.multiarray.scalar"),
        (numpy_scalar, "numpy.core.multiarray.scalar"),  # its name in NumPy 1
    ]
    return torch.serialization.safe_globals(allowed)


def _unwrap(content: Any) -> tuple[Any, list[str]]:
    """Returns the innermost state dict, and the names of averaged weights beside it."""
    others: list[str] = []
    while isinstance(content, Mapping):
        key = next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if key is None:
            break
        others += [str(name) for name in content if name != key and is_average(str(name))]
        content = content[key]
    return content, others


def _check_float(path: Path, name: str, dtype: str, is_float: bool) -> None:
    if not is_float:
        raise InputError(
            "weights must be floating-point numbers of 16 to 64 bits: get a checkpoint that is not "
            f"quantized. Received: {path} with {name} of {dtype}"
        )
