"""Reasons to end a training before its last epoch: patience, and a limit in minutes."""

from __future__ import annotations

import time
from typing import Any

import keras

from keras_resnet18.fit.best import best_row
from keras_resnet18.fit.history import History
from keras_resnet18.processes import ALONE, Processes
from keras_resnet18.recipe.recipe import Recipe


class EarlyEnd(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Ends `fit` by the recipe's `patience` and `max_minutes`.

    A training that is out of time ends its epoch between two steps; what it has is validated.

    Attributes:
        waits: Whether patience counts, as it does in the last phase alone.
        first_epoch: Epochs of the phases before this one.

    Args:
        recipe: The whole training's.
        history: Comes before this callback in the list.
        steps_per_epoch: Steps of a whole epoch.
        processes: Those that must end at the same step.
    """

    def __init__(
        self,
        recipe: Recipe,
        history: History,
        steps_per_epoch: int,
        processes: Processes = ALONE,
    ) -> None:
        super().__init__()
        self.waits = False
        self.first_epoch = 0
        self._recipe = recipe
        self._history = history
        self._steps_per_epoch = steps_per_epoch
        self._processes = processes
        self._before = 0.0
        self._started = time.monotonic()

    def resume(self, seconds: float) -> None:
        """Counts the time that earlier processes took."""
        self._before = seconds

    def seconds(self) -> float:
        """Time of the training so far, of all processes."""
        return self._before + time.monotonic() - self._started

    def is_out_of_time(self) -> bool:
        """Whether `max_minutes` are over, for one of the processes; all of them must ask."""
        limit = self._recipe.max_minutes
        return limit is not None and bool(self._processes.highest(self.seconds() >= 60 * limit))

    def is_out_of_patience(self) -> bool:
        """Whether no epoch was the best one for `patience` epochs."""
        patience, rows = self._recipe.patience, self._history.rows
        if patience is None or not self.waits or len(rows) <= self.first_epoch:
            return False
        best = max(best_row(rows)["epoch"], self.first_epoch)
        return bool(rows[-1]["epoch"] - best >= patience)

    def is_due(self) -> bool:
        """Whether the training ends before its next step."""
        over = self.is_out_of_time() or self.is_out_of_patience()
        return over and bool(self._history.rows)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch >= self._history.first_step and self.is_out_of_time():
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.is_due():
            self.model.stop_training = True

    def in_words(self, epochs: int) -> str | None:
        """Says why and where a training ended before its last epoch; None if it did not."""
        last = self._history.rows[-1]
        whole = last["steps"] == self._steps_per_epoch
        where = f"epoch {last['epoch']} of {epochs}, at a learning rate of "
        where += f"{last['learning_rate']:.3g}: the schedule was cut there"
        if self.is_out_of_patience() and last["epoch"] < epochs:
            return f"ended by patience={self._recipe.patience} after {where}"
        if self.is_out_of_time() and (last["epoch"] < epochs or not whole):
            return f"ended by max_minutes={self._recipe.max_minutes:g} in {where}"
        return None
