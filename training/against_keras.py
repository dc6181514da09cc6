"""The obvious Keras way beside ours on Fashion-MNIST: accuracy against minutes of training.

    python training/against_keras.py FOLDER [--images 20000] [--epochs 8] [--seeds 0]
                                     [--stem small_stride2] [--out saved_models/against_keras]

FOLDER holds the four IDX files; any other source whose images share a size will do, such as
`tfds:fashion_mnist`. Both sides train the same ResNet-18 on the same images and validate on the
same ones:

- Keras' way, as its guides show it: pixels of 0 to 1, `compile(Adam(1e-3), …)` and `fit`, batch
  128, float32, no augmentation, no schedule; the weights of the last epoch.
- Ours: `kr.train` by the recipe `small-images`, in the precision that it recommends here; the
  weights of the epoch with the best validation accuracy.

Each side of each seed is a process of its own, one at a time, so neither warms the other. Minutes
are those of training from the first step on, compiling included; validation and reading the images
are not in them. "Sooner" is the time in which Keras' way reaches its best validation accuracy over
the time in which ours reaches that accuracy, at the ends of epochs.

Every epoch and every test is a row in OUT/rows.jsonl, where ours comes in at the end of its
training. A side that is finished is not trained again; of those that were interrupted ours goes on,
and Keras' begins anew. The table is printed from the rows, and --figure is drawn from them. With
the defaults a seed takes 23 minutes on two threads of a CPU that multiplies bfloat16, and longer
on one that does not.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from images import arrays
from rows import (
    Row,
    append_row,
    at_least_one,
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

SIDES = {"keras": "Keras, as its guides show it", "ours": "ours, `small-images`"}
COLORS = {"keras": "tab:red", "ours": "tab:cyan"}
BATCH = 128
TRAINING = ("side", "seed", "images", "epochs", "stem")  # what tells a training from others


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", metavar="FOLDER")
    parser.add_argument("--images", type=at_least_one, default=20_000, help="training images")
    parser.add_argument("--epochs", type=at_least_one, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--stem", default="small_stride2")
    parser.add_argument("--out", type=Path, default=Path("saved_models/against_keras"))
    parser.add_argument("--figure", type=Path, default=Path("docs/against_keras.png"))
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)  # of a process
    arguments = parser.parse_args(given)
    with refused_in_a_line():
        if arguments.side is not None:
            train_side(arguments, arguments.seeds[0])
            return
        for seed in arguments.seeds:
            for side in SIDES:
                done = {(row["side"], row["seed"]) for row in tests(rows_of(arguments))}
                if (side, seed) not in done:
                    run_side(arguments, side, seed)
        print(text(rows := rows_of(arguments)))
        draw(curves_of(rows), arguments.figure)
        print(f"figure: {arguments.figure}")


def run_side(arguments: argparse.Namespace, side: str, seed: int) -> None:
    """Trains one side in a process of its own."""
    options = ("images", "epochs", "stem", "out")
    command = [sys.executable, __file__, arguments.source, "--side", side, "--seeds", str(seed)]
    command += [f"--{name}={getattr(arguments, name)}" for name in options]
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    if code := subprocess.run(command, env=environment, check=False).returncode:
        sys.exit(code)


def train_side(arguments: argparse.Namespace, seed: int) -> None:
    """What such a process does."""
    names = (arguments.side, seed, arguments.images, arguments.epochs, arguments.stem)
    about = dict(zip(TRAINING, names, strict=True))
    train = {"keras": train_keras, "ours": train_ours}[arguments.side]
    figures = train(arguments, seed, about)
    append_row(arguments.out / "rows.jsonl", {**about, "epoch": "test", **figures, **machine()})


def images_of(arguments: argparse.Namespace) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Training, validation and test images, the first as many as asked for, and the classes."""
    import keras_resnet18 as kr

    source = kr.open_source(arguments.source)
    if source.image_size is None:
        raise InputError(
            "the images must share a size: give a folder of IDX files. "
            f"Received: {arguments.source!r}, whose images do not"
        )
    splits = {name: arrays(split) for name, split in source.splits.items()}
    images, labels = splits["train"]
    chosen = np.random.default_rng(0).permutation(len(images))[: arguments.images]
    return {**splits, "train": (images[chosen], labels[chosen])}, source.classes


