"""Exceptions: InputError for a caller's mistake, and two kinds of it for trainings and exports.

And the checks that raise the first one, so that every refusal of a value reads alike.

Messages name Python's arguments: `overwrite=True`, `data=FOLDER`, `train(resume='my run')`. The
command line prints them as its options (`in_options` of `cli/options.py`).
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
    """Something that a person gave cannot be used.

    The message is one line: what was expected, what was received, what to do. The command line
    prints it as it stands; every other exception is a bug and keeps its traceback.
    """


class DivergedError(InputError):
    """A training whose loss or weights are no longer finite numbers; going on would not help."""


class ExportError(InputError):
    """An exported file does not give the model's answers, so it was not written.

    Attributes:
        reports: Reports of the other formats, those that were written, if several were asked for.
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
    """Raises InputError unless the condition on `value` holds; `allowed` says it in words."""
    if not condition:
        raise InputError(f"{name} must be {allowed}. Received: {name}={value!r}")


def check_types(table: Any, prefix: str = "") -> None:
    """Checks the fields of a frozen dataclass against their annotations.

    JSON and TOML give lists and 1 for a float, NumPy numbers of its own: all become Python's.
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
    """A value as a type, or as a tuple of types; raises TypeError if it is of another."""
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
    """A type in words."""
    if items := typing.get_args(kind):
        return f"{'two' if len(items) == 2 else 'three'} {'whole ' * (int in items)}numbers"
    words = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}
    return words.get(kind, "a table")


def path_of(value: Any, expected: str) -> Path:
    """A value as a path; raises InputError for what is none, such as a Keras model or a URL."""
    if not isinstance(value, str | os.PathLike):
        raise InputError(f"expected {expected}. Received: an object of type {type(value).__name__}")
    check_no_url(value)
    return Path(value)


def check_no_url(value: Any) -> None:
    """Raises InputError for a URL as a string: a `Path` of it would lose a slash."""
    if isinstance(value, str) and re.match(r"[a-z][a-z0-9+.-]*://", value, re.IGNORECASE):
        raise InputError(f"URLs are not read: download it, and give its path. Received: {value}")


def check_utf8(path: Path) -> None:
    """Raises InputError unless a path is UTF-8: TensorFlow and ONNX Runtime open no other."""
    if not is_utf8(str(path)):
        raise InputError(
            "TensorFlow and ONNX Runtime need a path in UTF-8: rename the folder or the file. "
            f"Received: {path}"
        )


def is_utf8(text: str) -> bool:
    """Whether a text can be written: what was not UTF-8 in a name is a surrogate in it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def nearest(word: str, known: Iterable[str]) -> str:
    """A question with the known word most like this one, for an error; empty if there is none."""
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def reason(error: Exception, lines: int = 1) -> str:
    """The first lines of an exception's message, as one; of the Hub's without its HTTP status."""
    text = str(error).strip()
    text = text.partition("\n\n")[2] if "Client Error" in text else text
    return " ".join(text.split("\n")[:lines]).strip() or type(error).__name__


def listed(names: Collection[str], most: int = 3) -> str:
    """Formats a list for a message: `'a', 'b', 'c' and 4 more`."""
    shown = ", ".join(repr(name) for name in list(names)[:most])
    return f"{shown} and {len(names) - most:,} more" if len(names) > most else shown
