"""Arguments, options and the console that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `train` wrote.")]
ModelArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|FILE",
        help="A run; or a .tflite file, an .onnx file or a SavedModel.",
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        metavar="SOURCE", help="Labelled images. [default: those that the run was trained on]"
    ),
]
SOURCE = typer.Argument(
    metavar="SOURCE",
    help="A folder of images (class/… or train|val|test/class/…), a .csv or .tsv manifest, a "
    "folder of IDX files, tfds:NAME, or digits.",
    show_default=False,
)
SplitSeedOption = Annotated[
    int,
    typer.Option(metavar="N", help="Another seed deals images out to splits differently."),
]


def console() -> Console:
    """Plain text, so that lines are the same on a terminal and in a file, and are never broken."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
