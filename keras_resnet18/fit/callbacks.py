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
        held_out: Rows of a training with validation images, for one that has none.
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
        self._write, self._held_out = write, held_out
        self.first_step = 0
        self._before = self._start = self._seconds = 0.0
        self._steps = 0

    def resume(self, rows: list[Row], first_step: int, seconds: float) -> None:
        """Go on with the rows of an earlier process, and with its unfinished epoch."""
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
        if self._held_out is None:
            validation = [float(logs[key]) for key in ("val_cross_entropy", "val_accuracy")]
        else:
            row, self._seconds = self._held_out[epoch], self.seconds()
            validation = [row["validation_loss"], row["validation_accuracy"]]
        self.rows.append(
            {
                "epoch": epoch + 1,
                "steps": self._steps,
                "loss": float(logs["loss"]),
                "accuracy": float(logs["accuracy"]),
                "validation_loss": validation[0],
                "validation_accuracy": validation[1],
                "learning_rate": float(self.model.optimizer.learning_rate),
                "images_per_second": self._steps * self.batch_size / self._seconds,
            }
        )
        self.first_step = 0
        self._write(self.rows)


def best_row(rows: Sequence[Row]) -> Row:
    """The row of the highest validation accuracy; of several, the one of the lowest loss."""
    return max(rows, key=lambda row: (row["validation_accuracy"], -_finite(row["validation_loss"])))


def best_in_words(rows: Sequence[Row]) -> str:
    """Say which epoch is kept, and which one the validation loss alone would have kept."""
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


# Seconds between two models written, and as a multiple of the time that one takes, so that on a
# slow disk too it is one percent of the training at most. ResNet-18's takes half a second to two.
_EVERY = 60.0
_TIMES_ITS_COST = 100


class BestModel(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Keeps the weights of the best or the last epoch, and writes them as `model.keras`.

    They are written at once, or a minute after the last ones.

    Attributes:
        weights: Weights of the best epoch so far; empty before the first.

    Args:
        network: The network to keep; what is fitted may be a part of it.
        history: Comes before this callback in the list.
        path: The file to write.
        is_last: Whether the last epoch is kept, whatever its validation accuracy.
    """

    def __init__(
        self, network: keras.Model, history: History, path: Path, *, is_last: bool = False
    ) -> None:
        super().__init__()
        self.weights: Arrays = []
        self._network, self._history, self._path = network, history, path
        self._is_last = is_last
        self._copy: keras.Model | None = None
        self._write_from = -math.inf
        self._is_written = True

    def resume(self, weights: Arrays) -> None:
        """Go on with the best weights of an earlier process, which are written again."""
        self.weights, self._is_written = weights, not weights

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._is_last or best_row(self._history.rows)["epoch"] == epoch + 1:
            self.weights, self._is_written = self._network.get_weights(), False
        if time.monotonic() >= self._write_from:
            self.write()

    def put_in(self) -> None:
        """Give the network the best weights, at the end of a phase."""
        if self.weights:
            self._network.set_weights(self.weights)

    def write(self) -> None:
        """Write the file, unless it has the best weights, from a copy of the network."""
        if self._is_written or not distributed.is_first():
            return
        started = time.monotonic()
        with on_one_device(), staged(self._path) as new:
            self._copy = self._copy or replica(self._network)
            self._copy.set_weights(self.weights)
            save_model(self._copy, new)
        now = time.monotonic()
        self._is_written = True
        self._write_from = now + max(_EVERY, _TIMES_ITS_COST * (now - started))


class EarlyEnd(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Ends `fit` by the recipe's `patience` and `max_minutes`.

    A training that is out of time ends its epoch between two steps, and validates what it has.

    Attributes:
        waits: Whether patience counts, as it does in the last phase alone.
        first_epoch: Epochs of the phases before this one.

    Args:
        recipe: The whole training's.
        history: Comes before this callback in the list.
        steps_per_epoch: Steps of a whole epoch.
    """

    def __init__(self, recipe: Recipe, history: History, steps_per_epoch: int) -> None:
        super().__init__()
        self.waits = False
        self.first_epoch = 0
        self._recipe, self._history, self._steps_per_epoch = recipe, history, steps_per_epoch
        self._before = 0.0
        self._started = time.monotonic()

    def resume(self, seconds: float) -> None:
        """Count the time that earlier processes took."""
        self._before = seconds

    def seconds(self) -> float:
        """Time of the training so far, including that of earlier processes."""
        return self._before + time.monotonic() - self._started

    def is_out_of_time(self) -> bool:
        """Whether the time limit has passed. Every process must call it."""
        limit = self._recipe.max_minutes
        return limit is not None and bool(distributed.highest(self.seconds() >= 60 * limit))

    def is_out_of_patience(self) -> bool:
        """Whether no epoch was the best one for `patience` epochs."""
        patience, rows = self._recipe.patience, self._history.rows
        if patience is None or not self.waits or len(rows) <= self.first_epoch:
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
        """Say why and where a training ended before its last epoch; None if it did not."""
        last = self._history.rows[-1]
        whole = last["steps"] == self._steps_per_epoch
        where = f"epoch {last['epoch']} of {epochs}, at a learning rate of "
        where += f"{last['learning_rate']:.3g}: the schedule was cut there"
        if self.is_out_of_patience() and last["epoch"] < epochs:
            return f"ended by patience={self._recipe.patience} after {where}"
        if self.is_out_of_time() and (last["epoch"] < epochs or not whole):
            return f"ended by max_minutes={self._recipe.max_minutes:g} in {where}"
        return None


_SILENCE = 60.0  # seconds after which a file gets a line in the middle of an epoch too


class ProgressLine(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Prints one line for each epoch, and on a terminal a bar that moves with every step.

    Args:
        console: Where to print. A file gets lines alone, one a minute at least.
        history: Comes before this callback in the list; its last row is the line.
        epochs: Epochs of all phases; the time left is that of the phase.
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

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if batch < self._history.first_step:
            return
        logs, step = logs or {}, batch + 1
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
        """Remove the bar, also after an interruption, when Keras calls no callback."""
        self._bar.stop()

    def _say(self, what: str) -> None:
        self._said = time.perf_counter()
        seconds = self._bar.tasks[0].time_remaining
        left = "?" if seconds is None else f"{int(seconds) // 60}:{int(seconds) % 60:02}"
        epoch = f"epoch {self._epoch + 1:{len(str(self._epochs))}}/{self._epochs}"
        self._console.print(f"{epoch}  {what}  {left} left")
