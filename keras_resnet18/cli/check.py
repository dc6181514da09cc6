"""keras-resnet18 check."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from keras_resnet18 import machine
from keras_resnet18.cli.options import SOURCE, SplitSeedOption, console
from keras_resnet18.errors import InputError
from keras_resnet18.files import check_destination, staged, to_json

if TYPE_CHECKING:
    from keras_resnet18.checking.check import Check

_MOST_CLASSES, _MOST_BROKEN = 40, 10


def check(
    source: Annotated[str, SOURCE],
    split_seed: SplitSeedOption = 0,
    label_errors: Annotated[
        bool,
        typer.Option(
            "--label-errors",
            help="Find labels that the other images contradict, and images that are almost the "
            "same as one of another class or split. Needs --features.",
        ),
    ] = False,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="With --label-errors: model that computes features; a run, even one trained on "
            "these images, a checkpoint, or a name such as imagenet.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="With --label-errors: write labels.html, a page of suspicious images, and "
            "labels.csv, a manifest to correct and train with.",
        ),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE.json", help="Write all findings and image names."),
    ] = None,
) -> None:
    """Check images for problems that would spoil a training.

    Decodes every image, counts the classes of each split, and finds broken files, copies, blank
    images and odd names; with --label-errors also labels that are probably wrong. Exit status 1 if
    something would spoil a training or its figures.
    """
    if label_errors != (features is not None) or (out is not None and not label_errors):
        raise InputError(
            "--label-errors, with --out or without, goes with --features MODEL: a run, a "
            "checkpoint or a name such as imagenet"
        )
    machine.start_keras()
    from keras_resnet18.checking.check import check
    from keras_resnet18.checking.labels import PAGE, TABLE

    if json_file is not None:
        check_destination(json_file, Path.is_file, "a file")
    terminal = console()
    found = check(source, split_seed=split_seed, features=features, out=out, console=terminal)
    _print(terminal, found)
    if out is not None and found.labels is not None:
        terminal.print(out / PAGE)
        use = "to correct and train with" if found.labels.are_files else "of images without files"
        terminal.print(f"{out / TABLE}, a table {use}")
    if json_file is not None:
        with staged(json_file) as new:
            new.write_text(to_json(dataclasses.asdict(found)), encoding="utf-8")
        terminal.print(json_file)
    if found.spoiled:
        raise typer.Exit(1)


def _print(console: Console, found: Check) -> None:
    """Print image counts by class and split, and the findings; truncate long lists."""
    from keras_resnet18.classify.table import plain_table

    for note in found.notes:
        console.print(note)
    if counts := found.counts:
        classes = list(next(iter(counts.values())))
        rows = [[name, *(f"{n[name]:,}" for n in counts.values())] for name in classes]
        table = plain_table(("class", *counts), rows[:_MOST_CLASSES])
        table.add_section()
        sums = (f"{sum(n.values()):,}" for n in counts.values())
        table.add_row(f"{len(classes):,} classes", *sums)
        console.print(table, soft_wrap=False)
        if len(classes) > _MOST_CLASSES:
            console.print(f"the first {_MOST_CLASSES} classes of {len(classes):,}")
    broken = [finding for finding in found.findings if finding.kind == "undecodable"]
    others = [finding for finding in found.findings if finding.kind != "undecodable"]
    for finding in (*broken[:_MOST_BROKEN], *others):
        console.print(f"{'spoils: ' if finding.spoils else ''}{finding.text}")
    if (more := len(broken) - _MOST_BROKEN) > 0:
        console.print(f"{more:,} more images cannot be decoded: --json FILE.json names all")
    end = "something would spoil a training" if found.spoiled else "nothing would spoil a training"
    console.print(f"{found.n:,} images decoded: {end}")
