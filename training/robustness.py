"""What phones do to images: accuracy of runs and of their int8 files on changed test images.

    python training/robustness.py RUN... [--images N] [--data SOURCE] [--rows FILE]

Measures each run and its int8 TFLite file, which is exported where it is missing, on the run's test
images as they are, at JPEG quality 30, at half size (shrunk and enlarged again, bilinearly),
rotated by 15° (with black corners), at 0.7 and 1.3 times the brightness, converted from Display P3
to sRGB as if they were tagged so, and with the levels that Display P3 has for their colors. The
change is made to the decoded image, before the run's preprocessing. Prints a table for each run:
accuracies with their Wilson intervals at 95 %, and on how many images model and file agree.

--images takes that many of the test images, the same ones each time, instead of all; --data opens
them where they have moved, or came from arrays. Each line of a table is a row in --rows as soon as
it is known, and is not measured again while the run's model stays. 10,000 images of 28 px take
two minutes on two threads, 1,000 of 128 px about as long.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from images import Change, answers
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
from runs import digest

from keras_resnet18.errors import InputError
from keras_resnet18.machine import start_keras

Pixels = np.ndarray[Any, Any]  # uint8 (height, width, 3)

KEY = ("run", "model", "images", "data", "change")


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--images", type=at_least_one, help="of each run; all by default")
    parser.add_argument("--data", help="the runs' images, where they are not where they were")
    parser.add_argument("--rows", type=Path, default=Path("saved_models/robustness.jsonl"))
    arguments = parser.parse_args(given)
    with refused_in_a_line():
        start_keras()
        import keras_resnet18 as kr

        for run in [kr.load_run(path) for path in arguments.runs]:
            print(f"\n{text(measure(run, arguments))}\n", flush=True)


def measure(run: Any, arguments: argparse.Namespace) -> list[Row]:
    """The rows of a run: those in the file, and then those that it lacks."""
    import keras_resnet18 as kr

    about = (str(run.path), digest(run), arguments.images, arguments.data)
    keys = {name: dict(zip(KEY, (*about, name), strict=True)) for name in CHANGES}
    known = {tuple(row[name] for name in KEY): row for row in read_rows(arguments.rows, *KEY)}
    if all((*about, name) in known for name in CHANGES):
        return [known[(*about, name)] for name in CHANGES]
    classifier = kr.open_classifier(run)
    split = classifier.open_images(arguments.data).splits["test"]
    predict = [classifier.predict]
    if (file := int8_file(run, arguments.data)) is not None:
        predict.append(kr.open_classifier(file).predict)
    rows = []
    for name, change in CHANGES.items():
        row = known.get((*about, name))
        if row is None:
            found, labels = answers(
                lambda pixels: np.stack([one(pixels) for one in predict], axis=1),
                split,
                run.preprocess,
                change,
                arguments.images,
            )
            row = {**keys[name], **figures(found.argmax(-1), labels), **machine()}
            append_row(arguments.rows, row)
            print(f"{run.path}: {name}, {row['accuracy']:.2%}", flush=True)
        rows.append(row)
    return rows


def int8_file(run: Any, data: str | None) -> Path | None:
    """The run's int8 file, exported now if it is missing; None, and why, if there can be none."""
    import keras_resnet18 as kr
    from keras_resnet18.files import EXPORTS

    file: Path = run.export_folder / EXPORTS["tflite-int8"].file
    if not file.is_file():
        try:
            print(*kr.export(run, "tflite-int8", data=data), flush=True)
        except InputError as error:
            print(f"{run.path} without an int8 file: {error}", flush=True)
            return None
    return file


def figures(found: Any, labels: Any) -> Row:
    """Accuracy of the model and of the file.

    Args:
        found: The classes that each found, (n, 2), or (n, 1) without a file.
        labels: The right ones, (n,).
    """
    from keras_resnet18.classify.accuracy import interval

    row: Row = {"n": len(labels)}
    for name, classes in zip(("", "int8_"), found.T, strict=False):
        hits = int((classes == labels).sum())
        row |= {
            f"{name}accuracy": hits / len(labels),
            f"{name}interval": interval(hits, len(labels)),
        }
    if found.shape[1] == 2:
        row["agreement"] = float((found[:, 0] == found[:, 1]).mean())
    return row


def text(rows: Sequence[Row]) -> str:
    """A table of a run, and the machines."""

    def accuracy(row: Row, name: str = "") -> str:
        if f"{name}accuracy" not in row:
            return ""
        low, high = row[f"{name}interval"]
        return f"{row[f'{name}accuracy']:.2%} ({low:.2%} to {high:.2%})"

    lines = [
        [
            row["change"],
            accuracy(row),
            accuracy(row, "int8_"),
            f"{row['agreement']:.2%}" if "agreement" in row else "",
        ]
        for row in rows
    ]
    about = f"{rows[0]['run']}, n = {rows[0]['n']:,} test images"
    found = table(["test images", "model", "int8 file", "agreement"], lines)
    return f"{about}\n\n{found}\n\n{machine_in_words(rows)}"


def jpeg(image: Pixels) -> Pixels:
    """Encoded at quality 30, and decoded."""
    Image.fromarray(image).save(file := io.BytesIO(), "JPEG", quality=30)
    return np.asarray(Image.open(file).convert("RGB"))


def half_size(image: Pixels) -> Pixels:
    """Shrunk to half its sides, and enlarged to what it was."""
    whole = Image.fromarray(image)
    half = whole.resize((max(whole.width // 2, 1), max(whole.height // 2, 1)), _BILINEAR)
    return np.asarray(half.resize(whole.size, _BILINEAR))


def rotated(image: Pixels) -> Pixels:
    """Turned by 15° to the left, within its sides."""
    return np.asarray(Image.fromarray(image).rotate(15, _BILINEAR))


def brightness(factor: float) -> Change:
    """A change that multiplies every level, up to white."""
    return lambda image: np.rint((image * factor).clip(0, 255)).astype(np.uint8)


def in_linear_light(matrix: Pixels) -> Change:
    """A change that multiplies linear red, green and blue by a matrix, within the levels."""

    def change(image: Pixels) -> Pixels:
        levels = image / 255  # sRGB's curve, IEC 61966-2-1, which Display P3 shares
        light = np.where(levels > 0.04045, ((levels + 0.055) / 1.055) ** 2.4, levels / 12.92)
        light = (light @ matrix.T).clip(0, 1)
        levels = np.where(light > 0.0031308, 1.055 * light ** (1 / 2.4) - 0.055, 12.92 * light)
        return np.rint(255 * levels).astype(np.uint8)

    return change


# From linear Display P3 to linear sRGB: CSS Color Module Level 4, sample code
_P3_TO_SRGB = np.array(
    [[1.224940, -0.224940, 0], [-0.042057, 1.042057, 0], [-0.019638, -0.078636, 1.098274]]
)

_BILINEAR = Image.Resampling.BILINEAR

CHANGES: dict[str, Change | None] = {
    "as they are": None,
    "JPEG quality 30": jpeg,
    "half size": half_size,
    "rotated by 15°": rotated,
    "brightness × 0.7": brightness(0.7),
    "brightness × 1.3": brightness(1.3),
    "Display P3 converted to sRGB": in_linear_light(_P3_TO_SRGB),
    "sRGB stored as Display P3": in_linear_light(np.linalg.inv(_P3_TO_SRGB)),
}


if __name__ == "__main__":
    main()
