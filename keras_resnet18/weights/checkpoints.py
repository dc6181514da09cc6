"""How files with weights end, which tells a path from the name of published weights."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
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

KERAS_WEIGHTS = ".weights.h5"  # which only Keras itself reads
SAFETENSORS = ".safetensors"
# torch.save's: Lightning writes .ckpt, timm's training .pth.tar
TORCH = (".pth", ".pt", ".bin", ".ckpt", ".tar")

ENDINGS = (KERAS_WEIGHTS, SAFETENSORS, *TORCH)

# What `save_pretrained` of transformers writes into a folder, and did before.
_PRETRAINED = ("model.safetensors", "pytorch_model.bin")


def checkpoint_in(folder: Path) -> Path | None:
    """The checkpoint in a folder that `save_pretrained` left; None if there is none."""
    return next((folder / name for name in _PRETRAINED if (folder / name).is_file()), None)


def is_name(weights: str) -> bool:
    """Whether these are weights with a name, not the path of a file or of a checkpoint's folder."""
    return not weights.endswith(ENDINGS) and checkpoint_in(Path(weights)) is None


# Checkpoint files: named float32 arrays in and out. A file is data here, never a program.

# Where a training script puts the weights, beside its optimizer and epoch.
_WRAPPERS = ("state_dict", "model", "model_state_dict")

_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        tensors: float32 arrays by name, without torch's step counters.
        others: Names of what else lies beside them, such as an optimizer's state.
    """

    tensors: dict[str, Array]
    others: tuple[str, ...] = ()


def read(path: Path) -> Checkpoint:
    """Reads a checkpoint, or the one in a folder as `save_pretrained` leaves it.

    Raises:
        InputError: If there is no such file, or it cannot be read as what it claims to be.
    """
    if path.is_dir() and (inside := checkpoint_in(path)) is not None:
        path = inside
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
    # transformers refuses a file that does not say that its tensors are in torch's layout
    content = safetensors.numpy.save(contiguous, metadata={"format": "pt"})
    with staged(path) as new:
        new.write_bytes(content)  # save_file would let only the owner read it


def _read_safetensors(path: Path) -> Checkpoint:
    tensors, others = {}, []
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118, it is not a mapping
                tensor = file.get_slice(name)
                if name.endswith(f".{COUNTER}"):
                    continue
                if not tensor.get_shape() and tensor.get_dtype() not in _FLOATS:
                    others.append(name)  # a count, as n_averaged of an averaged model
                    continue
                _check_float(path, name, tensor.get_dtype(), tensor.get_dtype() in _FLOATS)
                tensors[name] = file.get_tensor(name).astype(np.float32)
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(
            "a .safetensors file must be whole, with a header that is true: get it again. "
            f"Received: {path} ({error})"
        ) from None
    return Checkpoint(tensors, tuple(others))


def _read_torch(path: Path) -> Checkpoint:
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
        raise InputError(_refusal(path, error)) from None
    state, others = _unwrap(content)
    if not isinstance(state, Mapping) or not any(torch.is_tensor(v) for v in state.values()):
        raise InputError(
            f"a torch file must hold a state dict, bare or under {', '.join(_WRAPPERS)}. "
            f"Received: {path} with {_summary(state)}"
        )
    tensors = {}
    for name, value in state.items():
        if not torch.is_tensor(value) or (not value.dim() and not value.is_floating_point()):
            others.append(str(name))
        elif value.layout is not torch.strided:
            raise InputError(
                "weights must be dense tensors: save them with .to_dense(). "
                f"Received: {path} with {name} of layout {value.layout}"
            )
        else:
            _check_float(path, name, str(value.dtype), value.is_floating_point())
            tensors[name] = value.detach().float().numpy()
    counters = [name for name in others if name.endswith(COUNTER)]
    return Checkpoint(tensors, tuple(name for name in others if name not in counters))


def _plain_values_allowed(torch: Any) -> contextlib.AbstractContextManager[None]:
    """Lets torch read what training scripts keep beside the weights, all of it plain values."""
    numpy_scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    dtypes = {type(np.dtype(kind)) for kind in np.typecodes["AllInteger"] + np.typecodes["Float"]}
    allowed = [
        argparse.Namespace,  # torchvision's and timm's arguments
        pathlib.PosixPath,
        pathlib.PurePosixPath,
        *dtypes,
        np.dtype,
        (numpy_scalar, "numpy._core.multiarray.scalar"),
        (numpy_scalar, "numpy.core.multiarray.scalar"),  # NumPy 1's name of it
    ]
    manager: contextlib.AbstractContextManager[None] = torch.serialization.safe_globals(allowed)
    return manager


def _refusal(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        begin = file.read(64).lstrip().lower()
    if begin.startswith((b"<", b"version https://git-lfs")):
        found = "a web page" if begin.startswith(b"<") else "a pointer of Git LFS"
        return f"a torch file must be the checkpoint itself: download it. Received: {path}, {found}"
    if not begin or (begin.startswith(b"pk") and "archive" in str(error)):
        return f"a torch file must be whole: get it again. Received: {path}, cut short"
    unknown = re.search(r"GLOBAL ([\w.]+)", str(error))
    what = f" ({unknown[1]})" if unknown else f" ({type(error).__name__})"
    return (
        "a torch file must hold tensors and plain values, no code, as torch.save("
        f"model.state_dict(), path) writes. Received: {path}{what}"
    )


def _unwrap(content: Any) -> tuple[Any, list[str]]:
    """The innermost state dict, and the names of the tables of tensors that lie beside it."""
    others: list[str] = []
    while isinstance(content, Mapping):
        key = next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if key is None:
            break
        others += [str(name) for name in content if name != key and is_average(str(name))]
        content = content[key]
    return content, others


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
