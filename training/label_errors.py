"""How many wrong labels and near copies `check --label-errors` finds, of those that were made here.

    python training/label_errors.py SOURCE [--images N] [--recipe R] [--set KEY=VALUE …]
                                    [--fraction 0.05] [--seed 0] [--copies] [--out FOLDER]

Gives a fraction of the images of a source another class at random, trains on all of these labels,
right and wrong, and asks `kr.check` with the features of that run, since that is what people have.
Of the k least probable labels, k as many as were made wrong, it prints the fraction that is wrong,
with its Wilson interval at 95 %; of the labels that are contradicted, how many of the wrong ones
they are (recall) and how many of them are wrong (precision).

--copies measures near copies instead, on a folder of photos: each photo is resized to 90 % and
encoded anew as a JPEG of quality 75, and once more mirrored. It prints how many of these copies are
found beside their photo, and the names of all pairs of the photos themselves that look the same,
for a person to look at.

SOURCE is a folder, `digits` or a folder of IDX files; images that are not files are written to
--out as PNGs. A training that was interrupted goes on, and what is measured is a row in
OUT/rows.jsonl. The digits take two minutes on two threads, and 3,670 photos for --copies two.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rows import (
    Row,
    append_row,
    at_least_one,
    machine,
    machine_in_words,
    read_rows,
    refused_in_a_line,
    table,
)
from runs import digest, trained

from keras_resnet18.errors import InputError
from keras_resnet18.machine import start_keras

KEY = ("source", "images", "recipe", "set", "fraction", "seed", "copies", "model")
SPLITS = {"train": 0.8, "validation": 0.1, "test": 0.1}
COPIES = {"90 %, JPEG": False, "90 %, JPEG, mirrored": True}


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("--images", type=at_least_one, help="of the source, at random; or all")
    parser.add_argument("--recipe", default="photos")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--fraction", type=float, default=0.05, help="of wrong labels")
    parser.add_argument("--seed", type=int, default=0, help="of what is made wrong")
    parser.add_argument("--copies", action="store_true", help="measure near copies instead")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(given)
    if arguments.out is None:
        arguments.out = Path("saved_models/label_errors") / Path(arguments.source).name
    with refused_in_a_line():
        start_keras()
        (copies if arguments.copies else labels)(arguments)


def labels(arguments: argparse.Namespace) -> None:
    """Prints how many wrong labels are found."""
    import keras_resnet18 as kr

    manifest = manifest_with_wrong_labels(arguments)
    run = trained(manifest, arguments.recipe, arguments.out / "run", arguments.set)

    def measure() -> Row:
        with manifest.open(newline="", encoding="utf-8") as file:
            true = {row["path"]: row["true"] for row in csv.DictReader(file)}
        found = kr.check(manifest, features=run).labels
        assert found is not None
        test = run.metrics["test"]["accuracy"]
        return {
            **figures(found, true),
            "test_accuracy": test,
            "epochs": run.metrics["epochs"],
            "history": run.history,
        }

    print(text([measured(arguments, digest(run), measure)]))


def text(rows: Sequence[Row]) -> str:
    """A table of runs on wrong labels, and the machines."""
    titles = ["images", "n", "wrong", "wrong among as many least probable", "recall", "precision"]
    lines = []
    for row in rows:
        low, high = row["interval"]
        cells = [f"{Path(row['source']).name}, `{row['recipe']}`, {row['epochs']} epochs"]
        cells += [f"{row['n']:,}", f"{row['wrong']:,}"]
        cells.append(f"{row['found']:.1%} ({low:.1%} to {high:.1%})")
        cells += [f"{row[name]:.1%}" for name in ("recall", "precision", "confirmed")]
        lines.append(cells)
    return f"{table([*titles, 'labels confirmed'], lines)}\n\n{machine_in_words(rows)}"


def text_of_copies(rows: Sequence[Row]) -> str:
    """A table of near copies, and the machines."""
    titles = ["photos", "n", *(f"found, {kind}" for kind in COPIES), "pairs that look the same"]
    lines = []
    for row in rows:
        found = [f"{row[kind]:,} ({row[kind] / row['n']:.1%})" for kind in COPIES]
        name = Path(row["source"]).name
        lines.append([name, f"{row['n']:,}", *found, f"{len(row['pairs']):,}"])
    return f"{table(titles, lines)}\n\n{machine_in_words(rows)}"


def figures(found: Any, true: dict[str, str]) -> Row:
    """What a `LabelCheck` found of the wrong labels, by the images' true ones."""
    from keras_resnet18.classify.accuracy import interval

    is_wrong = [one.label != true[one.image] for one in found.labels]
    k, contradicted = sum(is_wrong), [one.suggested != one.label for one in found.labels]
    hits, both = sum(is_wrong[:k]), int(np.logical_and(is_wrong, contradicted).sum())
    return {
        "n": len(is_wrong),
        "wrong": k,
        "found": hits / k,
        "interval": interval(hits, k),
        "recall": both / k,
        "precision": both / max(sum(contradicted), 1),
        "confirmed": found.accuracy,
    }


