"""keras-resnet18 evaluate and benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keras_resnet18 import machine
from keras_resnet18.cli import tables
from keras_resnet18.cli.options import DataOption, ModelArgument, console
from keras_resnet18.names import SplitName


def evaluate(
    model: ModelArgument,
    data: DataOption = None,
    split: Annotated[SplitName, typer.Option(help="Which split of the images.")] = "test",
) -> None:
    """Measure top-1 accuracy on held-out images, with its 95 % interval."""
    machine.start_keras()
    from keras_resnet18.commands.evaluate import evaluate

    console().print(f"{split} accuracy {evaluate(model, data=data, split=split)}")


def benchmark(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN|FILE…",
            help="A run, for its model and all its exports; a .tflite, .onnx or .keras file; a "
            "SavedModel's folder.",
        ),
    ],
    data: DataOption = None,
    rounds: Annotated[int, typer.Option(help="How often each file is measured.")] = 3,
    seconds: Annotated[float, typer.Option(help="Seconds a measurement, after its warm-up.")] = 2.0,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE.json", help="Write every round's figures."),
    ] = None,
    plot_file: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.png", help="Plot accuracy against latency."),
    ] = None,
) -> None:
    """Measure latency, memory, size and top-1 of files side by side, on one thread and on all."""
    machine.start_keras()
    from keras_resnet18.commands.benchmark import benchmark

    out = console()
    results = benchmark(
        files,
        data=data,
        rounds=rounds,
        seconds=seconds,
        json_file=json_file,
        plot_file=plot_file,
        say=out.print,
    )
    tables.print_benchmark(out, results)
    for written in (json_file, plot_file):
        if written is not None:
            out.print(written)
