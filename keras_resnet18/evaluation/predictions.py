"""predictions.csv: a row for each image, with its class and the predicted one."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from keras_resnet18.errors import InputError
from keras_resnet18.evaluation.accuracy import Evaluation

HEADER = ("path", "true class", "predicted class", "probability")


class Predictions(NamedTuple):
    """Rows of predictions.csv, as `Evaluation` has them too: names, classes, probabilities."""

    names: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]


def write_predictions(evaluation: Evaluation, path: Path) -> None:
    """Writes a row for each image, in the order of the split; paths are below the images' folder.

    An image without a path, such as one of an array, has its number from 0.
    """
    # a file's name is bytes, and must come out as it is
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        rows = zip(
            evaluation.names,
            evaluation.labels,
            evaluation.predictions,
            evaluation.probabilities,
            strict=True,
        )
        for name, truth, predicted, probability in rows:
            classes = (evaluation.classes[i] for i in (truth, predicted))
            writer.writerow([name, *classes, f"{probability:.6f}"])


def read_predictions(path: Path, classes: Sequence[str]) -> Predictions:
    """Reads what `write_predictions` wrote.

    Raises:
        InputError: If it is damaged, or names a class that is not in `classes`.
    """
    numbers = {name: i for i, name in enumerate(classes)}
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            header, *rows = csv.reader(file)
        names, labels, predictions, probabilities = zip(*rows, strict=True)
        if tuple(header) != HEADER:
            raise ValueError(f"the header {','.join(header)}")
        return Predictions(
            names,
            np.array([numbers[name] for name in labels]),
            np.array([numbers[name] for name in predictions]),
            np.array(probabilities, np.float32),
        )
    except (ValueError, KeyError, csv.Error) as error:
        raise InputError(
            f"{path.name} must be the table that `train` wrote: remove it, and `report` measures "
            f"again. Received: {path} with {error}"
        ) from None


def is_predictions(path: Path) -> bool:
    """Whether a file begins as `write_predictions` begins one."""
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        return file.readline().rstrip("\n") == ",".join(HEADER)
