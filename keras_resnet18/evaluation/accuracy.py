"""How good a classifier is on images with known classes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_resnet18.data.pipeline import eval_batches
from keras_resnet18.data.splits import Split
from keras_resnet18.evaluation.interval import in_words, interval
from keras_resnet18.images import broken_image
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.runtime.exported import Predict

_BATCH_SIZE = 64
_SMALLEST_PROBABILITY = 1e-7  # Keras' epsilon: a certain mistake costs 16, not infinity


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A classifier's answers on n labelled images.

    Attributes:
        accuracy: Part of the images whose most probable class is right (top-1), 0 to 1.
        interval: 95 % confidence interval of the accuracy (Wilson 1927).
        loss: Mean cross-entropy in nats, without label smoothing.
        n: How many images.
        labels: Their classes, (n,).
        predictions: Their most probable classes, (n,).
    """

    accuracy: float
    interval: tuple[float, float]
    loss: float
    n: int
    labels: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.int64]

    def to_dict(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return {
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "loss": self.loss,
            "n": self.n,
        }

    def __str__(self) -> str:
        return f"{in_words(self.accuracy, self.interval, self.n)}, loss {self.loss:.4f}"


@contextlib.contextmanager
def broken_images_named() -> Iterator[None]:
    """Gives what `tf.data` makes of a broken image the decoder's one-line message again."""
    try:
        yield
    except tf.errors.OpError as error:
        raise broken_image(error) or error from None


def measure(predict: Predict, split: Split, preprocess: Preprocess) -> Evaluation:
    """Runs a classifier over all images of a split, each once.

    Raises:
        InputError: If an image is broken; the message has its name.
    """
    batches = eval_batches(split, preprocess.resize_and_crop, batch_size=_BATCH_SIZE)
    labels, predictions, losses = [], [], []
    with broken_images_named():
        for images, targets in batches:
            probabilities, truth = predict(images.numpy()), targets.numpy()
            right = np.clip(probabilities[np.arange(len(truth)), truth], _SMALLEST_PROBABILITY, 1)
            labels.append(truth)
            predictions.append(probabilities.argmax(1))
            losses.append(-np.log(right))
    truth, predicted = np.concatenate(labels), np.concatenate(predictions)
    hits = int((truth == predicted).sum())
    return Evaluation(
        accuracy=hits / len(truth),
        interval=interval(hits, len(truth)),
        loss=float(np.concatenate(losses).mean()),
        n=len(truth),
        labels=truth,
        predictions=predicted,
    )
