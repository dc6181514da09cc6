"""Files and folders that appear under their final name only when they are whole."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from keras_resnet18.errors import InputError

_PREFIX = ".writing-"


def check_parent(path: Path) -> None:
    """Raises InputError if `path` lies below a file, so that it could never be written."""
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
            f"{path} exists and is no {what}, so it is not replaced: give another path"
        )


def is_leftover(path: Path) -> bool:
    """Whether it is what `staged` leaves when its process is killed."""
    return path.name.startswith(_PREFIX)


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; what is there at the end is moved to `path`.

    When the body raises, nothing is left of it, and what was at `path` before stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=path.parent) as folder:
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
