"""What a person sees, and what a run keeps, of a training as it goes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import keras
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from keras_resnet18.errors import InputError

# After so many seconds without a line a file gets one, also in the middle of an epoch.
_SILENCE = 60.0


class History(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """A row for each epoch: its number, loss, accuracy, learning rate and training speed.

    Attributes:
        rows: So far.
        batch_size: Images a step.

    Args:
        batch_size: Images a step, for the speed.
        write: Is given all rows after each epoch.
    """

    def __init__(self, batch_size: int, write: Callable[[list[dict[str, Any]]], None]) -> None:
        super().__init__()
        self.rows: list[dict[str, Any]] = []
        self.batch_size = batch_size
        self._write = write
        self._start = self._seconds = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._start = time.perf_counter()

    def on_test_begin(self, logs: Any = None) -> None:
        self._seconds = time.perf_counter() - self._start  # training is over, validation begins

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = logs or {}
        if not math.isfinite(logs["loss"]):
            raise InputError(
                f"the training diverged in epoch {epoch + 1}: lower optimizer.learning_rate. "
                f"Received: a loss of {logs['loss']}"
            )
        self.rows.append(
            {
                "epoch": epoch + 1,
                "loss": float(logs["loss"]),
                "accuracy": float(logs["accuracy"]),
                "validation_loss": float(logs["val_loss"]),
                "validation_accuracy": float(logs["val_accuracy"]),
                "learning_rate": float(self.model.optimizer.learning_rate),
                "images_per_second": self.params["steps"] * self.batch_size / self._seconds,
            }
        )
        self._write(self.rows)


class ProgressLine(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """One line for each epoch, and on a terminal a bar below that moves with every step.

    Args:
        console: Where to; redirected to a file it gets lines alone, one a minute at least.
        history: Comes before this one in the list of callbacks; its last row is the line.
        epochs: Of all that is fitted one after the other; the time left is that of each alone.
    """

    def __init__(self, console: Console, history: History, *, epochs: int) -> None:
        super().__init__()
        self._console = console
        self._history = history
        self._epochs = epochs
        self._first_epoch = 0
        self._bar: Progress | None = None
        self._started = self._said = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        self._started = self._said = time.perf_counter()
        self._first_epoch = len(self._history.rows)
        if not self._console.is_terminal:
            return
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(),
            TextColumn(
                "loss {task.fields[loss]:.3f}  accuracy {task.fields[accuracy]:.1%}  "
                "{task.fields[speed]:,.0f} images/s"
            ),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task(
            "train",
            total=(self.params["epochs"] - self._first_epoch) * self.params["steps"],
            epoch=self._first_epoch + 1,
            epochs=self._epochs,
            loss=float("nan"),
            accuracy=float("nan"),
            speed=float("nan"),
        )
        self._bar.start()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch, self._epoch_started = epoch, time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if self._bar is None and time.perf_counter() - self._said < _SILENCE:
            return
        logs = logs or {}
        seconds = time.perf_counter() - self._epoch_started
        speed = (batch + 1) * self._history.batch_size / seconds
        if self._bar is None:
            self._say(
                batch + 1,
                f"step {batch + 1:,}/{self.params['steps']:,}  loss {logs['loss']:.3f}  "
                f"accuracy {logs['accuracy']:.1%}  {speed:,.0f} images/s",
            )
            return
        self._bar.update(
            self._task,
            completed=self._steps_done(batch + 1),
            epoch=self._epoch + 1,
            loss=logs["loss"],
            accuracy=logs["accuracy"],
            speed=speed,
        )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        row = self._history.rows[-1]
        self._say(
            self.params["steps"],
            f"loss {row['loss']:.3f}  accuracy {row['accuracy']:.1%}  "
            f"validation {row['validation_accuracy']:.1%}  "
            f"{row['images_per_second']:,.0f} images/s",
        )

    def _steps_done(self, of_epoch: int) -> int:
        """Since `fit` was called."""
        whole: int = (self._epoch - self._first_epoch) * self.params["steps"]
        return whole + of_epoch

    def _say(self, steps_of_epoch: int, what: str) -> None:
        self._said = time.perf_counter()
        done = self._steps_done(steps_of_epoch)
        total = (self.params["epochs"] - self._first_epoch) * self.params["steps"]
        left = int((self._said - self._started) / done * (total - done))
        self._console.print(
            f"epoch {self._epoch + 1:{len(str(self._epochs))}}/{self._epochs}  {what}  "
            f"{left // 60}:{left % 60:02} left"
        )

    def stop(self) -> None:
        """Takes the bar away, also after an interruption, where Keras calls no callback."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_train_end(self, logs: Any = None) -> None:
        self.stop()
