"""One recipe with some seeds: mean and spread of the accuracy.

    python training/seeds.py SOURCE [--recipe R] [--set KEY=VALUE …] [--seeds 0 1 2 3 4]
                             [--weights W] [--flip] [--out saved_models/seeds/NAME]

Trains by `kr.train` with each seed, as `keras-resnet18 train SOURCE --recipe R --set seed=0` and so
on do, one after another, and prints validation accuracy (of the epoch that was kept), test accuracy
and minutes of training, with their means and standard deviations. `--weights` fine-tunes a run or a
checkpoint. `--flip` adds the test accuracy of an image's and its mirror image's mean probabilities.

Each seed leaves a run in --out and a row in OUT/rows.jsonl. A seed that is finished is not trained
again; one that was interrupted goes on. A folder keeps to one SOURCE, recipe, settings and weights.
The digits take about a minute a seed on two threads, Fashion-MNIST's 20 epochs an hour.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from images import answers, mirrored
from rows import (
    Row,
    append_row,
    machine,
    machine_in_words,
    mean_and_spread,
    read_rows,
    refused_in_a_line,
    table,
)
from runs import minutes_by_epoch, trained

from keras_resnet18.errors import InputError
from keras_resnet18.machine import start_keras


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("--recipe", help="by default the one that suits the images")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--weights", help="a run, a checkpoint or a published name to fine-tune")
    parser.add_argument("--flip", action="store_true", help="also with flip averaging")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(given)
    with refused_in_a_line():
        if arguments.out is None:
            arguments.out = default_out(arguments.source, arguments.recipe, arguments.weights)
        task = {name: getattr(arguments, name) for name in ("source", "recipe", "set", "weights")}
        check_same(arguments.out, task)
        start_keras()
        for seed in arguments.seeds:
            if seed not in {row["seed"] for row in rows_of(arguments)}:
                figures = train(arguments, seed)
                append_row(arguments.out / "rows.jsonl", {"seed": seed, **task, **figures})
        print(text(rows_of(arguments)))


def default_out(source: str, recipe: str | None, weights: str | None) -> Path:
    """A folder named after what is trained."""
    words = [Path(source).name.replace(":", "-"), Path(recipe).stem if recipe else ""]
    words.append(f"from-{Path(weights).name}" if weights else "")
    return Path("saved_models/seeds") / "-".join(filter(None, words))


def check_same(out: Path, task: Mapping[str, Any]) -> None:
    """Raises InputError if the folder's seeds were trained on something else, or otherwise.

    A file keeps what the first seed was given, as an unfinished one has no row yet.
    """
    before = next(reversed(read_rows(out / "given.jsonl")), task)
    if before != task and any(out.glob("seed*/recipe.toml")):
        raise InputError(
            f"the seeds in {out} were given something else: give another folder with --out. "
            f"Received: {in_words(task)}; before: {in_words(before)}"
        )
    append_row(out / "given.jsonl", task)


def in_words(task: Mapping[str, Any]) -> str:
    """The part of a command that all seeds share."""
    options = [f"--{name} {task[name]}" for name in ("recipe", "weights") if task[name]]
    return " ".join([task["source"], *options, *(f"--set {setting}" for setting in task["set"])])


def train(arguments: argparse.Namespace, seed: int) -> Row:
    """Trains with one seed, and gives its figures."""
    import keras_resnet18 as kr

    settings = [*arguments.set, f"seed={seed}"]
    out = arguments.out / f"seed{seed}"
    run = trained(arguments.source, arguments.recipe, out, settings, arguments.weights)
    metrics = run.metrics
    figures = {
        "validation_accuracy": metrics["validation"]["accuracy"],
        "validation_n": metrics["validation"]["n"],
        "test_accuracy": metrics["test"]["accuracy"],
        "interval": metrics["test"]["interval"],
        "n": metrics["test"]["n"],
        "best_epoch": metrics["best_epoch"],
        "epochs": metrics["epochs"],
        "minutes": minutes_by_epoch(run)[-1],
        "history": run.history,
        "precision": run.environment["precision"],
    }
    if arguments.flip:
        figures["flip_accuracy"] = flip_accuracy(kr.open_classifier(run))
    return {**figures, **machine()}


def flip_accuracy(classifier: Any) -> float:
    """Test accuracy by the mean of the probabilities of an image and its mirror image."""
    images, preprocess = classifier.open_images().splits["test"], classifier.preprocess
    seen, labels = answers(classifier.predict, images, preprocess)
    other, _ = answers(classifier.predict, images, preprocess, mirrored)
    return float(((seen + other).argmax(1) == labels).mean())


def rows_of(arguments: argparse.Namespace) -> list[Row]:
    """The rows of the seeds asked for that are finished, with flip averaging if it is wanted."""
    rows = read_rows(arguments.out / "rows.jsonl", "seed")
    return [
        row
        for row in sorted(rows, key=lambda row: row["seed"])
        if row["seed"] in arguments.seeds and ("flip_accuracy" in row or not arguments.flip)
    ]


def text(rows: Sequence[Row]) -> str:
    """A table of the seeds with their mean, what they share, and the machines."""
    columns = {"validation_accuracy": "validation accuracy", "test_accuracy": "test accuracy"}
    if all("flip_accuracy" in row for row in rows):
        columns["flip_accuracy"] = "test, flip averaging"
    lines = []
    for row in rows:
        cells = {name: f"{row[name]:.2%}" for name in columns}
        low, high = row["interval"]
        cells["test_accuracy"] += f" ({low:.2%} to {high:.2%})"
        kept = f"{row['best_epoch']} of {row['epochs']}"
        lines.append([str(row["seed"]), *cells.values(), f"{row['minutes']:.1f}", kept])
    means = [mean_and_spread([row[name] for row in rows]) for name in columns]
    minutes = mean_and_spread([row["minutes"] for row in rows], percent=False, digits=1)
    lines.append([f"all {len(rows)}", *means, minutes, ""])
    found = table(["seed", *columns.values(), "minutes of training", "epoch kept"], lines)
    about = f"validation n = {rows[0]['validation_n']:,}, test n = {rows[0]['n']:,} images"
    about += f"\nseeds.py {in_words(rows[0])}, {rows[0]['precision']}"
    return f"{found}\n\n{about}\n{machine_in_words(rows)}"


if __name__ == "__main__":
    main()
