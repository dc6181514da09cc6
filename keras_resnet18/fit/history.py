"""History of a training: a row for each epoch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras

Row = dict[str, Any]


class History(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Keeps a row for each epoch.

    `loss` is what the training minimises; `validation_loss` is the cross-entropy without label
    smoothing, in nats. A limit in minutes leaves the last row fewer `steps` than an epoch has.

    Attributes:
        rows: Rows so far.
        batch_size: Images per step.
        first_step: Steps of this epoch that an earlier process took.

    Args:
        batch_size: Images per step, for the speed.
        write: Receives all rows after each epoch.
    """

    def __init__(self, batch_size: int, write: Callable[[list[Row]], None]) -> None:
        super().__init__()
        self.rows: list[Row] = []
        self.batch_size = batch_size
        self._write = write
        self.first_step = 0
        self._before = self._start = self._seconds = 0.0
        self._steps = 0

    def resume(self, rows: list[Row], first_step: int, seconds: float) -> None:
        """Goes on with the rows of an earlier process, and with its unfinished epoch."""
        self.rows, self.first_step, self._before = list(rows), first_step, seconds

    def seconds(self) -> float:
        """Seconds of training in this epoch, including those of an earlier process."""
        return time.perf_counter() - self._start

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._start, self._before = time.perf_counter() - self._before, 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._steps = batch + 1

    def on_test_begin(self, logs: Any = None) -> None:
        self._seconds = self.seconds()  # training is over, validation begins

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = logs or {}
        self.rows.append(
            {
                "epoch": epoch + 1,
                "steps": self._steps,
                "loss": float(logs["loss"]),
                "accuracy": float(logs["accuracy"]),
                "validation_loss": float(logs["val_cross_entropy"]),
                "validation_accuracy": float(logs["val_accuracy"]),
                "learning_rate": float(self.model.optimizer.learning_rate),
                "images_per_second": self._steps * self.batch_size / self._seconds,
            }
        )
        self.first_step = 0
        self._write(self.rows)
