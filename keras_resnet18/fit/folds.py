"""Cross-validation: train once without each fold, before the training on all images."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import numpy.typing as npt
from rich.console import Console
from scipy.special import softmax

from keras_resnet18.classify.accuracy import Evaluation, evaluate_folds
from keras_resnet18.classify.calibration import Calibration, calibrate
from keras_resnet18.errors import DivergedError
from keras_resnet18.files import staged
from keras_resnet18.fit.callbacks import Row
from keras_resnet18.fit.network import build_network, logits_of
from keras_resnet18.fit.phases import train_network
from keras_resnet18.fit.resume import DAMAGED, Stop, load_checkpoint
from keras_resnet18.fit.task import Task, check_unchanged
from keras_resnet18.fit.twin import alone
from keras_resnet18.run import Run

_RESULT = "held-out.npz"  # of a fold, in its folder


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Predictions of the images of one fold, or of all in the order of the source's pool."""

    logits: npt.NDArray[np.float32]  # (n, classes)
    labels: npt.NDArray[np.int64]  # (n,)
    rows: list[Row]  # the history of the training, or the mean of all

    def calibrated(self, task: Task) -> tuple[Calibration, dict[str, Evaluation]]:
        """Calibrate, and evaluate all folds together."""
        found = calibrate(self.logits, self.labels)
        folds, names = task.images.folds, task.source.splits["test"].names
        assert folds is not None
        probabilities = softmax(self.logits / found.temperature, 1)
        spec = task.spec(found.threshold)
        return found, {
            "folds": evaluate_folds(probabilities, self.labels, spec, names, folds.count)
        }


def train_folds(task: Task, training: Run, *, stop: Stop, console: Console) -> HeldOut:
    """Train a network without each fold, and predict the fold's images.

    Each fold is a run in the checkpoints folder of `training`. After its training only the
    predictions are kept, so that `resume` continues with the next fold.
    """
    folds = task.images.folds
    assert folds is not None
    found = []
    for number in range(folds.count):
        run, fold = Run(training.checkpoints_folder / f"fold{number + 1}"), task.folded(number)
        name = f"fold {number + 1} of {folds.count}"
        if (result := _read(run, fold, console)) is not None:
            console.print(f"{name}: trained before")
        else:
            console.print(f"{name}: {fold.source.split_notes[0]}")
            try:
                result = _train_fold(fold, run, stop, console)
            except DivergedError as error:
                raise DivergedError(f"fold {number + 1}: {error}") from None
        found.append(result)
    in_pool = np.argsort(np.argsort(folds.numbers, kind="stable"))
    return HeldOut(
        np.concatenate([fold.logits for fold in found])[in_pool],
        np.concatenate([fold.labels for fold in found])[in_pool],
        [
            {key: float(np.mean([row[key] for row in epoch])) for key in epoch[0]}
            for epoch in zip(*(fold.rows for fold in found), strict=True)
        ],
    )


def _train_fold(task: Task, run: Run, stop: Stop, console: Console) -> HeldOut:
    run.path.mkdir(parents=True, exist_ok=True)
    start = load_checkpoint(run.checkpoints_folder, console)
    if start is not None:
        check_unchanged(start.settings, task.settings, run, console)
        console.print(f"going on at {start}")
    quiet = Console(quiet=True)  # the pretrained weights were printed before
    model = build_network(task, quiet, resumed=start is not None)
    rows = train_network(model, task, run, start=start, stop=stop, console=console)
    held_out = task.source.splits["validation"]
    logits, labels = logits_of(alone(model), held_out, task.preprocess, quiet)
    with staged(run.path / _RESULT) as new:
        settings = json.dumps(task.settings)
        np.savez(new, logits=logits, labels=labels, rows=json.dumps(rows), settings=settings)
    for file in (run.model_file, run.history_file):
        file.unlink(missing_ok=True)
    for folder in (run.checkpoints_folder, run.tensorboard_folder):
        shutil.rmtree(folder, ignore_errors=True)
    return HeldOut(logits, labels, rows)


def _read(run: Run, task: Task, console: Console) -> HeldOut | None:
    """Read the result of a fold that was trained before; None if it is missing or damaged."""
    try:
        with np.load(run.path / _RESULT) as file:
            result = HeldOut(file["logits"], file["labels"], json.loads(str(file["rows"])))
            settings = json.loads(str(file["settings"]))
    except (FileNotFoundError, *DAMAGED):
        return None
    check_unchanged(settings, task.settings, run, console)
    return result
