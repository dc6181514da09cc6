"""Arguments, options and the console that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `train` left.")]
ModelArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|FILE",
        help="A run's folder, or an exported .tflite file, .onnx file or SavedModel.",
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(metavar="SOURCE", help="Other images than those the run was trained on."),
]


def console() -> Console:
    """Plain text, so that lines are the same on a terminal and in a file, and are never broken."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