def train_keras(arguments: argparse.Namespace, seed: int, about: Row) -> Row:
    """As a person does who has read Keras' guides; each epoch is a row."""
    import keras

    import keras_resnet18 as kr

    splits, classes = images_of(arguments)
    x, y = {}, {}
    for name, (images, labels) in splits.items():
        x[name], y[name] = images.astype("float32") / 255, labels
    keras.utils.set_random_seed(seed)
    model = kr.build_resnet18(
        input_shape=x["train"].shape[1:],
        classes=len(classes),
        stem=arguments.stem,
        include_preprocessing=False,
    )
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )

    class Clock(keras.callbacks.Callback):
        seconds = begun = 0.0

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.begun = time.perf_counter()

        def on_test_begin(self, logs: Any = None) -> None:
            self.seconds += time.perf_counter() - self.begun

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            values = {"epoch": epoch + 1, "minutes": self.seconds / 60}
            values["validation_accuracy"] = float(logs["val_accuracy"])
            append_row(arguments.out / "rows.jsonl", {**about, **values})

    model.fit(
        x["train"],
        y["train"],
        batch_size=BATCH,
        epochs=arguments.epochs,
        validation_data=(x["validation"], y["validation"]),
        verbose=2,
        callbacks=[Clock()],
    )
    figures = test_figures(model.predict_on_batch, x["test"], y["test"])
    return {**figures, "precision": keras.config.dtype_policy().name}


def train_ours(arguments: argparse.Namespace, seed: int, about: Row) -> Row:
    """By the recipe, or goes on with a training that was interrupted."""
    start_keras()
    import keras_resnet18 as kr

    splits, classes = images_of(arguments)
    source = kr.from_arrays(
        *splits["train"],
        classes=classes,
        validation=splits["validation"],
        test=splits["test"],
        name="against_keras",
    )
    name = f"ours-{arguments.images}-images-{arguments.epochs}-epochs-{arguments.stem}-seed{seed}"
    out = arguments.out / name
    settings = [f"epochs={arguments.epochs}", f"batch_size={BATCH}", f"seed={seed}"]
    settings.append(f"network.stem={arguments.stem}")
    run = trained(source, "small-images", out, settings)
    for row, minutes in zip(run.history, minutes_by_epoch(run), strict=True):
        values = {"epoch": int(row["epoch"]), "minutes": minutes}
        values["validation_accuracy"] = row["validation_accuracy"]
        append_row(arguments.out / "rows.jsonl", {**about, **values})
    figures = test_figures(kr.open_classifier(run).predict, *splits["test"])
    return {**figures, "precision": run.environment["precision"]}


