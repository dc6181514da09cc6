"""`demo`: the whole road on scikit-learn's digits, from training to verified exports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from keras_resnet18.commands.export import export
from keras_resnet18.commands.train import train
from keras_resnet18.run import DEFAULT_FOLDER, Run
from keras_resnet18.verification.report import ExportReport

_FOLDER = DEFAULT_FOLDER / "demo"
_FORMATS = ("saved_model", "tflite", "tflite-int8")  # the quickest of each kind


def demo(console: Console, out: Path = _FOLDER) -> tuple[Run, Iterator[ExportReport]]:
    """Trains on the 1,797 digits that scikit-learn ships, and exports the run.

    Args:
        console: Where progress is printed.
        out: The run's folder; a run there is replaced.

    Returns:
        The run, and a report for each exported file as soon as it is written.
    """
    run = train("digits", "digits", out, overwrite=True, console=console)
    console.print("exporting, and comparing each file with the model")
    return run, export(run, _FORMATS)
