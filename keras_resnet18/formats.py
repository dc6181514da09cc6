"""What a path is: a run, or a model in one of its formats."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from keras_resnet18.errors import InputError

Format = Literal["run", "tflite", "onnx", "keras", "saved_model"]

# The names that every exported file gives its input and its output.
INPUT, OUTPUT = "image", "probabilities"

# The names of the files beside a model that hold its labels, one a line, and its `Preprocess`
LABELS_FILE, PREPROCESS_FILE = "labels.txt", "preprocess.json"


class Export(NamedTuple):
    """A format that `export` writes.

    Attributes:
        file: Name of its file or folder.
        max_difference: Largest difference of a probability from the float32 model's that passes.
            None where activations are rounded: only the class counts, so that images of the
            model's kind are needed to check it.
    """

    file: str
    max_difference: float | None


# What float32 arithmetic in another order may change in a probability: 100 times what is seen
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
    """What lies at a path, by its name; what is in it is seen by whoever opens it.

    Every folder without a SavedModel in it counts as a run: `load_run` says what it lacks. None if
    it is something else, or nothing is there.
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
