"""Checkpoints of a training as it runs, and going on from one in the middle of an epoch."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_resnet18.errors import DivergedError
from keras_resnet18.fit.average import MovingAverage
from keras_resnet18.fit.best import BestModel
from keras_resnet18.fit.checkpoint import Arrays, Checkpoint, save_checkpoint
from keras_resnet18.fit.ending import EarlyEnd
from keras_resnet18.fit.history import History
from keras_resnet18.fit.signals import Stop
from keras_resnet18.processes import ALONE, Processes

# Seconds between checkpoints, and the least age of one that is replaced at the end of an epoch; as
# multiples of the time that a checkpoint takes, so that on a slow disk too it is one percent of the
# training. One of ResNet-18 with momentum has 140 MB and takes a quarter of a second to a second.
EVERY = 60.0
AT_AN_EPOCH = 30.0
TIMES_ITS_COST = 100

# Steps after which processes hear of one another's signals, which takes milliseconds.
_AGREE_EVERY = 10


class Checkpoints(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Saves checkpoints, and begins at one.

    Comes last in the list of callbacks. After `restore`, call `fit` with training batches that
    begin at the checkpoint's step and with its epoch as `initial_epoch`.

    Attributes:
        phase: Number of the current `fit`, from 0.

    Args:
        folder: The folder to save in.
        network: The network that is trained; the model that is fitted may be a part of it.
        history: The history callback.
        best: The callback with the best epoch's weights.
        average: The callback with the moving average of the weights.
        ending: Knows how long the training has taken.
        settings: What the training was given, for the checkpoints.
        stop: Looked at after each step.
        start: The checkpoint to begin at, or None.
        processes: Those that train; the first one saves.
    """

    def __init__(
        self,
        folder: Path,
        network: keras.Model,
        history: History,
        best: BestModel,
        average: MovingAverage,
        ending: EarlyEnd,
        *,
        settings: dict[str, Any],
        stop: Stop,
        start: Checkpoint | None = None,
        processes: Processes = ALONE,
    ) -> None:
        super().__init__()
        self.phase = 0
        self._folder = folder
        self._network = network
        self._history = history
        self._best = best
        self._average = average
        self._ending = ending
        self._settings = settings
        self._stop = stop
        self._start = start
        self._writes = processes.is_first
        self._epoch = self._step = 0
        self._saved_at = self._cost = 0.0
        self._trained_metrics: Arrays = []  # of the epoch's training, while validation uses them

    def __str__(self) -> str:
        """Where the training is: epoch, step and learning rate."""
        if self.params is None:
            return "the end of its last epoch"
        return (
            f"epoch {self._epoch + 1}, step {self._step:,} of {self.params['steps']:,} (learning "
            f"rate {float(self.model.optimizer.learning_rate):.3g})"
        )

    def restore(self, model: keras.Model) -> tuple[int, int] | None:
        """Gives the checkpoint's values to a compiled model; returns its epoch and step.

        None, and nothing is changed, where there is no checkpoint of this phase.
        """
        if self._start is None or self._start.phase != self.phase:
            self._start = None
            return None
        variables = [*self._variables(model), *model.metrics_variables]
        for variable, value in zip(variables, self._start.values, strict=True):
            variable.assign(value)
        return self._start.epoch, self._start.step

    def on_train_begin(self, logs: Any = None) -> None:
        self._saved_at = time.monotonic()
        if self._start is not None:
            self._average.resume(self._start.average, self._start.updates)
            self._skip_steps(self._start.step)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch, self._step = epoch, 0
        if self._start is not None:
            if self._start.step:
                self.restore(self.model)  # once more: Keras has reset the metrics
            self._trained_metrics = self._values(self.model.metrics_variables)
            self._step, self._start = self._start.step, None

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if batch < self._history.first_step:
            return
        self._step = batch + 1
        loss = (logs or {})["loss"]
        if not math.isfinite(loss):
            raise self._diverged(f"a loss of {loss}")
        last = self._step == self.params["steps"] or self.model.stop_training
        if last:
            self._trained_metrics = self._values(self.model.metrics_variables)
        if last or self._step % _AGREE_EVERY == 0:
            self._stop.agree()
        self._save_if_due(AT_AN_EPOCH if last else EVERY)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._stop.signal is not None:
            self._average.put_back()
            self._save(self._trained_metrics)
            self._stop.obey()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._epoch, self._step = epoch + 1, 0
        self._stop.agree()
        self._save_if_due(AT_AN_EPOCH)

    def _save_if_due(self, age: float) -> None:
        due = self._saved_at + max(age, TIMES_ITS_COST * self._cost)
        if self._stop.signal is not None or time.monotonic() >= due:
            self._save(self._values(self.model.metrics_variables))
        self._stop.obey()

    def _save(self, metrics: Arrays) -> None:
        if not self._writes:
            return
        started = time.monotonic()
        values = self._values(self._variables(self.model)) + metrics
        if not all(np.isfinite(v).all() for v in values if np.issubdtype(v.dtype, np.inexact)):
            raise self._diverged("weights that are not finite")
        seconds = self._history.seconds() if self._step else 0.0
        checkpoint = Checkpoint(
            phase=self.phase,
            epoch=self._epoch,
            step=self._step,
            seconds=seconds,
            total_seconds=self._ending.seconds(),
            updates=self._average.updates,
            rows=self._history.rows,
            settings=self._settings,
            values=values,
            best=self._best.weights,
            average=self._average.values,
        )
        save_checkpoint(checkpoint, self._folder)
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - started

    def _variables(self, model: keras.Model) -> list[keras.Variable]:
        """What steps change, without metrics, in the order of a checkpoint."""
        return [*self._network.variables, *model.optimizer.variables]

    def _values(self, variables: list[keras.Variable]) -> Arrays:
        # Within an epoch JAX's trainer has the values elsewhere; `self.model` has brought them.
        return [np.array(ops.convert_to_numpy(variable)) for variable in variables]

    def _diverged(self, received: str) -> DivergedError:
        return DivergedError(
            f"the training diverged at {self}: lower optimizer.learning_rate and train again. "
            f"Received: {received}"
        )

    def _skip_steps(self, count: int) -> None:
        """Lets Keras count the first steps of the epoch without taking them.

        It depends on `fit` calling `model.train_function`, which exists when training begins.
        """
        step, model, skipped = self.model.train_function, self.model, iter(range(count))
        logs = dict(model.get_metrics_result())

        def skip_or_step(*state_and_batches: Any) -> Any:
            if next(skipped, None) is None:
                model.train_function = step
                return step(*state_and_batches)
            state = state_and_batches[:-1]  # of JAX's trainer alone
            return (logs, *state) if state else logs

        if count:
            model.train_function = skip_or_step
