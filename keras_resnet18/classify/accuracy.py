"""Accuracy on labeled images: figures with intervals, overall and of each class."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from sklearn.metrics import precision_recall_fscore_support

from keras_resnet18 import distributed
from keras_resnet18.classify.calibration import reliability
from keras_resnet18.classify.exported import Predict
from keras_resnet18.data.pipeline import eval_batches
from keras_resnet18.data.splits import Split
from keras_resnet18.errors import InputError, listed
from keras_resnet18.images import broken_image
from keras_resnet18.spec import ClassifierSpec

_Z = 1.959963984540054  # the normal distribution's 97.5 % quantile


def interval(hits: int, n: int) -> tuple[float, float]:
    """95 % confidence interval of the proportion hits / n (Wilson 1927)."""
    middle = (hits + _Z**2 / 2) / (n + _Z**2)
    half = _Z / (n + _Z**2) * math.sqrt(hits * (n - hits) / n + _Z**2 / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def in_words(fraction: float, interval: Sequence[float], n: int) -> str:
    """Formats a fraction with its interval and n."""
    low, high = interval
    return f"{fraction:.2%} (95 % interval {low:.2%} to {high:.2%}, n = {n:,})"


# Figures of each class, and of a classifier that always predicts the same class

Classes = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class ClassFigures:
    """Figures of one class.

    Attributes:
        name: Name of the class.
        n: Number of images of the class.
        precision: TP / (TP + FP); None if the class was never predicted.
        recall: TP / (TP + FN); None if the class has no images.
        recall_interval: 95 % confidence interval of the recall (Wilson 1927), or None.
        f1: 2 TP / (2 TP + FP + FN); None if the class has neither images nor predictions.
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
    """Computes the figures of each class, in the order of `classes`."""
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
    """Returns the class with the most images, and the accuracy of always predicting it."""
    largest = max(figures, key=lambda one: one.n)
    return largest.name, largest.n / sum(one.n for one in figures)


def balanced_accuracy(figures: Sequence[ClassFigures]) -> float:
    """Mean recall of the classes with images."""
    return float(np.mean([one.recall for one in figures if one.recall is not None]))


def to_rows(figures: Sequence[ClassFigures]) -> list[dict[str, Any]]:
    """Converts the figures for JSON."""
    rows = [dataclasses.asdict(one) for one in figures]
    return [
        row | {"recall_interval": row["recall_interval"] and list(row["recall_interval"])}
        for row in rows
    ]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


# A classifier's answers on labeled images

