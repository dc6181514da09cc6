"""predictions.csv: a row for each image, with its class and the predicted one."""

from __future__ import annotations

import csv
from pathlib import Path

from keras_resnet18.evaluation.accuracy import Evaluation

HEADER = ("path", "true class", "predicted class", "probability")


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


def is_predictions(path: Path) -> bool:
    """Whether a file begins as `write_predictions` begins one."""
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        return file.readline().rstrip("\n") == ",".join(HEADER)
