"""Dataclasses from TOML tables: checks types, refuses unknown keys with the nearest name."""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from typing import Any

from keras_resnet18.errors import InputError, nearest


def from_table(cls: type, values: Mapping[str, Any], prefix: str) -> Any:
    """Dataclass from a table, nested dataclasses from nested tables."""
    hints = typing.get_type_hints(cls)
    arguments = {}
    for key, value in values.items():
        if key not in hints:
            raise InputError(
                f"a recipe has no {prefix}{key}{nearest(key, hints)}. "
                f"Received: {prefix}{key}={value!r}; known here: {', '.join(hints)}"
            )
        hint = _wanted(hints[key])
        if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
            arguments[key] = from_table(typing.cast(type, hint), value, f"{prefix}{key}.")
        else:
            arguments[key] = value
    return cls(**arguments)


def check_types(table: Any, prefix: str) -> None:
    """Checks each field against its annotation; makes 1 a float, a list a tuple, where asked."""
    for key, hint in typing.get_type_hints(type(table)).items():
        value = _typed(f"{prefix}{key}", hint, getattr(table, key))
        object.__setattr__(table, key, value)  # the dataclass is frozen


def _typed(name: str, hint: Any, value: Any) -> Any:
    """Converts `value` to the annotated type, or raises InputError."""
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        *others, hint = (option for option in typing.get_args(hint) if option is not type(None))
        if others and type(value) is others[0]:  # a whole number, or two of them
            return value
    if typing.get_origin(hint) is tuple:
        items = typing.get_args(hint)
        if isinstance(value, list | tuple) and len(value) == len(items):
            return tuple(_typed(name, item, v) for item, v in zip(items, value, strict=True))
    elif hint is float:
        if type(value) in (int, float) and math.isfinite(value):
            return float(value)
    elif type(value) is hint:
        return value
    kind = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}
    expected = kind.get(hint, "a table" if dataclasses.is_dataclass(hint) else "two numbers")
    if typing.get_args(hint) == (int, int):
        expected = "a whole number or two, such as 224 or [192, 256]"
    raise InputError(f"{name} must be {expected}. Received: {name}={value!r}")


def _wanted(hint: Any) -> Any:
    """`X` of the annotation `X | None`."""
    return typing.get_args(hint)[0] if isinstance(hint, types.UnionType) else hint


def toml_value(text: str) -> Any:
    """Parses a value in TOML's notation; returns unquoted words unchanged."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out None, which TOML cannot express; a missing key takes its default."""
    return {
        key: without_none(value) if isinstance(value, dict) else value
        for key, value in table.items()
        if value is not None
    }
