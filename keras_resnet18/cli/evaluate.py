"""keras-resnet18 evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from keras_resnet18 import machine
from keras_resnet18.cli.options import DataOption, ModelArgument, console


def evaluate(
    model: ModelArgument,
    data: DataOption = None,
    split: Annotated[
        Literal["train", "validation", "test", "all"] | None,
        typer.Option(
            help="Split of the images. [default: test; with --data, all of them]",
            show_default=False,
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FOLDER", help="Write metrics.json and predictions.csv there."
        ),
    ] = None,
) -> None:
    """Measure accuracy, overall and by class.

    Prints top-1 with its 95 % interval, top-5 with six or more classes, balanced accuracy,
    cross-entropy, recall, precision and F1 of each class, and milliseconds per image.
    """
    machine.start_keras()
    from keras_resnet18.classify.evaluate import evaluate
    from keras_resnet18.classify.table import print_classes

    out = console()
    found = evaluate(model, data=data, split=split, out=folder)
    split = split or ("test" if data is None else "all")
    what = split if found.folds is None else f"{found.folds}-fold"
    out.print(f"{'accuracy' if what == 'all' else f'{what} accuracy'} {found}")
    out.print(*found.notes(), sep="\n")
    all_in = "metrics.json with --out" if folder is None else str(folder / "metrics.json")
    print_classes(out, found.per_class, all_in)
    if folder is not None:
        out.print(folder)
