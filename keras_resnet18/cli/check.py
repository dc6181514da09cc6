"""keras-resnet18 check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keras_resnet18 import machine
from keras_resnet18.cli.options import SourceArgument, SplitSeedOption, console


def check(
    source: SourceArgument,
    split_seed: SplitSeedOption = 0,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE.json", help="Write all of it, every image by name."),
    ] = None,
) -> None:
    """Look for what would spoil a training.

    Decodes every image, counts the classes of each split, and finds broken files, copies, blank
    images and odd names. Exit 1 if something would spoil a training or its figures.
    """
    machine.start_keras()
    from keras_resnet18.checking.check import check
    from keras_resnet18.cli.tables import print_check

    out = console()
    found = check(source, split_seed=split_seed, json_file=json_file, console=out)
    print_check(out, found)
    if json_file is not None:
        out.print(json_file)
    if found.spoiled:
        raise typer.Exit(1)
