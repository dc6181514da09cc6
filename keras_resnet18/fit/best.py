"""Which epoch of a training is kept, and its weights on the disk."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_resnet18.fit.average import MovingAverage
from keras_resnet18.fit.checkpoint import Arrays
from keras_resnet18.fit.history import History, Row
from keras_resnet18.fit.replica import on_one_device, replica
from keras_resnet18.processes import ALONE, Processes
from keras_resnet18.run import save_model
from keras_resnet18.staging import staged

# Seconds between two models written, and as a multiple of the time that one takes, so that on a
# slow disk too it is one percent of the training at most. ResNet-18's takes half a second to two.
_EVERY = 60.0
_TIMES_ITS_COST = 100


def best_row(rows: Sequence[Row]) -> Row:
    """The row of the highest validation accuracy; of several, the one of the lowest loss."""
    return max(rows, key=lambda row: (row["validation_accuracy"], -_finite(row["validation_loss"])))


def best_in_words(rows: Sequence[Row]) -> str:
    """Which epoch is kept, why, and which one the validation loss alone would have kept."""
    kept = best_row(rows)
    lowest = min(rows, key=lambda row: _finite(row["validation_loss"]))
    text = (
        f"kept epoch {kept['epoch']} of {len(rows)}: validation accuracy "
        f"{kept['validation_accuracy']:.2%}, the highest"
    )
    if lowest["epoch"] == kept["epoch"]:
        return f"{text}, and the lowest validation loss"
    return (
        f"{text} (the lowest validation loss was that of epoch {lowest['epoch']}, accuracy "
        f"{lowest['validation_accuracy']:.2%})"
    )


def _finite(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


class BestModel(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Keeps the weights of the best epoch, and writes them as `model.keras`.

    They are written at once, or a minute after the last ones.

    Attributes:
        weights: Weights of the best epoch so far; empty before the first.

    Args:
        network: The network to keep; what is fitted may be a part of it.
        history: Comes before this callback in the list.
        average: Gives the weights that were validated.
        path: The file to write.
        processes: Those that train; the first one writes.
    """

    def __init__(
        self,
        network: keras.Model,
        history: History,
        average: MovingAverage,
        path: Path,
        processes: Processes = ALONE,
    ) -> None:
        super().__init__()
        self.weights: Arrays = []
        self._network = network
        self._history = history
        self._average = average
        self._path = path
        self._writes = processes.is_first
        self._copy: keras.Model | None = None
        self._write_from = -math.inf
        self._is_written = True

    def resume(self, weights: Arrays) -> None:
        """Goes on with the best weights of an earlier process, which are written again."""
        self.weights, self._is_written = weights, not weights

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if best_row(self._history.rows)["epoch"] == epoch + 1:
            self.weights, self._is_written = self._average.weights(), False
        if time.monotonic() >= self._write_from:
            self.write()

    def put_in(self) -> None:
        """Gives the network the best weights, at the end of a phase."""
        if self.weights:
            self._network.set_weights(self.weights)

    def write(self) -> None:
        """Writes the file, unless it has the best weights; the network keeps its own."""
        if self._is_written or not self._writes:
            return
        started = time.monotonic()
        with self._best_network() as network, staged(self._path) as new:
            save_model(network, new)
        now = time.monotonic()
        self._is_written = True
        self._write_from = now + max(_EVERY, _TIMES_ITS_COST * (now - started))

    @contextlib.contextmanager
    def _best_network(self) -> Iterator[keras.Model]:
        """A network with the best weights."""
        if keras.distribution.distribution() is not None:
            # all processes set the network's weights, or none: this one writes alone
            with on_one_device():
                self._copy = self._copy or replica(self._network)
                self._copy.set_weights(self.weights)
                yield self._copy
            return
        now = self._network.get_weights()
        self._network.set_weights(self.weights)
        try:
            yield self._network
        finally:
            self._network.set_weights(now)