def test_figures(predict: Any, images: Any, labels: Any) -> Row:
    """Accuracy on the test images, and with the mean of an image's and its mirror's answers."""
    batches = np.array_split(np.arange(len(images)), -(-len(images) // 500))
    answers = np.concatenate([predict(images[rows]) for rows in batches])
    mirrored = np.concatenate([predict(images[rows, :, ::-1]) for rows in batches])
    return {
        "n": len(labels),
        "test_accuracy": float((answers.argmax(1) == labels).mean()),
        "flip_accuracy": float(((answers + mirrored).argmax(1) == labels).mean()),
    }


def rows_of(arguments: argparse.Namespace) -> list[Row]:
    """The rows of the trainings asked for, an epoch each and the test, as far as they have come."""
    wanted = {name: getattr(arguments, name) for name in ("images", "epochs", "stem")}
    rows = read_rows(arguments.out / "rows.jsonl", *TRAINING, "epoch")
    same = [row for row in rows if {name: row[name] for name in wanted} == wanted]
    return [row for row in same if row["seed"] in arguments.seeds]


def curves_of(rows: Sequence[Row]) -> dict[str, list[list[Row]]]:
    """The epochs of each side, a list for each seed whose two sides are finished."""
    done = [{row["seed"] for row in tests(rows) if row["side"] == side} for side in SIDES]
    return {
        side: [
            [r for r in rows if (r["side"], r["seed"]) == (side, seed) and r["epoch"] != "test"]
            for seed in sorted(set.intersection(*done))
        ]
        for side in SIDES
    }


def tests(rows: Sequence[Row]) -> list[Row]:
    """The last rows of the trainings that are finished."""
    return [row for row in rows if row["epoch"] == "test"]


def text(rows: Sequence[Row]) -> str:
    """A table of the two sides for each setting, over the seeds whose two sides are finished."""
    newest = {tuple(row[name] for name in (*TRAINING, "epoch")): row for row in rows}
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in newest.values():  # of a training that began anew, without the first attempt
        groups.setdefault((row["images"], row["epochs"], row["stem"]), []).append(row)
    tables = [table_of(group) for group in groups.values() if any(curves_of(group).values())]
    if not tables:
        raise InputError("of no seed both sides are finished")
    return "\n\n".join(tables)


def table_of(rows: Sequence[Row]) -> str:
    """The table of one setting, what its rows share, and the machines."""
    curves = curves_of(rows)
    seeds = [curve[0]["seed"] for curve in curves["ours"]]
    done = [row for row in tests(rows) if row["seed"] in seeds]
    lines = []
    for side, name in SIDES.items():
        of_side = [row for row in done if row["side"] == side]
        best = [max(row["validation_accuracy"] for row in curve) for curve in curves[side]]
        minutes = [curve[-1]["minutes"] for curve in curves[side]]
        cells = [name, ", ".join(dict.fromkeys(row["precision"] for row in of_side))]
        cells += [mean_and_spread(best), mean_and_spread([r["test_accuracy"] for r in of_side])]
        cells += [mean_and_spread([row["flip_accuracy"] for row in of_side])]
        lines.append([*cells, mean_and_spread(minutes, percent=False, digits=1)])
    titles = ["side", "precision", "best validation accuracy", "test accuracy"]
    titles += ["test, flip averaging", "minutes of training"]
    first = done[0]
    about = f"{first['images']:,} training images, {first['epochs']} epochs, stem {first['stem']}, "
    about += f"seeds {', '.join(map(str, seeds))}; n = {first['n']:,} test images"
    faster = sooner_in_words([sooner(*pair) for pair in zip(*curves.values(), strict=True)])
    return f"{table(titles, lines)}\n\n{about}\n{faster}\n\n{machine_in_words(done)}"


def sooner(keras: list[Row], ours: list[Row]) -> float | None:
    """Time to Keras' best validation accuracy over ours to the same; None if ours is never there.

    Args:
        keras: Epochs of one training.
        ours: Epochs of the other of the same seed.
    """
    best = max(keras, key=lambda row: row["validation_accuracy"])  # the first, if there are two
    reached = (r for r in ours if r["validation_accuracy"] >= best["validation_accuracy"])
    first = next(reached, None)
    return None if first is None else best["minutes"] / first["minutes"]


def sooner_in_words(factors: Sequence[float | None]) -> str:
    """What `sooner` gave for each seed, in a sentence."""
    known = [factor for factor in factors if factor is not None]
    if len(known) < len(factors):
        missing = len(factors) - len(known)
        return f"ours does not reach the other's best validation accuracy in {missing} seed(s)"
    spread = f" ± {statistics.stdev(known):.2f}" if len(known) > 1 else ""
    mean = statistics.mean(known)
    return f"ours reaches the other's best validation accuracy {mean:.2f}{spread} times as soon"


def draw(curves: dict[str, list[list[Row]]], path: Path) -> None:
    """Validation accuracy against minutes of training: thin for each seed, thick their mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for side, of_seeds in curves.items():
        points = np.array([[[r["minutes"], r["validation_accuracy"]] for r in c] for c in of_seeds])
        for seed in points if len(points) > 1 else ():
            axes.plot(seed[:, 0], 100 * seed[:, 1], color=COLORS[side], linewidth=1, alpha=0.6)
        mean = points.mean(0)
        label = SIDES[side].replace("`", "")
        line = {"color": COLORS[side], "linewidth": 2.2, "marker": "o", "markersize": 4}
        axes.plot(mean[:, 0], 100 * mean[:, 1], label=label, **line)
        if side == "keras":
            axes.axhline(100 * mean[:, 1].max(), color=COLORS[side], linewidth=1, linestyle=":")
    axes.set(xlabel="minutes of training", ylabel="validation accuracy, %")
    axes.set_xlim(left=0)
    # a first epoch near chance, at a high learning rate, would flatten all that follows
    later = [r["validation_accuracy"] for c in curves.values() for seed in c for r in seed[1:]]
    axes.set_ylim(bottom=max(0.0, 100 * min(later, default=0.0) - 3))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
