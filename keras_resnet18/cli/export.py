"""keras-resnet18 export and verify."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from keras_resnet18 import machine
from keras_resnet18.cli.options import DataOption, RunArgument, console
from keras_resnet18.errors import ExportError, InputError
from keras_resnet18.files import EXPORTS
from keras_resnet18.recipe import SplitName

if TYPE_CHECKING:
    from keras_resnet18.exporters.compare import ExportReport


def export(
    run: RunArgument,
    formats: Annotated[
        list[str],
        typer.Option(
            "--format", metavar="NAME", help=f"{', '.join(EXPORTS)} or all; may be repeated."
        ),
    ] = ["all"],  # noqa: B006  # Typer reads it, nobody changes it
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where to write. [default: RUN/export]"),
    ] = None,
    data: DataOption = None,
    about: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=TEXT",
            help="Write name, description, version, author or license into the .tflite files' "
            "metadata; may be repeated.",
        ),
    ] = None,
    check_images: Annotated[
        int, typer.Option(metavar="N", help="Maximum number of images for comparison.")
    ] = 1000,
) -> None:
    """Write verified files for servers and phones.

    Runs each file in its own runtime and compares it with the model before writing it.
    """
    machine.start_keras()
    from keras_resnet18.exporters.export import export

    out_console = console()
    try:
        reports = export(
            run,
            formats,
            out,
            data=data,
            check_images=check_images,
            about=dict(_key_and_text(words) for words in about or []),
            note=out_console.print,
        )
    except ExportError as error:
        print_exports(out_console, error.reports)  # for the formats that did not fail
        raise
    print_exports(out_console, reports)


def verify(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A .tflite file, an .onnx file or a SavedModel."),
    ],
    run: RunArgument,
    data: DataOption = None,
    split: Annotated[
        SplitName | None,
        typer.Option(
            help="Split of the images. [default: test and validation]", show_default=False
        ),
    ] = None,
) -> None:
    """Compare an exported file with its run.

    Also writes the figures beside the file, as JSON. Exit status 1 if the predictions differ.
    """
    machine.start_keras()
    from keras_resnet18.exporters.verify import verify

    report = verify(file, run, data=data, split=split)
    console().print(report.table())
    if report.fault is not None:
        raise InputError(f"{file} does not pass: {report.fault}")


def _key_and_text(words: str) -> tuple[str, str]:
    key, equals, text = words.partition("=")
    if not equals:
        raise InputError(f"--about takes KEY=TEXT, such as author='A. Lee'. Received: {words}")
    return key, text


def print_exports(console: Console, reports: Sequence[ExportReport]) -> None:
    """Print a row for each exported file, and the paths of the files."""
    from keras_resnet18.classify.table import percent, plain_table

    if not reports:
        return
    headings = ("format", "MB", "ms an\nimage", "images", "same\nclass", "largest\ndiff.")
    table = plain_table((*headings, "top-1", "model's\ntop-1"), ())
    for report in reports:
        found = report.comparison
        table.add_row(
            report.format,
            _three_digits(report.size_bytes / 1e6),
            _three_digits(report.latency_ms),
            f"{found.n:,}",
            percent(found.agreement),
            f"{found.max_difference:.1e}",
            percent(found.accuracy),
            percent(found.model_accuracy),
        )
    console.print(table, soft_wrap=False)
    if any(report.seen for report in reports):
        console.print("compared on images seen in training, so top-1 is not measured")
    for warning in dict.fromkeys(x.comparison.warning for x in reports if x.comparison.warning):
        names = [x.format for x in reports if x.comparison.warning == warning]
        console.print(f"{', '.join(names)}: {warning}")
    for report in reports:
        console.print(report.path)


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 1 else f"{value:.3f}"
