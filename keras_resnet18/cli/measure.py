"""keras-resnet18 evaluate and benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from keras_resnet18 import machine
from keras_resnet18.cli import tables
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
    """Measure accuracy, overall and of each class.

    Prints top-1 with its 95 % interval, top-5 from six classes on, balanced accuracy and the
    cross-entropy, and each class's recall, precision and F1.
    """
    machine.start_keras()
    from keras_resnet18.commands.evaluate import evaluate
    from keras_resnet18.evaluation.table import print_classes

    out = console()
    found = evaluate(model, data=data, split=split, out=folder)
    split = split or ("test" if data is None else "all")
    out.print(f"{'accuracy' if split == 'all' else f'{split} accuracy'} {found}")
    out.print(*found.notes(), sep="\n")
    all_in = "metrics.json with --out" if folder is None else str(folder / "metrics.json")
    print_classes(out, found.per_class, all_in)
    if folder is not None:
        out.print(folder)


def benchmark(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN|FILE",
            help="A run, for its model and all its exports; a .tflite, .onnx or .keras file; a "
            "SavedModel.",
        ),
    ],
    data: DataOption = None,
    rounds: Annotated[int, typer.Option(metavar="N", help="How often each file is measured.")] = 3,
    seconds: Annotated[
        float, typer.Option(metavar="S", help="Length of a measurement, without its warm-up.")
    ] = 2.0,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE.json", help="Write the figures of every round."),
    ] = None,
    plot_file: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.png", help="Plot accuracy against latency."),
    ] = None,
) -> None:
    """Measure latency, memory, size and top-1 of model files.

    Each file is measured on one thread and on all, in turns, each time in a process of its own.
    """
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
