"""Keras callbacks of a training: its history, its best epoch, its early end and its progress."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from keras_resnet18 import distributed
from keras_resnet18.files import staged
from keras_resnet18.fit.twin import on_one_device, replica
from keras_resnet18.recipe import Recipe
from keras_resnet18.run import save_model

Row = dict[str, Any]
Arrays = list[npt.NDArray[Any]]  # weights, in the order of `get_weights()`


class History(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Keeps a row for each epoch and passes all rows to `write`.

    `loss` is the loss that the training minimizes; `validation_loss` is the cross-entropy in nats,
    without label smoothing. `max_minutes` may leave the last row fewer `steps` than an epoch has.
    `held_out` is the folds' mean history, for the training that has no validation images.
    """

    def __init__(
        self,
        batch_size: int,
        write: Callable[[list[Row]], None],
        held_out: Sequence[Row] | None = None,
    ) -> None:
        super().__init__()
        self.rows: list[Row] = []
        self.batch_size = batch_size
        self.first_step = 0  # number of steps in this epoch by an earlier process
        self.seconds_before = 0.0  # that they took
        self._write, self._held_out = write, held_out
        self._start = self._seconds = 0.0
        self._steps = 0

    def seconds(self) -> float:
        """Training time of this epoch in seconds, including earlier processes."""
        return time.perf_counter() - self._start

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._start, self.seconds_before = time.perf_counter() - self.seconds_before, 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._steps = batch + 1

    def on_test_begin(self, logs: Any = None) -> None:
        self._seconds = self.seconds()  # training is over, validation begins

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        if self._held_out is None:
            validation = {"loss": logs["val_cross_entropy"], "accuracy": logs["val_accuracy"]}
        else:
            row, self._seconds = self._held_out[epoch], self.seconds()
            validation = {key: row[f"validation_{key}"] for key in ("loss", "accuracy")}
        self.rows.append(
            {
                "epoch": epoch + 1,
                "steps": self._steps,
                "loss": float(logs["loss"]),
                "accuracy": float(logs["accuracy"]),
                "validation_loss": float(validation["loss"]),
                "validation_accuracy": float(validation["accuracy"]),
                "learning_rate": float(self.model.optimizer.learning_rate),
                "images_per_second": self._steps * self.batch_size / self._seconds,
            }
        )
        self.first_step = 0
        self._write(self.rows)


def best_row(rows: Sequence[Row]) -> Row:
    """Row with the highest validation accuracy; ties go to the lowest validation loss."""
    return max(rows, key=lambda row: (row["validation_accuracy"], -_finite(row["validation_loss"])))


def best_in_words(rows: Sequence[Row]) -> str:
    """Describe the epoch that is kept."""
    kept = best_row(rows)
    accuracy = f"validation accuracy {kept['validation_accuracy']:.2%}, the highest"
    return f"kept epoch {kept['epoch']} of {len(rows)}: {accuracy}"


