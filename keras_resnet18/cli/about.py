"""keras-resnet18 info, report and demo."""

from __future__ import annotations

from typing import Annotated

import typer

from keras_resnet18 import machine
from keras_resnet18.cli.export import print_exports
from keras_resnet18.cli.options import DataOption, console
from keras_resnet18.run import DEFAULT_FOLDER

DEMO_FORMATS = ("saved_model", "tflite", "tflite-int8")  # the fastest to export of each kind


def info(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN|FOLDER|FILE|weights",
            help="A run; a folder of runs; a SavedModel; a .tflite, .onnx or .keras file; or the "
            "word weights, to list the published weights (for a folder so named, ./weights).",
        ),
    ] = None,
) -> None:
    """Show this machine, a folder of runs, a run or a model file."""
    machine.start_keras()
    from keras_resnet18.reports.info import info

    console().print(info(what))


def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A folder that `train` wrote.")],
    data: DataOption = None,
) -> None:
    """Write a report of a run: figures, mistakes, calibration.

    Writes report.html, which a browser opens offline, and a model card, README.md.
    """
    machine.start_keras()
    from keras_resnet18.reports.report import report

    console().print(report(run, data=data))


def demo() -> None:
    """Train on scikit-learn's digits, export and verify.

    It takes about two minutes on two cores and needs no network.
    """
    machine.start_keras()
    from keras_resnet18.exporters.export import export
    from keras_resnet18.fit.train import train

    out = console()
    run = train("digits", "digits", DEFAULT_FOLDER / "demo", overwrite=True, console=out)
    out.print("exporting, and comparing each file with the model")
    print_exports(out, export(run, DEMO_FORMATS))
    out.print(f"look at {run.report_file}, or try\n  keras-resnet18 info {run.path}")
