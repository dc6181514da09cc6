"""Stopping a training between two steps and resuming it there: signals and checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import signal
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import keras
import numpy as np
from keras import ops
from rich.console import Console

from keras_resnet18 import distributed
from keras_resnet18.errors import DivergedError, InputError, listed
from keras_resnet18.files import staged
from keras_resnet18.fit.callbacks import Arrays, BestModel, EarlyEnd, History

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class Stop:
    """A request to end, such as Ctrl-C.

    `signal` is the number of the signal, or None; `agree` makes it the same on all processes.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._received: int | None = None
        self._held = False

    def agree(self) -> None:
        """Exchange signals between steps. Every process must call it."""
        if distributed.count() > 1:
            self.signal = distributed.highest(self._received or 0) or None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let the first signal inside only set `signal`; call `obey` between steps."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def obey(self) -> None:
        """Raise KeyboardInterrupt for SIGINT, SystemExit(128 + signal) for another signal."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(128 + self.signal)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, self._received = self._received is None, number
        if distributed.count() == 1 or not (first and self._held):
            self.signal = number
        if not (first and self._held):
            self.obey()


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """Handle SIGINT, SIGTERM and SIGHUP inside; only in the main thread, as Python requires.

    Ignored signals stay ignored, as under `nohup`.
    """
    stop = Stop()
    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in _SIGNALS:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, stop._handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# A checkpoint is one file with everything that the next step depends on.

_KEPT = 2  # so that one is left if the newest is damaged
_ARRAYS = ("values", "best")
_VERSION = 1  # of the file format
# What NumPy and zipfile raise for a damaged file; an OSError means a problem with the disk
DAMAGED = (
    *(ValueError, KeyError, EOFError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError),
)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """State of a training between two steps."""

    phase: int  # number of the interrupted `fit`, from 0
    epoch: int  # number of finished epochs in all phases
    step: int  # number of finished steps in the current epoch
    seconds: float  # that those steps took
    total_seconds: float  # of the whole training so far
    rows: list[dict[str, Any]]  # history so far
    settings: dict[str, Any]  # `Task.settings`
    values: Arrays  # all variables of network, optimizer and metrics, by position
    best: Arrays  # weights of the best epoch so far; empty before the first

    def __str__(self) -> str:
        return f"epoch {self.epoch + 1}, step {self.step:,}"


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a checkpoint, and remove all but the newest two. `.npz` has a CRC-32 of each array.

    If the file cannot be written, raises InputError and leaves the folder unchanged.
    """
    fields = dict(vars(checkpoint))
    lists = {name: fields.pop(name) for name in _ARRAYS}
    fields["version"] = _VERSION
    fields["counts"] = {name: len(arrays) for name, arrays in lists.items()}
    named = {f"{name}{i}": array for name in lists for i, array in enumerate(lists[name])}
    text = np.frombuffer(json.dumps(fields).encode(), np.uint8)
    path = folder / f"epoch{checkpoint.epoch:05}-step{checkpoint.step:08}.npz"
    with staged(path) as new:
        np.savez(new, fields=text, **named)
    for old in _newest_first(folder)[_KEPT:]:
        old.unlink(missing_ok=True)


def load_checkpoint(folder: Path, console: Console) -> Checkpoint | None:
    """Read the newest intact checkpoint, and rename newer damaged ones; None if there is none.

    Raises InputError if all are damaged, or one cannot be read or has another version.
    """
    for path in _newest_first(folder):
        try:
            with np.load(path, allow_pickle=False) as file:
                fields = json.loads(file["fields"].tobytes())
                if (version := fields.pop("version", 0)) != _VERSION:
                    raise InputError(
                        "a training is resumed by the version of keras-resnet18 that began it: "
                        "install that one, or train again. "
                        f"Received: {path} of format {version}, not {_VERSION}"
                    )
                lists: dict[str, Any] = {
                    name: [file[f"{name}{i}"] for i in range(count)]
                    for name, count in fields.pop("counts").items()
                }
            return Checkpoint(**fields, **lists)
        except InputError:
            raise
        except OSError as error:
            raise InputError(
                f"{path} cannot be read: {error.strerror or error}. Nothing was changed: check "
                "the disk, and resume again"
            ) from error
        except DAMAGED:
            aside = path.with_name(f"{path.name}.damaged")
            console.print(f"{path} is damaged: it becomes {aside.name}")
            if distributed.is_first():
                with contextlib.suppress(OSError):
                    path.replace(aside)
    if damaged := sorted(folder.glob("*.damaged")):
        raise InputError(
            "no checkpoint of this training is whole: train again with overwrite=True, or remove "
            "the damaged ones to begin at the first step. "
            f"Received: {folder} with {listed([path.name for path in damaged])}"
        )
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch*-step*.npz"), reverse=True)


