"""Checkpoints: the state of a training in one file that survives a kill at any moment."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_resnet18 import distributed
from keras_resnet18.errors import DivergedError
from keras_resnet18.fit.callbacks import Arrays, BestModel, EarlyEnd, History
from keras_resnet18.fit.signals import Stop

_KEPT = 2  # a damaged newest one leaves the one before
_PREFIX = ".writing-"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """State of a training between two steps.

    Attributes:
        phase: Number of the `fit` that is interrupted, from 0.
        epoch: Finished epochs, of all phases.
        step: Finished steps of the epoch that follows them.
        seconds: Time that those steps took.
        total_seconds: Time that the whole training took so far.
        rows: History so far.
        settings: What the training was given; see `commands.resume`.
        values: Values of all variables of network, optimizer and metrics, by position.
        best: Weights of the best epoch so far; empty before the first.
    """

    phase: int
    epoch: int
    step: int
    seconds: float
    total_seconds: float
    rows: list[dict[str, Any]]
    settings: dict[str, Any]
    values: Arrays
    best: Arrays

    def __str__(self) -> str:
        return f"epoch {self.epoch + 1}, step {self.step:,}"


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes a checkpoint beside the newest one, and removes older ones.

    The file is written aside, flushed to the disk and renamed. The zip format of `.npz` holds a
    CRC-32 of each array.

    Raises:
        OSError: If it cannot be written; the folder is as before.
    """
    fields = {field.name: getattr(checkpoint, field.name) for field in _SCALARS}
    arrays: dict[str, Any] = {"fields": np.frombuffer(json.dumps(fields).encode(), np.uint8)}
    for name in _ARRAYS:
        arrays |= {f"{name}{i}": array for i, array in enumerate(getattr(checkpoint, name))}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"epoch{checkpoint.epoch:05}-step{checkpoint.step:08}.npz"
    descriptor, written = tempfile.mkstemp(prefix=_PREFIX, dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        Path(written).replace(path)
    except BaseException:
        Path(written).unlink(missing_ok=True)
        raise
    _sync_folder(folder)
    for old in _newest_first(folder)[_KEPT:] + list(folder.glob(f"{_PREFIX}*")):
        old.unlink(missing_ok=True)


def load_checkpoint(folder: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """Reads the newest checkpoint that is whole; removes and names the damaged ones before it.

    Args:
        folder: Where `save_checkpoint` wrote.
        say: Receives a line for each damaged file.

    Returns:
        The checkpoint, or None if there is none.
    """
    for path in _newest_first(folder):
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            fields = json.loads(arrays.pop("fields").tobytes())
            lists: dict[str, Any] = {
                name: [arrays[f"{name}{i}"] for i in range(_count(arrays, name))]
                for name in _ARRAYS
            }
            return Checkpoint(**fields, **lists)
        except (OSError, ValueError, KeyError, TypeError, EOFError, *_DAMAGED) as error:
            say(f"the checkpoint {path} is damaged ({error}): the one before it is used")
            path.unlink(missing_ok=True)
    return None


_ARRAYS = ("values", "best")
_SCALARS = [field for field in dataclasses.fields(Checkpoint) if field.name not in _ARRAYS]
_DAMAGED = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch*-step*.npz"), reverse=True)


def _count(arrays: dict[str, Any], name: str) -> int:
    return sum(key.startswith(name) for key in arrays)


def _sync_folder(folder: Path) -> None:
    """Makes a rename outlive a power cut; Windows has no such call for folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# Checkpoints of a training as it runs, and going on from one in the middle of an epoch.

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
        ending: Knows how long the training has taken.
        settings: What the training was given, for the checkpoints.
        stop: Looked at after each step.
        start: The checkpoint to begin at, or None.
    """

    def __init__(
        self,
        folder: Path,
        network: keras.Model,
        history: History,
        best: BestModel,
        ending: EarlyEnd,
        *,
        settings: dict[str, Any],
        stop: Stop,
        start: Checkpoint | None = None,
    ) -> None:
        super().__init__()
        self.phase = 0
        self._folder = folder
        self._network = network
        self._history = history
        self._best = best
        self._ending = ending
        self._settings = settings
        self._stop = stop
        self._start = start
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
        if not distributed.is_first():
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
            rows=self._history.rows,
            settings=self._settings,
            values=values,
            best=self._best.weights,
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
