"""Calibration of probabilities: reliability, temperature scaling and the score threshold."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax

from keras_resnet18.spec import NOT_SURE

_BINS = 10

# Validation images that calibration needs: with fewer, one or two images decide the 5th percentile
MIN_IMAGES = 100

# Percentile of the validation images' highest probabilities that becomes the score threshold
_REFUSED_PERCENT = 5

_LOG_TEMPERATURES = (-np.log(20), np.log(20))  # range of the search
_USELESS = (
    "this temperature is at the end of the searched range (1/20 to 20): the network's "
    "probabilities say little, calibrated or not"
)


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Images in ten bins of equal width by the probability of the predicted class.

    Attributes:
        n: Number of images of each bin.
        probability: Mean probability of each bin; nan for an empty one.
        accuracy: Fraction of right predictions of each bin; nan for an empty one.
        ece: Expected calibration error: mean |probability - accuracy| over the images, 0 to 1 (Guo
            et al. 2017, arXiv:1706.04599).
    """

    n: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]
    ece: float

    def to_dict(self) -> dict[str, Any]:
        """Figures for JSON, with nan as None."""
        bins = {"n": self.n, "probability": self.probability, "accuracy": self.accuracy}
        lists = {name: [None if x != x else x for x in b.tolist()] for name, b in bins.items()}
        return {"ece": self.ece, **lists}

    @classmethod
    def from_dict(cls, figures: Mapping[str, Any]) -> Reliability:
        """Restores the result of `to_dict`."""
        bins = [np.array(figures[name], float) for name in ("n", "probability", "accuracy")]
        return cls(bins[0].astype(int), bins[1], bins[2], figures["ece"])


def reliability(
    probabilities: npt.NDArray[np.float32], right: npt.NDArray[np.bool_]
) -> Reliability:
    """Bins predictions by the probability (n,) of the predicted class."""
    bins = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
    n = np.bincount(bins, minlength=_BINS)
    with np.errstate(invalid="ignore"):  # 0 / 0 of an empty bin
        probability = np.bincount(bins, probabilities, _BINS) / n
        accuracy = np.bincount(bins, right, _BINS) / n
    ece = float(np.nansum(n * abs(probability - accuracy)) / n.sum())
    return Reliability(n, probability, accuracy, ece)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Calibration of a classifier on validation images.

    Attributes:
        temperature: Divisor of the logits; 1 for fewer than 100 images.
        threshold: Score threshold, 0 to 1: below this highest probability the answer is "not
            sure". None for fewer than 100 images.
        n: Number of images.
        before: Reliability at temperature 1.
        after: Reliability at `temperature`.
    """

    temperature: float
    threshold: float | None
    n: int
    before: Reliability
    after: Reliability

    def to_dict(self) -> dict[str, Any]:
        """Figures for JSON."""
        return {**vars(self), "before": self.before.to_dict(), "after": self.after.to_dict()}

    def in_words(self, images: str = "validation images") -> list[str]:
        """Lines about the calibration for people."""
        if self.threshold is None:
            return [
                f"not calibrated, and without a score threshold: {self.n:,} {images} are "
                f"fewer than {MIN_IMAGES}"
            ]
        return [
            f"calibrated on {self.n:,} {images}: temperature {self.temperature:.3g}, "
            f"calibration error (ECE) {self.before.ece:.1%}, now {self.after.ece:.1%}",
            f"below a probability of {self.threshold:.1%} the answer is {NOT_SURE!r}",
            *([_USELESS] if is_at_the_end(self.temperature) else ()),
        ]


def calibrate(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> Calibration:
    """Finds the temperature and the score threshold of a classifier.

    The threshold is the 5th percentile of the highest calibrated probabilities: 95 of 100 images
    like these are answered.

    Args:
        logits: Logits (n, classes) of validation images, which did not train the network.
        labels: Class numbers, (n,).
    """
    n, right = len(labels), logits.argmax(1) == labels
    before = reliability(softmax(logits, 1).max(1), right)
    if n < MIN_IMAGES:
        return Calibration(1.0, None, n, before, before)
    temperature = fit_temperature(logits, labels)
    highest = softmax(logits / temperature, 1).max(1)
    threshold = score_threshold(highest)
    return Calibration(temperature, threshold, n, before, reliability(highest, right))


def score_threshold(highest: npt.NDArray[Any]) -> float:
    """Score threshold that at most 5 % of 100 or more images are below.

    Args:
        highest: Highest probability of each image, (n,), 0 to 1.
    """
    percentile = float(np.percentile(highest, _REFUSED_PERCENT, method="lower"))
    # Rounded down to four digits: if rounded up, equal images would all be below it. The network's
    # softmax, in float32, may differ in the seventh digit.
    return max(0.0, math.floor((percentile - 1e-6) * 1e4) / 1e4)


def is_at_the_end(temperature: float) -> bool:
    """Whether a temperature is at an end of the searched range, so that the best one is outside."""
    return bool(abs(np.log(temperature)) > 0.999 * _LOG_TEMPERATURES[1])


def fit_temperature(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """Temperature of the lowest cross-entropy (Guo et al. 2017, arXiv:1706.04599).

    The labels are smoothed by 1 / (n + 2) as in Platt 1999: if all n images are right, the
    cross-entropy alone is lowest at temperature 0.
    """
    n, classes = logits.shape
    smoothing = 1 / (n + 2)
    other = smoothing / (classes - 1)
    of_label = logits[np.arange(n), labels]
    target = (1 - smoothing - other) * of_label + other * logits.sum(1)

    def cross_entropy(log_temperature: float) -> float:
        inverse = np.exp(-log_temperature)
        return float((logsumexp(logits * inverse, 1) - target * inverse).mean())

    found = minimize_scalar(cross_entropy, bounds=_LOG_TEMPERATURES, method="bounded")
    return float(np.exp(found.x))
