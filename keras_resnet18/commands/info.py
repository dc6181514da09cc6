"""`info`: this machine, the runs in a folder, a run or model file, the published weights."""

from __future__ import annotations

import os
from pathlib import Path

from keras_resnet18.formats import format_of
from keras_resnet18.run import Run


def info(what: str | os.PathLike[str] | None = None) -> str:
    """Describes a machine, a run, the runs in a folder, or a model file.

    Args:
        what: A run's or SavedModel's folder; a folder of runs; a .tflite, .onnx or .keras file;
            `"weights"` for the published weights that have a name; None for this machine.

    Returns:
        Lines for a person, at most 80 columns wide but for paths and the table of the network.

    Raises:
        InputError: If it is none of these.
    """
    if what == "weights":
        from keras_resnet18.weights.catalogue import table

        return table()
    from keras_resnet18.commands.about import about_file, about_machine
    from keras_resnet18.commands.runs import about_runs, runs_in

    if what is None:
        return about_machine()
    path = Path(what)
    is_folder_of_runs = format_of(path) == "run" and not Run(path).recipe_file.is_file()
    return about_runs(path) if is_folder_of_runs and runs_in(path) else about_file(path)
