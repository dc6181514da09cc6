"""keras-resnet18 train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keras_resnet18 import machine
from keras_resnet18.cli.options import SOURCE, SplitSeedOption, console
from keras_resnet18.cli.watched import watched
from keras_resnet18.errors import InputError
from keras_resnet18.recipe import PRECISIONS, RECIPES


def train(
    source: Annotated[str | None, SOURCE] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where to write. [default: saved_models/<source>]"),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help=f"{', '.join(RECIPES)}, or a .toml file. [default: chosen for the images]",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH",
            help="Weights to fine-tune: published ones (keras-resnet18 info weights), a "
            "checkpoint such as resnet18.safetensors, or a run, also hf:OWNER/NAME. "
            "Implies --recipe finetune.",
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(metavar="N", help="Number of epochs. [default: the recipe's]")
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option(metavar="N", help="Stop after N minutes, and keep the best epoch so far."),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"{', '.join(PRECISIONS)}. [default: the recipe's]"),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change the recipe, such as optimizer.learning_rate=0.1; may be repeated.",
        ),
    ] = None,
    split_seed: SplitSeedOption = 0,
    on_bad_image: Annotated[
        str,
        typer.Option(
            metavar="raise|skip",
            help="What to do about broken images; skip decodes all images first, and lists those "
            "that it leaves out.",
        ),
    ] = "raise",
    dedupe: Annotated[
        bool,
        typer.Option(
            "--dedupe", help="Leave out validation and test images that are copies of others."
        ),
    ] = False,
    folds: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Cross-validation for few images: N trainings each leave out a part and are "
            "measured on it, then one uses all images. It takes N + 1 times as long.",
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace the run in --out, once the new one is finished."),
    ] = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Continue an interrupted run, as if it had never stopped."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="With --resume: new location of the images."),
    ] = None,
    distributed: Annotated[
        bool,
        typer.Option(
            "--distributed",
            help="Train in several processes, such as on several machines; needs "
            "KERAS_BACKEND=jax. Without SLURM or Open MPI, give the next three options.",
        ),
    ] = False,
    coordinator: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="With --distributed: address of process 0."),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(metavar="N", help="With --distributed: number of processes.")
    ] = None,
    process: Annotated[
        int | None, typer.Option(metavar="I", help="With --distributed: this process, from 0.")
    ] = None,
) -> None:
    """Train a classifier on labeled images.

    Writes a run: a folder with the model, the recipe, the metrics and plots. Ctrl-C saves a
    checkpoint, which --resume continues.
    """
    given = {"epochs": epochs, "max_minutes": max_minutes, "precision": precision}
    changes = [f"{key}={value}" for key, value in given.items() if value is not None]
    if data is not None and (resume is None or source is not None):
        raise InputError("--data goes with --resume; a new training takes its images as SOURCE")
    cluster = (coordinator, processes, process)
    if any(x is not None for x in cluster) and not distributed:
        raise InputError("--coordinator, --processes and --process go with --distributed")

    def work() -> None:
        machine.start_keras()
        from keras_resnet18.distributed import Cluster
        from keras_resnet18.fit.train import train

        train(
            source if data is None else data,
            recipe,
            out,
            weights=weights,
            settings=[*changes, *(settings or [])],
            split_seed=split_seed,
            on_bad_image=on_bad_image,
            dedupe=dedupe,
            folds=folds,
            overwrite=overwrite,
            resume=resume,
            cluster=Cluster(*cluster) if distributed else None,
            console=console(),
        )

    if distributed:
        watched(work)
    else:
        work()
