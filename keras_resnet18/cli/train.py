"""keras-resnet18 train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keras_resnet18 import machine
from keras_resnet18.cli.options import console
from keras_resnet18.errors import InputError
from keras_resnet18.names import PRECISIONS, RECIPES


def train(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SOURCE]",
            help="A folder of images (class/… or train|val|test/class/…), a folder of IDX files, "
            "tfds:NAME, or digits.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write. [default: saved_models/<source>]")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(RECIPES)}, or a .toml file. [default: what suits the images]"
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH",
            help="What to fine-tune: published weights (keras-resnet18 info weights), or a "
            "checkpoint such as resnet18.safetensors. Means --recipe finetune.",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    precision: Annotated[
        str | None, typer.Option(help=f"{', '.join(PRECISIONS)}; instead of the recipe's.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change the recipe, such as optimizer.learning_rate=0.1; may be repeated.",
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace a run there, which stays until the new one is finished."
        ),
    ] = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Go on with an unfinished run, as if it had not been interrupted."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="With --resume: where the images have moved to."),
    ] = None,
) -> None:
    """Train a classifier on images, and leave a run: model, figures, plots."""
    machine.start_keras()
    from keras_resnet18.commands.train import train

    changes = [f"epochs={epochs}"] if epochs is not None else []
    changes += [f"precision={precision}"] if precision is not None else []
    if data is not None and (resume is None or source is not None):
        raise InputError("--data goes with --resume; a new training takes its images as SOURCE")
    train(
        source if data is None else data,
        recipe,
        out,
        weights=weights,
        settings=[*changes, *(settings or [])],
        overwrite=overwrite,
        resume=resume,
        console=console(),
    )
