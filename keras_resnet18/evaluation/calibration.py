"""How well probabilities agree with frequencies: reliability and expected calibration error."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

_BINS = 10


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


def reliability(
    probabilities: npt.NDArray[np.float32], right: npt.NDArray[np.bool_]
) -> Reliability:
    """Bins predictions by their probability.

    Args:
        probabilities: Of the predicted classes, (n,), 0 to 1.
        right: Whether each prediction is right, (n,).
    """
    bins = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
    n = np.bincount(bins, minlength=_BINS)
    with np.errstate(invalid="ignore"):  # 0 / 0 of an empty bin
        probability = np.bincount(bins, probabilities, _BINS) / n
        accuracy = np.bincount(bins, right, _BINS) / n
    ece = float(np.nansum(n * abs(probability - accuracy)) / n.sum())
    return Reliability(n, probability, accuracy, ece)
