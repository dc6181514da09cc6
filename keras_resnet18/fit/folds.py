"""Cross-validation: trainings that leave a fold out each, before the one that has all images."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence

import keras
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
from keras_resnet18.machine import dtype_policy
from keras_resnet18.run import Run

_RESULT = "held-out.npz"  # of a fold, in its folder


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """What networks say of images that they did not train on: all images, each once.

    Attributes:
        logits: Shape (n, classes), in the order of the source's pool.
        labels: Shape (n,).
        rows: The mean history of the trainings.
    """

    logits: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    rows: list[Row]

    def calibrated(self, task: Task) -> tuple[Calibration, dict[str, Evaluation]]:
        """Calibration, and the evaluation of all folds by it."""
        found = calibrate(self.logits, self.labels)
        folds, names = task.images.folds, task.source.splits["test"].names
        assert folds is not None
        probabilities = softmax(self.logits / found.temperature, 1)
        spec = task.spec(found.threshold)
        return found, {
            "folds": evaluate_folds(probabilities, self.labels, spec, names, folds.count)
        }


def new_network(task: Task, console: Console, *, resumed: bool = False) -> keras.Model:
    """Build a network as the first of its process: each training has the same seed."""
    # Keras' initialisers draw from a global generator; everything else has seeds of its own.
    keras.utils.set_random_seed(task.recipe.seed)
    with dtype_policy(task.policy):
        return build_network(task, console, resumed=resumed)


def train_folds(task: Task, training: Run, *, stop: Stop, console: Console) -> HeldOut:
    """Train a network without each fold, and ask it about the images of the fold.

    A fold is a run inside of the checkpoints of `training`. Once it is done its answers stay there
    alone, so that `resume` goes on with the next one.

    Raises:
        InputError: If a training diverges, or the run cannot be written.
    """
    folds = task.images.folds
    assert folds is not None
    found = []
    for number in range(folds.count):
        run, name = Run(training.checkpoints_folder / f"fold{number + 1}"), f"fold {number + 1}"
        if (result := _read(run, task.folded(number), console)) is not None:
            console.print(f"{name} of {folds.count}: trained before")
        else:
            try:
                result = _train_fold(task.folded(number), run, stop, console)
            except DivergedError as error:
                raise DivergedError(f"{name}: {error}") from None
        found.append(result)
    order = np.argsort(folds.numbers, kind="stable")
    logits, labels = (np.concatenate([one[i] for one in found]) for i in (0, 1))
    back = np.argsort(order)
    return HeldOut(logits[back], labels[back], _mean([one[2] for one in found]))


_Result = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], list[Row]]


def _train_fold(task: Task, run: Run, stop: Stop, console: Console) -> _Result:
    assert task.images.folds is not None and task.fold is not None and task.held_out is not None
    console.print(
        f"fold {task.fold + 1} of {task.images.folds.count}: {task.source.split_notes[0]}"
    )
    run.path.mkdir(parents=True, exist_ok=True)
    start = load_checkpoint(run.checkpoints_folder, console)
    if start is not None:
        for line in check_unchanged(start.settings, task.settings, run):
            console.print(line)
        console.print(f"going on at {start}")
    quiet = Console(quiet=True)  # the first network has said what it took
    model = new_network(task, quiet, resumed=start is not None)
    rows = train_network(model, task, run, start=start, stop=stop, console=console)
    logits, labels = logits_of(alone(model), task.held_out, task.preprocess, quiet)
    with staged(run.path / _RESULT) as new:
        settings = json.dumps(task.settings)
        np.savez(new, logits=logits, labels=labels, rows=json.dumps(rows), settings=settings)
    for file in (run.model_file, run.history_file):
        file.unlink(missing_ok=True)
    for folder in (run.checkpoints_folder, run.tensorboard_folder):
        shutil.rmtree(folder, ignore_errors=True)
    return logits, labels, rows


def _read(run: Run, task: Task, console: Console) -> _Result | None:
    """The result of a fold that was trained before; None if there is none, or it is damaged.

    Raises:
        InputError: If it was trained by something else, such as a recipe that was edited since.
    """
    try:
        with np.load(run.path / _RESULT) as file:
            result = file["logits"], file["labels"], json.loads(str(file["rows"]))
            settings = json.loads(str(file["settings"]))
    except (FileNotFoundError, *DAMAGED):
        return None
    for line in check_unchanged(settings, task.settings, run):
        console.print(line)
    return result


def _mean(histories: Sequence[Sequence[Row]]) -> list[Row]:
    """The mean of each figure in each epoch."""
    return [
        {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        for rows in zip(*histories, strict=True)
    ]


def cost_in_words(task: Task) -> str:
    """Say what cross-validation costs, before it begins."""
    folds, finetune = task.images.folds, task.recipe.finetune
    assert folds is not None
    epochs = task.recipe.epochs + (finetune.head_epochs if finetune else 0)
    return (
        f"{folds.count + 1} trainings of {epochs} epochs: {folds.count} that leave out a fold "
        f"each, then the one that ships, on all {len(folds.numbers):,} images"
    )