_BATCH_SIZE = 64
_SMALLEST_PROBABILITY = 1e-7  # Keras' epsilon; limits the loss of one image to 16
_TOP_5_FROM = 6  # classes; with five, top-5 accuracy is always 1


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A classifier's answers on n labeled images.

    Attributes:
        accuracy: Top-1 accuracy, 0 to 1.
        interval: 95 % confidence interval of the accuracy (Wilson 1927).
        loss: Mean cross-entropy in nats, without label smoothing.
        n: Number of images.
        top5: Top-5 accuracy, 0 to 1; None for fewer than six classes.
        labels: True classes, (n,).
        predictions: Most probable classes, (n,).
        probabilities: Probabilities of the predicted classes, float32 (n,), 0 to 1.
        spec: Specification of the classifier.
        names: Names of the images, or their numbers from 0 if they have none.
        trained_on: Number of images that the classifier was trained on; None if unknown.
        latency_ms: Median time of one image at batch size 1, in milliseconds; None if not measured.
        folds: Number of folds of a cross-validation; None if one classifier gave all answers.
    """

    accuracy: float
    interval: tuple[float, float]
    loss: float
    n: int
    top5: float | None
    labels: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    spec: ClassifierSpec
    names: tuple[str, ...]
    trained_on: int | None = 0
    latency_ms: float | None = None
    folds: int | None = None

    @cached_property
    def per_class(self) -> tuple[ClassFigures, ...]:
        """Figures of each class."""
        return per_class(self.labels, self.predictions, self.spec.labels)

    @property
    def balanced_accuracy(self) -> float:
        return balanced_accuracy(self.per_class)

    @property
    def ece(self) -> float:
        """Expected calibration error, 0 to 1."""
        return reliability(self.probabilities, self.labels == self.predictions).ece

    @property
    def coverage(self) -> float:
        """Fraction of images whose highest probability reaches the score threshold, 0 to 1."""
        return float(self.spec.sure(self.probabilities).mean())

    @property
    def accuracy_answered(self) -> float | None:
        """Accuracy on these images, 0 to 1; None if there are none."""
        right = (self.labels == self.predictions)[self.spec.sure(self.probabilities)]
        return float(right.mean()) if len(right) else None

    @property
    def never_tested(self) -> tuple[str, ...]:
        """Classes without images."""
        return tuple(one.name for one in self.per_class if not one.n)

    def to_dict(self) -> dict[str, Any]:
        """Figures for JSON."""
        always, share = majority(self.per_class)
        return {
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "loss": self.loss,
            "n": self.n,
            "top5": self.top5,
            "balanced_accuracy": self.balanced_accuracy,
            "majority_class": always,
            "majority_accuracy": share,
            "never_tested": list(self.never_tested),
            "ece": self.ece,
            "threshold": self.spec.threshold,
            "coverage": self.coverage,
            "accuracy_answered": self.accuracy_answered,
            "per_class": to_rows(self.per_class),
            "folds": self.folds,
        }

    def __str__(self) -> str:
        return f"{in_words(self.accuracy, self.interval, self.n)}, loss {self.loss:.4f}"

    def notes(self) -> list[str]:
        """Lines that qualify the accuracy, such as top-5 accuracy and classes without images."""
        top5 = "" if self.top5 is None else f"top-5 accuracy {self.top5:.2%}, "
        balanced = f"{top5}balanced accuracy {self.balanced_accuracy:.2%}"
        lines = [balanced, *notes(self.to_dict())]
        if self.spec.threshold is not None:
            right = self.accuracy_answered
            lines.append(
                f"at the score threshold of {self.spec.threshold:.1%}, {self.coverage:.1%} of the "
                "images are answered" + ("" if right is None else f", {right:.2%} of these right")
            )
        lines += on_training_images(self.trained_on, self.n)
        if self.latency_ms is not None:
            lines.append(f"{self.latency_ms:.2f} ms an image (median, batch 1)")
        return lines


def on_training_images(count: int | None, n: int) -> list[str]:
    """Line about `count` training images among n; empty for 0. A count of None is unknown."""
    if count is None:
        return ["how many of the images are training images is not known"]
    line = f"{count:,} of the {n:,} images are training images: accuracy on new ones may be lower"
    return [line] if count else []


def notes(figures: Mapping[str, Any]) -> list[str]:
    """Lines that qualify the accuracy in `Evaluation.to_dict()`."""
    lines = []
    always, share = figures["majority_class"], figures["majority_accuracy"]
    if figures["interval"][0] <= share:
        than = "lower" if figures["interval"][1] < share else "not clearly higher"
        lines.append(f"always predicting {always!r} gives {share:.1%}: the accuracy is {than}")
    if figures["never_tested"]:
        lines.append(f"classes without an image: {listed(figures['never_tested'])}")
    if figures["folds"] is not None:
        lines.append(
            f"estimated from {figures['folds']} folds: each image was left out of the training "
            "that gave its answer, and the model that ships trained on all of them. The folds "
            "share training images, so the interval is somewhat too narrow"
        )
    return lines


@contextlib.contextmanager
def broken_images_named(advice: str = "") -> Iterator[None]:
    """Turns tf.data's error for a broken image into the decoder's one-line message, and advice."""
    try:
        yield
    except tf.errors.OpError as error:
        broken = broken_image(error)
        raise error if broken is None else InputError(f"{broken}{advice}") from None


def measure(predict: Predict, split: Split, spec: ClassifierSpec) -> Evaluation:
    """Runs a classifier over all images of a split, as `measure_splits`."""
    return measure_splits(predict, (split,), range(len(spec.labels)), spec)


def measure_splits(
    predict: Predict, splits: Sequence[Split], numbers: Sequence[int], spec: ClassifierSpec
) -> Evaluation:
    """Runs a classifier over all images of several splits, each once.

    `numbers` has the classifier's class number for each class number of the splits.
    """
    number = np.asarray(numbers, np.int64)
    with broken_images_named():
        answers = np.concatenate([_answers(predict, split, number, spec) for split in splits])
    names = [name for split in splits for name in split.names or ()]
    return _evaluation(answers, spec, names)


def evaluate_folds(
    probabilities: npt.NDArray[np.float32],
    labels: Classes,
    spec: ClassifierSpec,
    names: Sequence[str] | None,
    folds: int,
) -> Evaluation:
    """Evaluates a cross-validation: probabilities (n, classes), each from a held-out fold."""
    found = _evaluation(_answer(probabilities, labels), spec, names or ())
    return dataclasses.replace(found, folds=folds)


def _evaluation(
    answers: npt.NDArray[Any], spec: ClassifierSpec, names: Sequence[str]
) -> Evaluation:
    truth, predicted = answers["label"], answers["prediction"]
    hits, n = int((truth == predicted).sum()), len(truth)
    return Evaluation(
        accuracy=hits / n,
        interval=interval(hits, n),
        loss=float(answers["loss"].mean()),
        n=n,
        top5=int(answers["among_five"].sum()) / n if len(spec.labels) >= _TOP_5_FROM else None,
        labels=truth,
        predictions=predicted,
        probabilities=answers["probability"],
        spec=spec,
        names=tuple(names if len(names) == n else map(str, range(n))),
    )


_ANSWER = np.dtype(
    [
        ("label", np.int64),
        ("prediction", np.int64),
        ("probability", np.float32),
        ("loss", np.float32),
        ("among_five", np.bool_),
    ]
)


def _answers(
    predict: Predict, split: Split, number: npt.NDArray[np.int64], spec: ClassifierSpec
) -> npt.NDArray[Any]:
    """Answers to all images of a split, in its order."""
    answers = [np.zeros(0, _ANSWER)]  # one of several processes may have no image
    assert spec.preprocess is not None
    prepare = spec.preprocess.resize_and_crop
    for images, targets in eval_batches(split, prepare, batch_size=_BATCH_SIZE):
        answers.append(_answer(predict(images.numpy()), number[targets.numpy()]))
    return distributed.gather(np.concatenate(answers), split.size)


def _answer(probabilities: npt.NDArray[np.float32], truth: Classes) -> npt.NDArray[Any]:
    right = np.clip(probabilities[np.arange(len(truth)), truth], _SMALLEST_PROBABILITY, 1)
    best = (-probabilities).argsort(1, kind="stable")[:, :5]
    answers = np.zeros(len(truth), _ANSWER)
    answers["label"], answers["prediction"] = truth, best[:, 0]
    answers["probability"], answers["loss"] = probabilities.max(1), -np.log(right)
    answers["among_five"] = (best == truth[:, np.newaxis]).any(1)
    return answers


# predictions.csv: the true and the predicted class of each image

HEADER = ("path", "true class", "predicted class", "probability")


class Predictions(NamedTuple):
    """Columns of predictions.csv; attributes as in `Evaluation`."""

    names: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]


def write_predictions(evaluation: Evaluation, path: Path) -> None:
    """Writes a row for each image, in the order of the evaluation."""
    # file names that are not UTF-8 keep their bytes
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        columns = (getattr(evaluation, name) for name in Predictions._fields)
        for name, truth, predicted, probability in zip(*columns, strict=True):
            classes = (evaluation.spec.labels[i] for i in (truth, predicted))
            writer.writerow([name, *classes, f"{probability:.6f}"])


def read_predictions(path: Path, classes: Sequence[str]) -> Predictions:
    """Reads predictions.csv; raises InputError if it is damaged or has a class not in `classes`."""
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
            f"{path.name} must be the table that `train` wrote: copy it from a backup, or train "
            f"again. Received: {path} with {error}"
        ) from None


def is_predictions(path: Path) -> bool:
    """Whether a file has the header of predictions.csv."""
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        return file.readline().rstrip("\n") == ",".join(HEADER)