def manifest_with_wrong_labels(arguments: argparse.Namespace) -> Path:
    """The table of all images, which is made if it is not there: path, label, split, true label."""
    import keras_resnet18 as kr

    path: Path = arguments.out / "images.csv"
    source = kr.open_source(arguments.source)
    if source.pool is None or not 0 < arguments.fraction < 1:
        raise InputError(
            "labels are made wrong of files, digits and IDX files, for a fraction of 0 to 1 of "
            f"them. Received: {arguments.source}, --fraction {arguments.fraction}"
        )
    pool, random = source.pool(), np.random.default_rng(arguments.seed)
    rows = np.sort(random.permutation(pool.size)[: arguments.images])
    true = pool.labels[rows]
    wrong = random.permutation(len(rows))[: round(arguments.fraction * len(rows))]
    given = true.copy()
    given[wrong] += random.integers(1, len(source.classes), len(wrong))
    given %= len(source.classes)
    splits = random.choice(list(SPLITS), len(rows), p=list(SPLITS.values()))
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        places = list(files(source, pool, rows, path.parent))
        names = [[source.classes[i] for i in of] for of in (given, true)]
        new = path.with_suffix(".new")
        with new.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(["path", "label", "split", "true"])
            csv.writer(file).writerows(zip(places, names[0], splits, names[1], strict=True))
        new.replace(path)
    return path


def files(source: Any, pool: Any, rows: Any, out: Path) -> Iterator[str]:
    """Paths of some images of a pool; those that are not files are written below `out`."""
    if source.folder is not None:
        yield from (str((source.folder / pool.names[row]).resolve()) for row in rows)
        return
    (out / "images").mkdir(exist_ok=True)
    wanted = np.isin(np.arange(pool.size), rows)
    images = pool.elements(None, 0).map(pool.fetch).as_numpy_iterator()
    for row, (pixels, _) in enumerate(images):
        if wanted[row]:
            Image.fromarray(pixels).save(out / "images" / f"{row}.png")
            yield f"images/{row}.png"


def copies(arguments: argparse.Namespace) -> None:
    """Prints how many near copies are found, and which photos look the same."""
    import keras_resnet18 as kr

    source = kr.open_source(arguments.source)
    if source.folder is None:
        raise InputError(f"near copies are made of files. Received: {arguments.source}")
    names = source.pool().names[: arguments.images]

    def measure() -> Row:
        photos, made = thumbnails(source.folder, names)
        pairs = [(str(a.name), str(b.name)) for a, b in alike(names, photos)]
        row: Row = {"n": len(names), "pairs": pairs}
        for kind, of_kind in made.items():
            both = alike([*names, *(f"copy of {name}" for name in names)], [*photos, *of_kind])
            found = {frozenset((a.name, b.name)) for a, b in both}
            row[kind] = sum(frozenset((name, f"copy of {name}")) in found for name in names)
        return row

    row = measured(arguments, "", measure)
    print(text_of_copies([row]))
    print(f"\n{len(row['pairs'])} pairs of photos look the same:")
    for pair in row["pairs"]:
        print(" and ".join(pair))


def alike(names: Sequence[str], small: Sequence[Any]) -> Any:
    """Pairs of images that look the same, whatever their classes."""
    from keras_resnet18.checking.findings import Place
    from keras_resnet18.checking.labels import near_copies

    return near_copies(np.stack(small), [Place("train", name, name) for name in names], {})


def thumbnails(folder: Path, names: Sequence[str]) -> tuple[list[Any], dict[str, list[Any]]]:
    """Thumbnails of photos and of each kind of their copies."""
    import keras_resnet18 as kr
    from keras_resnet18.checking.labels import thumbnail

    photos, made = [], {kind: [] for kind in COPIES}
    for name in names:
        photos.append(thumbnail(pixels := kr.read_image(folder / name)).numpy())
        for kind, mirrored in COPIES.items():
            image = Image.fromarray(pixels)
            image = image.resize([max(1, round(0.9 * side)) for side in image.size])
            if mirrored:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            image.save(content := io.BytesIO(), "JPEG", quality=75)
            made[kind].append(thumbnail(np.array(Image.open(content))).numpy())
    return photos, made


def measured(arguments: argparse.Namespace, model: str, measure: Any) -> Row:
    """A row of OUT/rows.jsonl: the one that is there, or a new one."""
    values = {**vars(arguments), "model": model}
    key = {name: values[name] for name in KEY}
    path = arguments.out / "rows.jsonl"
    for row in read_rows(path):
        if {name: row[name] for name in KEY} == key:
            return row
    row = {**key, **measure(), **machine()}
    append_row(path, row)
    return read_rows(path)[-1]


if __name__ == "__main__":
    main()
