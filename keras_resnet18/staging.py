"""Files and folders that appear under their final name only when they are whole."""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from keras_resnet18.errors import InputError, check_utf8, is_utf8

_PREFIX = ".writing-"
_LOCK = ".lock"  # in such a folder; a dead process does not hold it
_OLD = 60.0  # seconds; a younger folder may not be locked yet

_NO_ROOM = {
    getattr(errno, name)
    for name in (
        "ENOSPC",
        "EDQUOT",
        "EFBIG",
        "EROFS",
        "EACCES",
        "EPERM",
        "EEXIST",
        "ENOTDIR",
        "EISDIR",
    )
    if hasattr(errno, name)  # Windows has no EDQUOT
}


def to_json(values: Mapping[str, Any]) -> str:
    """Values as JSON for people; a name that is not UTF-8 is escaped, and reads back as it was."""
    text = json.dumps(values, indent=2, ensure_ascii=False)
    return f"{text if is_utf8(text) else json.dumps(values, indent=2)}\n"


def check_parent(path: Path) -> None:
    """Raises InputError if `path` lies below a file or is not UTF-8, and so cannot be written."""
    check_utf8(path.absolute())
    ancestor = next(parent for parent in path.absolute().parents if parent.exists())
    if not ancestor.is_dir():
        raise InputError(
            f"what is written needs a folder to be in. Received: {path}, below the file {ancestor}"
        )


def check_destination(path: Path, replaceable: Callable[[Path], bool], what: str) -> None:
    """Raises InputError unless `path` is free, or is something that may be replaced."""
    check_parent(path)
    if path.exists() and not replaceable(path):
        raise InputError(
            f"{path} exists and is not {what}, so it is not replaced: give another path"
        )


def is_leftover(path: Path) -> bool:
    """Whether it is what `staged` leaves when its process is killed."""
    return path.name.startswith(_PREFIX)


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; what is there at the end is moved to `path`.

    When the body raises, nothing is left of it, and what was at `path` before stays. When the
    process is killed, the next writer in the folder clears what it left.

    Raises:
        InputError: If the disk is full, or the folder cannot be written.
    """
    try:
        with _staged(path) as new:
            yield new
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(
        f"{path} cannot be written: {error.strerror}. Free the disk or the folder, or give "
        "another path"
    )


@contextlib.contextmanager
def _staged(path: Path) -> Iterator[Path]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # any: /proc and a drive of Windows that is not there have no room too
        raise _unwritable(path, error) from error
    _clear_leftovers(path.parent)
    with (
        tempfile.TemporaryDirectory(prefix=_PREFIX, dir=path.parent) as folder,
        FileLock(Path(folder) / _LOCK),
    ):
        new, old = Path(folder) / path.name, Path(folder) / f"{path.name}.old"
        yield new
        try:
            if path.is_dir():  # cannot be replaced in one step: the old one moves away first
                path.replace(old)
            new.replace(path)
        except BaseException:
            if old.exists():
                old.replace(path)
            raise


def _clear_leftovers(folder: Path) -> None:
    for leftover in folder.glob(f"{_PREFIX}*"):
        try:
            if time.time() - leftover.stat().st_mtime < _OLD:
                continue
            FileLock(leftover / _LOCK).acquire(timeout=0).lock.release()
        except (OSError, Timeout):  # gone by now, or its writer lives
            continue
        shutil.rmtree(leftover, ignore_errors=True)
