"""Progress of a training on the console: a line for each epoch, and a bar on a terminal."""

from __future__ import annotations

import time
from typing import Any

import keras
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from keras_resnet18.fit.history import History

# After so many seconds without a line a file gets one, also in the middle of an epoch.
_SILENCE = 60.0


class ProgressLine(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Prints one line for each epoch, and on a terminal a bar that moves with every step.

    Args:
        console: Where to print. A file gets lines alone, one a minute at least.
        history: Comes before this callback in the list; its last row is the line.
        epochs: Epochs of all phases; the time left is that of the phase.
    """

    def __init__(self, console: Console, history: History, *, epochs: int) -> None:
        super().__init__()
        self._console = console
        self._history = history
        self._epochs = epochs
        self._before = 0  # steps of the whole training that were done when `fit` began
        self._bar: Progress | None = None
        self._started = self._said = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        self._started = self._said = time.perf_counter()
        self._before = self._done(len(self._history.rows), self._history.first_step)
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
            total=self._total(),
            epoch=len(self._history.rows) + 1,
            epochs=self._epochs,
            loss=float("nan"),
            accuracy=float("nan"),
            speed=float("nan"),
        )
        self._bar.start()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if batch < self._history.first_step:
            return
        if self._bar is None and time.perf_counter() - self._said < _SILENCE:
            return
        logs = logs or {}
        speed = (batch + 1) * self._history.batch_size / self._history.seconds()
        if self._bar is None:
            self._say(
                batch + 1,
                f"step {batch + 1:,}/{self.params['steps']:,}  loss {logs['loss']:.3f}  "
                f"accuracy {logs['accuracy']:.1%}  {speed:,.0f} images/s",
            )
            return
        self._bar.update(
            self._task,
            completed=self._done(self._epoch, batch + 1) - self._before,
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

    def _done(self, epoch: int, step: int) -> int:
        """Steps of the whole training up to this one, as if all phases had epochs of one length."""
        return int(epoch * self.params["steps"] + step)

    def _total(self) -> int:
        """Steps of the phase that were left when `fit` began."""
        return self._done(self.params["epochs"], 0) - self._before

    def _say(self, step: int, what: str) -> None:
        self._said = time.perf_counter()
        done, total = self._done(self._epoch, step) - self._before, self._total()
        left = int((self._said - self._started) / max(done, 1) * (total - done))
        self._console.print(
            f"epoch {self._epoch + 1:{len(str(self._epochs))}}/{self._epochs}  {what}  "
            f"{left // 60}:{left % 60:02} left"
        )

    def stop(self) -> None:
        """Removes the bar, also after an interruption, when Keras calls no callback."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_train_end(self, logs: Any = None) -> None:
        self.stop()
