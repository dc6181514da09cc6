"""Exceptions for a caller's mistakes, and the checks that raise them.

Messages name Python's arguments: `overwrite=True`, `data=FOLDER`, `train(resume='my run')`. The
command line prints them as its options (`cli/options.py`).
"""

from __future__ import annotations

import contextlib
import difflib
import math
import numbers
import os
import re
import types
import typing
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any


class InputError(ValueError):
    """A caller's input cannot be used.

    The message is one line: what was expected, what was received, and what to do. The command line
    prints it; every other exception is a bug and keeps its traceback.
    """


class DivergedError(InputError):
    """The loss or the weights of a training are no longer finite numbers."""


class ExportError(InputError):
    """An exported file does not give the model's answers, so it was not written.

    Attributes:
        reports: Reports of the files of the same call that were written.
    """

    def __init__(self, message: str, reports: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.reports = reports


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raises InputError unless `value` is one of the allowed words."""
    if value not in allowed:
        raise InputError(
            f"{name} must be one of {', '.join(allowed)}{nearest(value, allowed)}. "
            f"Received: {name}={value!r}"
        )


def within(name: str, value: Any, condition: bool, allowed: str) -> None:
    """Raises InputError unless `condition` holds; `allowed` describes the condition in words."""
    if not condition:
        raise InputError(f"{name} must be {allowed}. Received: {name}={value!r}")


def check_types(table: Any, prefix: str = "") -> None:
    """Checks the fields of a frozen dataclass against their annotations.

    Lists become tuples, and whole or NumPy numbers Python's, because JSON, TOML and NumPy give
    those.
    """
    for key, hint in typing.get_type_hints(type(table)).items():
        name, value = f"{prefix}{key}", getattr(table, key)
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        for option in options:
            with contextlib.suppress(TypeError):
                object.__setattr__(table, key, _typed(option, value))  # it is frozen
                break
        else:
            kinds = " or ".join(_kind(option) for option in options if option is not types.NoneType)
            raise InputError(f"{name} must be {kinds}. Received: {name}={value!r}")


def _typed(kind: Any, value: Any) -> Any:
    """Converts a value to a type or a tuple of types; raises TypeError if it is of another."""
    items = typing.get_args(kind)
    if items and isinstance(value, list | tuple) and len(value) == len(items):
        return tuple(map(_typed, items, value))
    number = {int: numbers.Integral, float: numbers.Real}.get(kind)
    if number is not None and isinstance(value, number) and not isinstance(value, bool):
        if math.isfinite(value):
            return kind(value)
    elif type(value) is kind:
        return value
    raise TypeError


def _kind(kind: Any) -> str:
    """Describes a type in words."""
    if items := typing.get_args(kind):
        return f"{'two' if len(items) == 2 else 'three'} {'whole ' * (int in items)}numbers"
    words = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}
    return words.get(kind, "a table")


def path_of(value: Any, expected: str) -> Path:
    """Returns `value` as a Path. Raises InputError if it is not path-like, or a URL."""
    if not isinstance(value, str | os.PathLike):
        raise InputError(f"expected {expected}. Received: an object of type {type(value).__name__}")
    check_no_url(value)
    return Path(value)


def check_no_url(value: Any) -> None:
    """Raises InputError for a URL, which `Path` would take and lose a slash of."""
    if isinstance(value, str) and re.match(r"[a-z][a-z0-9+.-]*://", value, re.IGNORECASE):
        raise InputError(f"URLs are not read: download it, and give its path. Received: {value}")


def check_utf8(path: Path) -> None:
    """Raises InputError unless a path is UTF-8, as TensorFlow and ONNX Runtime require."""
    if not is_utf8(str(path)):
        raise InputError(
            "TensorFlow and ONNX Runtime need a path in UTF-8: rename the folder or the file. "
            f"Received: {path}"
        )


def is_utf8(text: str) -> bool:
    """Whether a text can be encoded: bytes of a file name that are not UTF-8 are surrogates."""
    return text == text.encode("utf-8", "ignore").decode()


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns ` (did you mean WORD?)` with the closest known word, or an empty string."""
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def reason(error: Exception, lines: int = 1) -> str:
    """Returns the first lines of an exception's message as one, without the Hub's HTTP status."""
    text = str(error).strip()
    text = text.partition("\n\n")[2] if "Client Error" in text else text
    return " ".join(text.split("\n")[:lines]).strip() or type(error).__name__


def listed(names: Collection[str], most: int = 3) -> str:
    """Formats a list for a message: `'a', 'b', 'c' and 4 more`."""
    shown = ", ".join(repr(name) for name in list(names)[:most])
    return f"{shown} and {len(names) - most:,} more" if len(names) > most else shown
