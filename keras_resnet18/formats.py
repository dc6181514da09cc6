"""What a path is: a run, or a model in one of its formats."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from keras_resnet18.errors import InputError

Format = Literal["run", "tflite", "onnx", "keras", "saved_model"]

# The names that every exported file gives its input and its output.
INPUT, OUTPUT = "image", "probabilities"

# What `export` writes: each format, and the name of its file or folder.
EXPORTS = {
    "saved_model": "saved_model",
    "tflite": "model.tflite",
    "tflite-float16": "model-float16.tflite",
    "tflite-dynamic": "model-dynamic.tflite",
    "tflite-int8": "model-int8.tflite",
    "onnx": "model.onnx",
}

EXPORTED: tuple[Format, ...] = ("tflite", "onnx", "saved_model")

_NAMES: dict[Format, str] = {
    "run": "a run's folder",
    "tflite": "a .tflite file",
    "onnx": "an .onnx file",
    "keras": "a .keras file",
    "saved_model": "a SavedModel's folder",
}


def format_of(path: Path) -> Format | None:
    """What lies at a path, by its name; what is in it is seen by whoever opens it.

    Every folder without a SavedModel in it counts as a run: `load_run` says what it lacks. None if
    it is no such thing, or nothing is there.
    """
    if path.is_dir():
        return "saved_model" if is_saved_model(path) else "run"
    suffixes: tuple[Format, ...] = ("tflite", "onnx", "keras")
    return next((x for x in suffixes if path.suffix == f".{x}" and path.is_file()), None)


def is_saved_model(path: Path) -> bool:
    """Whether it is a SavedModel's folder, of whatever kind."""
    return any((path / f"saved_model.{ending}").is_file() for ending in ("pb", "pbtxt"))


def check_format(path: Path, *formats: Format) -> Format:
    """Which of these formats lies at a path.

    Raises:
        InputError: If it is none of them.
    """
    found = format_of(path)
    if found not in formats or found is None:
        *others, last = (name for one, name in _NAMES.items() if one in formats)
        raise InputError(
            f"expected {', '.join(others)} or {last}. Received: {path}"
            + ("" if path.exists() else ", which is not there")
        )
    return found
