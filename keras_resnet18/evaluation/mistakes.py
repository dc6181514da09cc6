"""Which images a classifier gets wrong, and which classes it takes for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_resnet18.data.splits import Split
from keras_resnet18.evaluation.predictions import Predictions
from keras_resnet18.preprocess import Preprocess


class Confusion(NamedTuple):
    """Two classes, by number, and how many images of the first were taken for the second."""

    true: int
    predicted: int
    n: int


def hardest_mistakes(found: Predictions, most: int) -> list[int]:
    """Numbers of the wrongly predicted images, those of the highest probability first."""
    wrong = np.flatnonzero(found.labels != found.predictions)
    order = (-found.probabilities[wrong]).argsort(kind="stable")
    return [int(i) for i in wrong[order][:most]]


def confusions(found: Predictions, most: int) -> list[Confusion]:
    """The pairs of classes that are most often confused, the most frequent first."""
    wrong = found.labels != found.predictions
    pairs = np.stack([found.labels[wrong], found.predictions[wrong]], axis=1)
    kinds, counts = np.unique(pairs, axis=0, return_counts=True)
    order = (-counts).argsort(kind="stable")[:most]
    return [Confusion(int(kinds[i, 0]), int(kinds[i, 1]), int(counts[i])) for i in order]


def images_at(
    split: Split, preprocess: Preprocess, indices: Sequence[int]
) -> list[npt.NDArray[np.uint8]]:
    """Some images of a split as the network gets them, in the order of `indices`."""
    wanted = tf.constant(sorted(indices), tf.int64)
    chosen = split.elements(None, 0).enumerate().filter(lambda i, _: tf.reduce_any(i == wanted))
    images = chosen.map(lambda _, element: preprocess.resize_and_crop(split.fetch(element)[0]))
    by_index = dict(zip(sorted(indices), images.as_numpy_iterator(), strict=True))
    return [by_index[i] for i in indices]
