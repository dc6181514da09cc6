"""Checkpoints: the state of a training in one file that survives a kill at any moment."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = list[npt.NDArray[Any]]

_KEPT = 2  # a damaged newest one leaves the one before
_PREFIX = ".writing-"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """State of a training between two steps.

    Attributes:
        phase: Number of the `fit` that is interrupted, from 0.
        epoch: Finished epochs, of all phases.
        step: Finished steps of the epoch that follows them.
        seconds: Time that those steps took.
        total_seconds: Time that the whole training took so far.
        updates: How often the moving average of the weights was updated.
        rows: History so far.
        settings: What the training was given; see `commands.resume`.
        values: Values of all variables of network, optimizer and metrics, by position.
        best: Weights of the best epoch so far; empty before the first.
        average: Moving average of the weights; empty without one.
    """

    phase: int
    epoch: int
    step: int
    seconds: float
    total_seconds: float
    updates: int
    rows: list[dict[str, Any]]
    settings: dict[str, Any]
    values: Arrays
    best: Arrays
    average: Arrays

    def __str__(self) -> str:
        return f"epoch {self.epoch + 1}, step {self.step:,}"


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes a checkpoint beside the newest one, and removes older ones.

    The file is written aside, flushed to the disk and renamed. The zip format of `.npz` holds a
    CRC-32 of each array.

    Raises:
        OSError: If it cannot be written; the folder is as before.
    """
    fields = {field.name: getattr(checkpoint, field.name) for field in _SCALARS}
    arrays: dict[str, Any] = {"fields": np.frombuffer(json.dumps(fields).encode(), np.uint8)}
    for name in _ARRAYS:
        arrays |= {f"{name}{i}": array for i, array in enumerate(getattr(checkpoint, name))}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"epoch{checkpoint.epoch:05}-step{checkpoint.step:08}.npz"
    descriptor, written = tempfile.mkstemp(prefix=_PREFIX, dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        Path(written).replace(path)
    except BaseException:
        Path(written).unlink(missing_ok=True)
        raise
    _sync_folder(folder)
    for old in _newest_first(folder)[_KEPT:] + list(folder.glob(f"{_PREFIX}*")):
        old.unlink(missing_ok=True)


def load_checkpoint(folder: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """Reads the newest checkpoint that is whole; removes and names the damaged ones before it.

    Args:
        folder: Where `save_checkpoint` wrote.
        say: Receives a line for each damaged file.

    Returns:
        The checkpoint, or None if there is none.
    """
    for path in _newest_first(folder):
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            fields = json.loads(arrays.pop("fields").tobytes())
            lists: dict[str, Any] = {
                name: [arrays[f"{name}{i}"] for i in range(_count(arrays, name))]
                for name in _ARRAYS
            }
            return Checkpoint(**fields, **lists)
        except (OSError, ValueError, KeyError, TypeError, EOFError, *_DAMAGED) as error:
            say(f"the checkpoint {path} is damaged ({error}): the one before it is used")
            path.unlink(missing_ok=True)
    return None


_ARRAYS = ("values", "best", "average")
_SCALARS = [field for field in dataclasses.fields(Checkpoint) if field.name not in _ARRAYS]
_DAMAGED = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch*-step*.npz"), reverse=True)


def _count(arrays: dict[str, Any], name: str) -> int:
    return sum(key.startswith(name) for key in arrays)


def _sync_folder(folder: Path) -> None:
    """Makes a rename outlive a power cut; Windows has no such call for folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