def _finite(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


# Least time between two writes of the model: in seconds, and as a multiple of the time of a write,
# so that writing takes at most 1 % of the training even on a slow disk. ResNet-18 takes 0.5 to 2 s.
_EVERY = 60.0
_TIMES_ITS_COST = 100


class BestModel(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Keeps the weights of the best epoch and writes them as `model.keras`, at most once a minute.

    `fit` may train a part of `network`. `history` must precede this callback. With `is_last`, the
    last epoch is kept instead.
    """

    def __init__(
        self, network: keras.Model, history: History, path: Path, *, is_last: bool = False
    ) -> None:
        super().__init__()
        self.weights: Arrays = []  # of the best epoch; empty before the first
        self._written: Arrays = []
        self._network, self._history, self._path = network, history, path
        self._is_last = is_last
        self._copy: keras.Model | None = None
        self._write_from = -math.inf

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._is_last or best_row(self._history.rows)["epoch"] == epoch + 1:
            self.weights = self._network.get_weights()
        if time.monotonic() >= self._write_from:
            self.write()

    def put_in(self) -> None:
        """Give the network the best weights."""
        if self.weights:
            self._network.set_weights(self.weights)

    def write(self) -> None:
        """Write the file from a copy of the network, unless it holds the best weights already."""
        if self._written is self.weights or not self.weights or not distributed.is_first():
            return
        started = time.monotonic()
        with on_one_device(), staged(self._path) as new:
            self._copy = self._copy or replica(self._network)
            self._copy.set_weights(self.weights)
            save_model(self._copy, new)
        now = time.monotonic()
        self._written = self.weights
        self._write_from = now + max(_EVERY, _TIMES_ITS_COST * (now - started))


class EarlyEnd(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Ends `fit` by the recipe's `patience` and `max_minutes`.

    At the time limit, the epoch ends after the current step and is validated. `history` must
    precede this callback.
    """

    def __init__(self, recipe: Recipe, history: History, steps_per_epoch: int) -> None:
        super().__init__()
        self.first_epoch: int | None = None  # of the last phase, in which alone patience counts
        self.seconds_before = 0.0  # of earlier processes
        self._recipe, self._history, self._steps_per_epoch = recipe, history, steps_per_epoch
        self._started = time.monotonic()

    def seconds(self) -> float:
        """Time of the whole training so far in seconds, including earlier processes."""
        return self.seconds_before + time.monotonic() - self._started

    def is_out_of_time(self) -> bool:
        """Whether the time limit has passed. Every process must call it."""
        limit = self._recipe.max_minutes
        return limit is not None and bool(distributed.highest(self.seconds() >= 60 * limit))

    def is_out_of_patience(self) -> bool:
        """Whether none of the last `patience` epochs improved on the best one."""
        patience, rows = self._recipe.patience, self._history.rows
        if patience is None or self.first_epoch is None or len(rows) <= self.first_epoch:
            return False
        best = max(best_row(rows)["epoch"], self.first_epoch)
        return bool(rows[-1]["epoch"] - best >= patience)

    def is_due(self) -> bool:
        """Whether the training ends before its next step. Every process must call it."""
        over = self.is_out_of_time() or self.is_out_of_patience()
        return over and bool(self._history.rows)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch >= self._history.first_step and self.is_out_of_time():
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.is_due():
            self.model.stop_training = True

    def in_words(self, epochs: int) -> str | None:
        """Describe why and where the training ended early; None if it did not."""
        last = self._history.rows[-1]
        whole = last["steps"] == self._steps_per_epoch
        where = f"epoch {last['epoch']} of {epochs}, at a learning rate of "
        where += f"{last['learning_rate']:.3g}: the schedule was cut there"
        if self.is_out_of_patience() and last["epoch"] < epochs:
            return f"ended by patience={self._recipe.patience} after {where}"
        if self.is_out_of_time() and (last["epoch"] < epochs or not whole):
            return f"ended by max_minutes={self._recipe.max_minutes:g} in {where}"
        return None


_SILENCE = 60.0  # seconds without a line after which a file gets one within an epoch


class ProgressLine(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Prints a line for each epoch, and shows a progress bar on a terminal.

    A file gets a line at least once a minute. The time left is that of the current phase, `epochs`
    the number in all phases. `history` must precede this callback.
    """

    def __init__(self, console: Console, history: History, *, epochs: int) -> None:
        super().__init__()
        self._console, self._history, self._epochs = console, history, epochs
        self._epoch, self._said = 0, 0.0
        self._bar = Progress(disable=True)

    def on_train_begin(self, logs: Any = None) -> None:
        self._said = time.perf_counter()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        epochs = self.params["epochs"] - len(self._history.rows)
        self._bar.add_task("", total=epochs * self.params["steps"] - self._history.first_step)
        self._bar.start()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        if batch < self._history.first_step:
            return
        step = batch + 1
        speed = step * self._history.batch_size / self._history.seconds()
        what = f"loss {logs['loss']:.3f}  accuracy {logs['accuracy']:.1%}  {speed:,.0f} images/s"
        epoch = f"epoch {self._epoch + 1}/{self._epochs}"
        self._bar.update(self._bar.task_ids[0], advance=1, description=f"{epoch}  {what}")
        if self._bar.disable and time.perf_counter() - self._said >= _SILENCE:
            self._say(f"step {step:,}/{self.params['steps']:,}  {what}")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        row = self._history.rows[-1]
        self._say(
            f"loss {row['loss']:.3f}  accuracy {row['accuracy']:.1%}  "
            f"validation {row['validation_accuracy']:.1%}  "
            f"{row['images_per_second']:,.0f} images/s"
        )

    def on_train_end(self, logs: Any = None) -> None:
        self.stop()

    def stop(self) -> None:
        """Remove the bar. Keras does not call `on_train_end` after an interruption."""
        self._bar.stop()

    def _say(self, what: str) -> None:
        self._said = time.perf_counter()
        seconds = self._bar.tasks[0].time_remaining
        left = "?" if seconds is None else f"{int(seconds) // 60}:{int(seconds) % 60:02}"
        epoch = f"epoch {self._epoch + 1:{len(str(self._epochs))}}/{self._epochs}"
        self._console.print(f"{epoch}  {what}  {left} left")