# Seconds between checkpoints within an epoch, and at the end of one; also the least interval as a
# multiple of the time of a write, so that writing takes at most 1 % of the training even on a slow
# disk. A checkpoint of ResNet-18 with momentum has 140 MB and takes 0.25 to 1 s.
EVERY = 60.0
AT_AN_EPOCH = 30.0
TIMES_ITS_COST = 100

# Number of steps between exchanges of signals, each of which takes milliseconds.
_AGREE_EVERY = 10


class Checkpoints(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Saves checkpoints of `network`, of which `fit` may train a part. Must be the last callback.

    After `restore`, call `fit` with training batches that begin at the checkpoint's step and with
    its epoch as `initial_epoch`.
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
        self.phase = 0  # number of the current `fit`
        self._folder, self._network = folder, network
        self._history, self._best, self._ending = history, best, ending
        self._settings, self._stop, self._start = settings, stop, start
        self._epoch = self._step = 0
        self._saved_at = self._cost = 0.0
        self._trained_metrics: Arrays = []  # of the epoch, since validation overwrites them

    def __str__(self) -> str:
        """Describe the position in the training: epoch, step and learning rate."""
        if self.params is None:
            return "the end of its last epoch"
        return (
            f"epoch {self._epoch + 1}, step {self._step:,} of {self.params['steps']:,} (learning "
            f"rate {float(self.model.optimizer.learning_rate):.3g})"
        )

    def restore(self, model: keras.Model) -> tuple[int, int] | None:
        """Restore a compiled model, return epoch and step; or None outside of `start`'s phase."""
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
            self._trained_metrics = _values(self.model.metrics_variables)
            self._step, self._start = self._start.step, None

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        if batch < self._history.first_step:
            return
        self._step = batch + 1
        if not math.isfinite(logs["loss"]):
            raise self._diverged(f"a loss of {logs['loss']}")
        last = self._step == self.params["steps"] or self.model.stop_training
        if last:
            self._trained_metrics = _values(self.model.metrics_variables)
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
            self._save(_values(self.model.metrics_variables))
        self._stop.obey()

    def _save(self, metrics: Arrays) -> None:
        if not distributed.is_first():
            return
        started = time.monotonic()
        values = _values(self._variables(self.model)) + metrics
        if not all(np.isfinite(v).all() for v in values if np.issubdtype(v.dtype, np.inexact)):
            raise self._diverged("weights that are not finite")
        checkpoint = Checkpoint(
            phase=self.phase,
            epoch=self._epoch,
            step=self._step,
            seconds=self._history.seconds() if self._step else 0.0,
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
        """All variables of a checkpoint but the metrics, in its order."""
        return [*self._network.variables, *model.optimizer.variables]

    def _diverged(self, received: str) -> DivergedError:
        return DivergedError(
            f"the training diverged at {self}: lower optimizer.learning_rate and train again. "
            f"Received: {received}"
        )

    def _skip_steps(self, count: int) -> None:
        """Let Keras count the first `count` steps of the epoch without taking them.

        This relies on `fit` calling `model.train_function`, which exists when training begins.
        """
        step, model, skipped = self.model.train_function, self.model, iter(range(count))
        logs = dict(model.get_metrics_result())

        def skip_or_step(*state_and_batches: Any) -> Any:
            if next(skipped, None) is None:
                model.train_function = step
                return step(*state_and_batches)
            state = state_and_batches[:-1]  # only JAX's trainer passes one
            return (logs, *state) if state else logs

        if count:
            model.train_function = skip_or_step


def _values(variables: list[keras.Variable]) -> Arrays:
    # JAX's trainer keeps the values elsewhere in an epoch; reading `Callback.model` syncs them.
    return [np.array(ops.convert_to_numpy(variable)) for variable in variables]
