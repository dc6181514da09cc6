"""Training a network: one phase from scratch, two in fine-tuning, each one `model.fit`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
from rich.console import Console

from keras_resnet18.errors import InputError
from keras_resnet18.fit.average import MovingAverage
from keras_resnet18.fit.best import BestModel
from keras_resnet18.fit.checkpoint import Checkpoint
from keras_resnet18.fit.ending import EarlyEnd
from keras_resnet18.fit.finetune import frozen_batch_norm, head_recipe, split_head
from keras_resnet18.fit.fit import compile_model, fit_model
from keras_resnet18.fit.fused_batch_norm import training_twin
from keras_resnet18.fit.history import History, Row
from keras_resnet18.fit.progress import ProgressLine
from keras_resnet18.fit.resume import Checkpoints
from keras_resnet18.fit.signals import Stop
from keras_resnet18.processes import ALONE, Processes
from keras_resnet18.recipe.recipe import Recipe
from keras_resnet18.run import Run

Pair = tuple[Any, Any]  # endless training batches, and finite validation batches


@dataclasses.dataclass(frozen=True)
class Batches:
    """Datasets of (inputs, class numbers) for every phase.

    Each training batch is a function of its number, counted over the phase.

    Attributes:
        size: Images per training batch.
        steps_per_epoch: Training batches per epoch.
        class_weights: Weight of each class in the loss, or None.
        images: `images(first_step)` gives training batches from a step on, and validation batches.
        features: `features(body, first_step)` gives the same of the body's outputs, for the head.
    """

    size: int
    steps_per_epoch: int
    class_weights: Sequence[float] | None
    images: Callable[[int], Pair]
    features: Callable[[keras.Model, int], Pair]


@dataclasses.dataclass(frozen=True)
class Phase:
    """One `model.fit`.

    Attributes:
        model: The model that is fitted: the network's training twin, or its head.
        recipe: Optimizer and epochs.
        batches: Batches from a step on.
        setting: Context from `compile` to the end of `fit`.
    """

    model: keras.Model
    recipe: Recipe
    batches: Callable[[int], Pair]
    setting: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext


def phases_of(network: keras.Model, recipe: Recipe, batches: Batches) -> Iterator[Phase]:
    """A linear probe and all weights in fine-tuning, BatchNorm frozen; else all weights alone."""
    setting: Any = contextlib.nullcontext
    if recipe.finetune:
        body, head = split_head(network)
        yield Phase(
            head,
            head_recipe(recipe, recipe.finetune),
            lambda first_step: batches.features(body, first_step),
        )
        setting = lambda: frozen_batch_norm(network)  # noqa: E731
    if recipe.epochs:
        yield Phase(training_twin(network), recipe, batches.images, setting)


def train_network(
    network: keras.Model,
    recipe: Recipe,
    batches: Batches,
    run: Run,
    *,
    settings: dict[str, Any],
    start: Checkpoint | None,
    stop: Stop,
    console: Console,
    processes: Processes = ALONE,
) -> list[Row]:
    """Trains a network, and gives it the weights of its best epoch.

    Args:
        network: Built for the recipe.
        recipe: Optimizer, epochs and fine-tuning are used.
        batches: The images.
        run: Receives history, TensorBoard events, checkpoints and the best model as it trains.
        settings: What the training was given, for the checkpoints.
        start: A checkpoint of this training to begin at; None for its first step.
        stop: A request to end, obeyed between steps.
        console: Where progress is printed.
        processes: Those that train; the first one alone writes.

    Returns:
        The history, a row for each epoch.

    Raises:
        InputError: If the training diverges, or the run cannot be written.
    """
    phases = list(phases_of(network, recipe, batches))
    history = History(batches.size, run.write_history if processes.is_first else _nowhere)
    average = MovingAverage(network, history, recipe.optimizer.ema)
    best = BestModel(network, history, average, run.model_file, processes)
    ending = EarlyEnd(recipe, history, batches.steps_per_epoch, processes)
    epochs = sum(phase.recipe.epochs for phase in phases)
    progress = ProgressLine(console, history, epochs=epochs)
    checkpoints = Checkpoints(
        run.checkpoints_folder,
        network,
        history,
        best,
        average,
        ending,
        settings=settings,
        stop=stop,
        start=start,
        processes=processes,
    )
    callbacks = [history, average, progress, best, ending, checkpoints]
    if processes.is_first:
        board = keras.callbacks.TensorBoard(run.tensorboard_folder, write_graph=False)
        callbacks.insert(-2, board)
    if start is not None:
        history.resume(start.rows, start.step, start.seconds)
        best.resume(start.best)
        ending.resume(start.total_seconds)
    first_epoch = 0
    try:
        for number, phase in enumerate(phases):
            if start is None or number >= start.phase:
                checkpoints.phase = number
                ending.first_epoch, ending.waits = first_epoch, phase is phases[-1]
                _fit(phase, first_epoch, batches, callbacks, checkpoints, ending, stop)
                with _written(checkpoints):
                    best.write()
                best.put_in()
            first_epoch += phase.recipe.epochs
    except BaseException:
        with contextlib.suppress(Exception):
            best.write()
        raise
    finally:
        progress.stop()
    if (early := ending.in_words(epochs)) is not None:
        console.print(early)
    return history.rows


def _nowhere(rows: list[Row]) -> None:
    """Writes no history: the first process does."""


def _fit(
    phase: Phase,
    first_epoch: int,
    batches: Batches,
    callbacks: Sequence[keras.callbacks.Callback],
    checkpoints: Checkpoints,
    ending: EarlyEnd,
    stop: Stop,
) -> None:
    """One phase, from its first step or from the checkpoint's."""
    last_epoch = first_epoch + phase.recipe.epochs
    with phase.setting():
        compile_model(
            phase.model,
            phase.recipe,
            steps_per_epoch=batches.steps_per_epoch,
            class_weights=batches.class_weights,
        )
        epoch, step = checkpoints.restore(phase.model) or (first_epoch, 0)
        if epoch == last_epoch or ending.is_due():
            # the process ended between the last checkpoint and the phase's end, or there is no time
            phase.model.optimizer.finalize_variable_values(phase.model.trainable_weights)
            return
        data = phase.batches((epoch - first_epoch) * batches.steps_per_epoch + step)
        with stop.held(), _written(checkpoints):
            fit_model(
                phase.model,
                *data,
                steps_per_epoch=batches.steps_per_epoch,
                epochs=(epoch, last_epoch),
                callbacks=callbacks,
            )
        stop.obey()


@contextlib.contextmanager
def _written(checkpoints: Checkpoints) -> Iterator[None]:
    """Says what a full disk or a folder that turned read-only means for the training."""
    try:
        yield
    except (OSError, InputError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__  # of `staged`
        if not isinstance(cause, OSError):
            raise
        raise InputError(
            f"the run cannot be written, at {checkpoints}: {cause.strerror or cause}. Its last "
            "checkpoint is whole: free some space, or make the folder writable, and go on"
        ) from error
