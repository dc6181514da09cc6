"""What an estimate from few images is worth: one split, or folds, beside images that nobody saw.

    python training/few_images.py FOLDER [--images 40] [--folds 5] [--seeds 5]
                        [--recipe photos] [--set KEY=VALUE …] [--rows saved_models/few-images.jsonl]

FOLDER holds class/…, with many more images than are taken. Each seed draws so many images of each
class. A training with one split (about a tenth for the test) and one with folds estimate their
accuracy by their own means; then both are asked about all images that were not drawn. An estimate
holds if that accuracy lies within its interval. A row is written for each training, and one that
has its row is not trained again.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
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

from keras_resnet18.errors import InputError
from keras_resnet18.machine import start_tensorflow

WAYS = ("one split", "folds")


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=at_least_one, default=40, help="of each class")
    parser.add_argument("--folds", type=at_least_one, default=5)
    parser.add_argument("--seeds", type=at_least_one, default=5)
    parser.add_argument("--recipe", default="photos")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--rows", type=Path, default=Path("saved_models/few-images.jsonl"))
    arguments = parser.parse_args(given)
    with refused_in_a_line():
        for seed in range(arguments.seeds):
            for way in WAYS:
                if (seed, way) not in {(row["seed"], row["way"]) for row in known(arguments)}:
                    append_row(arguments.rows, measured(arguments, seed, way))
    print(text(known(arguments)))


def settings_of(arguments: argparse.Namespace) -> Row:
    """What a row depends on, besides its seed."""
    kept = {name: vars(arguments)[name] for name in ("images", "folds", "recipe")}
    return {"source": arguments.folder.name, **kept, "changes": arguments.settings}


def known(arguments: argparse.Namespace) -> list[Row]:
    wanted = settings_of(arguments)
    return [
        row
        for row in read_rows(arguments.rows)
        if row["seed"] < arguments.seeds and all(row[key] == wanted[key] for key in wanted)
    ]


def drawn(arguments: argparse.Namespace, seed: int) -> tuple[Path, Path]:
    """Tables of the images that a seed draws, and of all others."""
    from keras_resnet18.data.sources import labeled_files

    files = labeled_files(arguments.folder)
    if files is None:
        raise InputError(f"images must be a folder class/…. Received: {arguments.folder}")
    root, images = files
    random, chosen = np.random.default_rng(seed), set()
    for name in sorted({image.class_name for image in images}):
        paths = [image.path for image in images if image.class_name == name]
        if len(paths) <= arguments.images:
            raise InputError(
                f"every class needs more images than are drawn. Received: {name!r} with "
                f"{len(paths)}, of which {arguments.images} are drawn"
            )
        chosen.update(random.choice(paths, arguments.images, replace=False).tolist())
    folder = arguments.rows.parent / f"few-images-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    tables = folder / "drawn.csv", folder / "others.csv"
    for path, wanted in zip(tables, (True, False), strict=True):
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(("path", "label"))
            for image in images:
                if (image.path in chosen) is wanted:
                    rows.writerow(((root / image.path).resolve(), image.class_name))
    return tables


def measured(arguments: argparse.Namespace, seed: int, way: str) -> Row:
    """Train by one of the ways, and ask the network about the images that were not drawn."""
    start_tensorflow()
    from keras_resnet18 import evaluate, load_run, train
    from keras_resnet18.run import Run

    own, others = drawn(arguments, seed)
    out = own.with_name(way.replace(" ", "-"))
    began = time.monotonic()
    if Run(out).finished:
        run = load_run(out)
    else:
        run = train(
            own,
            arguments.recipe,
            out,
            settings=[*arguments.settings, f"seed={seed}"],
            folds=arguments.folds if way == "folds" else None,
            overwrite=True,
        )
    figures, truth = run.figures, evaluate(run, data=str(others))
    low, high = figures["interval"]
    return {
        "seed": seed,
        "way": way,
        **settings_of(arguments),
        **{name: figures[name] for name in ("accuracy", "interval", "n")},
        "others_accuracy": truth.accuracy,
        "others_n": truth.n,
        "holds": bool(low <= truth.accuracy <= high),
        "seconds": round(time.monotonic() - began),
        "history": run.history,
        **machine(),
    }


def text(rows: Sequence[Row]) -> str:
    """A table of both ways, and the machines."""
    titles = ("way", "n", "estimate", "width of the interval", "images not drawn", "holds")
    cells = []
    for way in WAYS:
        of_way = [row for row in rows if row["way"] == way]
        if of_way:
            widths = [row["interval"][1] - row["interval"][0] for row in of_way]
            sizes = sorted({row["n"] for row in of_way})
            cells.append(
                (
                    way,
                    f"{sizes[0]} to {sizes[-1]}" if sizes[1:] else str(sizes[0]),
                    mean_and_spread([row["accuracy"] for row in of_way]),
                    mean_and_spread(widths),
                    mean_and_spread([row["others_accuracy"] for row in of_way]),
                    f"{sum(row['holds'] for row in of_way)} of {len(of_way)}",
                )
            )
    return f"{table(titles, cells)}\n\n{machine_in_words(rows)}"


if __name__ == "__main__":
    main()
