"""Formats of models, and files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from filelock import FileLock, Timeout

from keras_resnet18.errors import InputError, check_utf8, is_utf8

Format = Literal["run", "tflite", "onnx", "keras", "saved_model"]

# The names that every exported file gives its input and its output.
INPUT, OUTPUT = "image", "probabilities"


class Export(NamedTuple):
    """A format that `export` writes.

    Attributes:
        file: Name of its file or folder.
        max_difference: Largest allowed difference of a probability from the float32 model's. None
            where activations are rounded: only the class counts, so a check needs real images.
    """

    file: str
    max_difference: float | None


# Largest difference of a probability by float32 arithmetic in another order: 100 times what is seen
FLOAT32_TOLERANCE = 1e-3

EXPORTS = {
    "saved_model": Export("saved_model", FLOAT32_TOLERANCE),
    "tflite": Export("model.tflite", FLOAT32_TOLERANCE),
    "tflite-float16": Export("model-float16.tflite", 0.02),  # 5 times what is seen on 10,000 images
    "tflite-dynamic": Export("model-dynamic.tflite", None),
    "tflite-int8": Export("model-int8.tflite", None),
    "onnx": Export("model.onnx", FLOAT32_TOLERANCE),
}

# The kinds of .tflite file in EXPORTS, by `export_tflite`'s argument `quantize`
TFLITE = {name.partition("-")[2] or None: name for name in EXPORTS if name.startswith("tflite")}

EXPORTED: tuple[Format, ...] = ("tflite", "onnx", "saved_model")

_NAMES: dict[Format, str] = {
    "run": "a run's folder",
    "tflite": "a .tflite file",
    "onnx": "an .onnx file",
    "keras": "a .keras file",
    "saved_model": "a SavedModel's folder",
}


def format_of(path: Path) -> Format | None:
    """Returns the format of a path by its name, or None.

    A folder without a SavedModel counts as a run; `load_run` says what it lacks.
    """
    if path.is_dir():
        return "saved_model" if is_saved_model(path) else "run"
    suffixes: tuple[Format, ...] = ("tflite", "onnx", "keras")
    return next((x for x in suffixes if path.suffix == f".{x}" and path.is_file()), None)


def is_saved_model(path: Path) -> bool:
    """Whether a path is a SavedModel's folder."""
    return any((path / f"saved_model.{ending}").is_file() for ending in ("pb", "pbtxt"))


def check_format(path: Path, *formats: Format) -> Format:
    """Returns the format of a path. Raises InputError unless it is one of `formats`."""
    found = format_of(path)
    if found not in formats or found is None:
        *others, last = (name for one, name in _NAMES.items() if one in formats)
        raise InputError(
            f"expected {', '.join(others)} or {last}. Received: {path}"
            + ("" if path.exists() else ", which is not there")
        )
    return found


# Files and folders that appear under their final name only when they are whole.

_PREFIX = ".writing-"  # of a temporary folder
_LOCK = ".lock"  # in this folder; a dead process does not hold it
_OLD = 60.0  # seconds; a younger folder may not be locked yet


def to_json(values: Mapping[str, Any]) -> str:
    """Formats values as JSON for people; names that are not UTF-8 are escaped."""
    text = json.dumps(values, indent=2, ensure_ascii=False)
    return f"{text if is_utf8(text) else json.dumps(values, indent=2)}\n"


def size_bytes(path: Path) -> int:
    """Returns the size of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def check_parent(path: Path) -> None:
    """Raises InputError if `path` is below a file or is not UTF-8, so it cannot be written."""
    check_utf8(path.absolute())
    ancestor = next(parent for parent in path.absolute().parents if parent.exists())
    if not ancestor.is_dir():
        raise InputError(
            f"a path to write needs folders above it. Received: {path}, below the file {ancestor}"
        )


def check_destination(path: Path, replaceable: Callable[[Path], bool], what: str) -> None:
    """Raises InputError unless `path` is free or `replaceable`."""
    check_parent(path)
    if path.exists() and not replaceable(path):
        raise InputError(
            f"{path} exists and is not {what}, so it is not replaced: give another path"
        )


def is_leftover(path: Path) -> bool:
    """Whether a path is what `staged` leaves when its process is killed."""
    return path.name.startswith(_PREFIX)


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to, and moves what is there to `path` at the end.

    It is flushed to the disk first, to survive a power cut. If the body raises, `path` is left as
    it was. If the process is killed, the next writer in the folder removes its leftovers.

    Raises:
        InputError: If the body, or the move, raises an OSError, such as of a full disk.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(path.parent)
        with (
            tempfile.TemporaryDirectory(prefix=_PREFIX, dir=path.parent) as folder,
            FileLock(Path(folder) / _LOCK),
        ):
            new, old = Path(folder) / path.name, Path(folder) / f"{path.name}.old"
            yield new
            for written in (new, *new.rglob("*")):
                _flush(written)
            try:
                if path.is_dir():  # cannot be replaced in one step: the old one moves away first
                    path.replace(old)
                new.replace(path)
            except BaseException:
                if old.exists():
                    old.replace(path)
                raise
            _flush(path.parent)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror or error}. Free the disk or the folder, or "
            "give another path"
        ) from error


def _flush(path: Path) -> None:
    """Flushes a file, or a folder's list of files, to the disk."""
    folder = path.is_dir()  # Windows and some network drives have no such call for folders
    with contextlib.suppress(OSError) if folder else contextlib.nullcontext():
        descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _clear_leftovers(folder: Path) -> None:
    for leftover in folder.glob(f"{_PREFIX}*"):
        try:
            if time.time() - leftover.stat().st_mtime < _OLD:
                continue
            FileLock(leftover / _LOCK).acquire(timeout=0).lock.release()
        except (OSError, Timeout):  # gone by now, or its writer lives
            continue
        shutil.rmtree(leftover, ignore_errors=True)
