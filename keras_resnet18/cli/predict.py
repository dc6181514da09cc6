"""keras-resnet18 predict."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from keras_resnet18 import machine
from keras_resnet18.cli.options import ModelArgument
from keras_resnet18.errors import InputError
from keras_resnet18.recipe import on_hub
from keras_resnet18.spec import NOT_SURE

if TYPE_CHECKING:
    from keras_resnet18.classify.predict import Prediction


def predict(
    model: ModelArgument,
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE|FOLDER", help="Image files, and folders of them."),
    ],
    top: Annotated[
        int, typer.Option(metavar="N", min=1, help="Number of classes to name for each image.")
    ] = 3,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            min=0,
            max=1,
            help="Answer 'not sure' if no class has this probability; 0 never does. "
            "[default: the model's score threshold]",
            show_default=False,
        ),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV in UTF-8.")] = False,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--sort-into",
            metavar="FOLDER",
            help="Copy each image into FOLDER/CLASS/, or FOLDER/not sure/. Nothing is overwritten.",
        ),
    ] = None,
    link: Annotated[
        bool, typer.Option("--link", help="With --sort-into: make links instead of copies.")
    ] = False,
) -> None:
    """Predict the most probable classes of images.

    Prints a row for each file, in the given order: 'not sure' if the highest probability is below
    the score threshold, which the training chose on validation images. If a file cannot be read,
    its row says why, and the exit status is 1.
    """
    if link and folder is None:
        raise InputError("--link goes with --sort-into")
    if on_hub(model) or Path(model).is_dir():  # other models run without TensorFlow
        machine.start_keras()
    from keras_resnet18.classify.classifier import open_classifier
    from keras_resnet18.classify.predict import predict
    from keras_resnet18.classify.sort import check_folder, sort_into

    # on a terminal, the rows themselves show the progress
    console = Console(stderr=True, quiet=sys.stdout.isatty())
    if folder is not None:
        check_folder(folder, images)
    classifier = open_classifier(model)
    rows = predict(classifier, images, top=top, threshold=threshold, console=console)
    found: Iterable[tuple[Prediction, Path | None]] = ((row, None) for row in rows)
    if folder is not None:
        found = sort_into(folder, rows, classifier.spec.labels, link=link)
    print_row = _csv_printer(top) if as_csv else _print_text
    broken, places = False, Counter[str]()
    for row, copy in found:
        print_row(row)
        broken |= row.error is not None
        if copy is not None:
            places[copy.parent.name] += 1
    if places:
        listed = ", ".join(f"{name} {n:,}" for name, n in sorted(places.items()))
        print(f"{folder}: {listed}", file=sys.stderr)
    if broken:
        raise typer.Exit(1)


def _print_text(row: Prediction) -> None:
    answer = row.error or "  ".join(f"{name} {p:.1%}" for name, p in row.top)
    if row.not_sure:
        name, p = row.top[0]
        answer = f"{NOT_SURE} (best: {name} {p:.1%})"
    print(row.path, answer, sep="  ")


def _csv_printer(top: int) -> Callable[[Prediction], None]:
    # print the bytes of file names unchanged, whatever the terminal's encoding
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    width = 0

    def print_row(row: Prediction) -> None:
        nonlocal width
        if not width:
            width = min(top, row.classes)
            kinds = ("class", "probability")
            names = [f"{kind}_{i}" for i in range(1, width + 1) for kind in kinds]
            writer.writerow(["file", *names, "not_sure", "error"])
        cells = [cell for name, p in row.top for cell in (name, f"{p:.6f}")]
        not_sure = "" if row.not_sure is None else str(row.not_sure).lower()
        cells += [""] * (2 * width - len(cells))
        writer.writerow([row.path, *cells, not_sure, row.error or ""])

    return print_row
