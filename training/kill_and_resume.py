"""Kills a training at random moments and resumes it: are the bits those of one never killed?

    python training/kill_and_resume.py [FOLDER] [--kills 20] [--every 10] [--epochs 6]

Trains a ResNet-18 on scikit-learn's digits once to its end, by the recipe digits with dropout,
shifts, mixup, CutMix and color jitter. Then trains it again and again, each time killed with
SIGKILL after a random number of seconds, up to five times before it may finish; then compares
weights, metrics and history with the first training's, bit by bit. Writes a row for each kill to
FOLDER/kills.csv as it goes. `--every` is the
number of seconds between checkpoints, 60 in the library.
"""

from __future__ import annotations

import argparse
import csv
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rows import at_least_one, refused_in_a_line

from keras_resnet18.errors import InputError
from keras_resnet18.machine import start_keras

KILLS_A_TRAINING = 5
RANDOM = (
    "network.dropout=0.2",
    "augment.shift=1",
    "augment.mixup=0.2",
    "augment.cutmix=1.0",
    "augment.jitter=0.2",
)
COLUMNS = ("kill", "training", "after_seconds", "newest_checkpoint", "training_is_bit_equal")


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("saved_models/kills"))
    parser.add_argument("--kills", type=at_least_one, default=20)
    parser.add_argument("--every", type=float, default=10.0)
    parser.add_argument("--epochs", type=at_least_one, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)  # of the killed process
    arguments = parser.parse_args(given)
    if arguments.train is not None:
        train_or_resume(arguments.train, arguments.every, arguments.epochs)
    else:
        with refused_in_a_line():
            kill_and_compare(arguments)


def train_or_resume(out: Path, every: float, epochs: int) -> None:
    """The process that is killed."""
    start_keras()
    import keras_resnet18 as kr
    from keras_resnet18.fit import resume

    resume.EVERY = resume.AT_AN_EPOCH = every
    resume.TIMES_ITS_COST = 0
    if (out / "recipe.toml").is_file():
        kr.train(resume=out)
    else:
        kr.train("digits", "digits", out, settings=[f"epochs={epochs}", *RANDOM])


def kill_and_compare(arguments: argparse.Namespace) -> None:
    folder, chance = arguments.folder, random.Random(arguments.seed)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder cannot be made: {folder} ({error.strerror})") from None
    whole = folder / "whole"
    started = time.monotonic()
    start(whole, arguments).wait()
    seconds = time.monotonic() - started
    print(f"a training that is not killed takes {seconds:.0f} s", flush=True)
    rows: list[dict[str, Any]] = []
    while len(rows) < arguments.kills:
        number = rows[-1]["training"] + 1 if rows else 1
        out = folder / f"killed{number}"
        kills: list[dict[str, Any]] = []
        while len(kills) < min(KILLS_A_TRAINING, arguments.kills - len(rows)):
            after = chance.uniform(0, seconds)
            process = start(out, arguments)
            try:
                process.wait(after)
                break  # it came to its end
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            newest = max((out / "checkpoints").glob("epoch*.npz"), default=None)
            place = newest.stem if newest else "none"
            values = (len(rows) + len(kills) + 1, number, round(after, 1), place, "")
            kills.append(dict(zip(COLUMNS, values, strict=True)))
            print(*values[:-1], flush=True)
            write(rows + kills, folder)
        if not (out / "metrics.json").is_file():
            start(out, arguments).wait()
        equal = is_bit_equal(out, whole)
        rows += [{**kill, "training_is_bit_equal": equal} for kill in kills]
        write(rows, folder)
    trainings = {row["training"] for row in rows}
    equal = {row["training"] for row in rows if row["training_is_bit_equal"]}
    print(f"{len(rows)} kills in {len(trainings)} trainings, of which {len(equal)} are bit-equal")
    sys.exit(equal != trainings)


def start(out: Path, arguments: argparse.Namespace) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, "--train", out, "--every", arguments.every]
    command += ["--epochs", arguments.epochs]
    with (arguments.folder / f"{out.name}.log").open("ab") as log:
        return subprocess.Popen(list(map(str, command)), stdout=log, stderr=log)


def write(rows: list[dict[str, Any]], folder: Path) -> None:
    with (folder / "kills.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def is_bit_equal(out: Path, whole: Path) -> bool:
    start_keras()
    import keras_resnet18 as kr

    ours, theirs = kr.load_run(out), kr.load_run(whole)
    pairs = zip(ours.model.get_weights(), theirs.model.get_weights(), strict=True)
    return (
        all(a.tobytes() == b.tobytes() for a, b in pairs)
        and ours.metrics == theirs.metrics
        and history(ours.history_file) == history(theirs.history_file)
    )


def history(path: Path) -> list[dict[str, str]]:
    """The rows without their times."""
    with path.open(newline="") as file:
        return [{**row, "images_per_second": ""} for row in csv.DictReader(file)]


if __name__ == "__main__":
    main()
