"""Figures of each class, and what a classifier that always says one class would have."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import precision_recall_fscore_support

from keras_resnet18.evaluation.interval import interval

Classes = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class ClassFigures:
    """Figures of one class.

    Attributes:
        name: The class.
        n: Number of its images.
        precision: Fraction of the images given this class that are of it; None where it was never
            given.
        recall: Fraction of its images that were given this class; None where it has no image.
        recall_interval: 95 % confidence interval of the recall (Wilson 1927), or None likewise.
        f1: Harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN); None where it has
            neither an image nor a prediction.
    """

    name: str
    n: int
    precision: float | None
    recall: float | None
    recall_interval: tuple[float, float] | None
    f1: float | None


def per_class(
    labels: Classes, predictions: Classes, classes: Sequence[str]
) -> tuple[ClassFigures, ...]:
    """Figures of each class, in the order of `classes`.

    Args:
        labels: The true classes, (n,).
        predictions: The predicted classes, (n,).
        classes: Names of all classes.
    """
    found = precision_recall_fscore_support(
        labels, predictions, labels=range(len(classes)), zero_division=math.nan
    )
    hits = np.bincount(labels[labels == predictions], minlength=len(classes))
    return tuple(
        ClassFigures(
            name=name,
            n=int(n),
            precision=_known(precision),
            recall=_known(recall),
            recall_interval=interval(int(hit), int(n)) if n else None,
            f1=_known(f1),
        )
        for name, precision, recall, f1, n, hit in zip(classes, *found, hits, strict=True)
    )


def majority(figures: Sequence[ClassFigures]) -> tuple[str, float]:
    """The class with the most images, and the accuracy of always predicting it."""
    largest = max(figures, key=lambda one: one.n)
    return largest.name, largest.n / sum(one.n for one in figures)


def balanced_accuracy(figures: Sequence[ClassFigures]) -> float:
    """Mean recall of the classes with images."""
    return float(np.mean([one.recall for one in figures if one.recall is not None]))


def to_rows(figures: Sequence[ClassFigures]) -> list[dict[str, Any]]:
    """The figures, for JSON."""
    rows = [dataclasses.asdict(one) for one in figures]
    return [
        row | {"recall_interval": row["recall_interval"] and list(row["recall_interval"])}
        for row in rows
    ]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
