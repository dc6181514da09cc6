"""`info`: what this machine has, what a run or a model file is, which weights have a name."""

from __future__ import annotations

import os
from pathlib import Path


def info(what: str | os.PathLike[str] | None = None) -> str:
    """Describes a machine, a run or a model file.

    Args:
        what: A run's or SavedModel's folder; a .tflite, .onnx or .keras file; `"weights"` for the
            published weights that have a name; None for this machine.

    Returns:
        Lines for a person, at most 80 columns wide but for paths.

    Raises:
        InputError: If it is none of these.
    """
    if what == "weights":
        from keras_resnet18.weights.catalogue import table

        return table()
    from keras_resnet18.commands.about import about_file, about_machine

    return about_machine() if what is None else about_file(Path(what))
