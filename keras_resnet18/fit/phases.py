"""Phases of a training, each one `model.fit` by a recipe: optimizer, schedule, loss, metrics."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
from keras import ops
from rich.console import Console

from keras_resnet18 import distributed
from keras_resnet18.errors import InputError
from keras_resnet18.fit.batches import Pair, feature_batches, image_batches
from keras_resnet18.fit.callbacks import BestModel, EarlyEnd, History, ProgressLine, Row
from keras_resnet18.fit.network import frozen_batch_norm, split_head
from keras_resnet18.fit.resume import Checkpoint, Checkpoints, Stop
from keras_resnet18.fit.task import Task
from keras_resnet18.fit.twin import training_twin
from keras_resnet18.machine import fastest_jit
from keras_resnet18.recipe import Finetune, Optimizer, Recipe
from keras_resnet18.run import Run


def compile_model(
    model: keras.Model,
    recipe: Recipe,
    *,
    steps_per_epoch: int,
    class_weights: Sequence[float] | None = None,
) -> None:
    """Compile a classifier, and make the variables of optimizer and metrics.

    Args:
        model: Its output is probabilities (batch, classes). Labels are class numbers (batch,), or
            distributions over the classes (batch, classes).
        recipe: Optimizer, epochs and label smoothing are used.
        steps_per_epoch: Batches per epoch, for the schedule.
        class_weights: Weight of each class in the loss; None for 1 each.
    """
    model.compile(
        optimizer=build_optimizer(
            recipe.optimizer, model, steps_per_epoch=steps_per_epoch, epochs=recipe.epochs
        ),
        loss=weighted_cross_entropy(recipe.optimizer.label_smoothing, class_weights),
        # as the loss, without the images that fill up a last batch for several devices
        weighted_metrics=[accuracy, cross_entropy],
        jit_compile=fastest_jit(),
    )
    # Keras makes these variables at the first step; a checkpoint is put into them before it.
    model.optimizer.build(model.trainable_variables)
    probabilities = ops.ones((1, model.output_shape[-1]))
    model.compute_metrics(None, ops.zeros((1,), "int32"), probabilities)
    model.reset_metrics()


def fit(
    model: keras.Model,
    data: Pair,
    steps_per_epoch: int,
    epochs: tuple[int, int],
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Train a compiled model from one epoch, counted from 0, up to another."""
    training, validation = data
    model.fit(
        training,
        initial_epoch=epochs[0],
        epochs=epochs[1],
        steps_per_epoch=steps_per_epoch,
        validation_data=validation,
        callbacks=list(callbacks),
        shuffle=False,  # the batches are in order
        verbose=0,
    )


def build_optimizer(
    recipe: Optimizer, model: keras.Model, *, steps_per_epoch: int, epochs: int
) -> keras.optimizers.Optimizer:
    """Optimizer with its schedule, without weight decay for BatchNorm and biases."""
    steps = epochs * steps_per_epoch
    # a recipe may warm up for longer than it trains
    warmup_steps = min(round(recipe.warmup_epochs * steps_per_epoch), steps - 1)
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup_steps else recipe.learning_rate,
        decay_steps=steps - warmup_steps,
        warmup_target=recipe.learning_rate if warmup_steps else None,
        warmup_steps=warmup_steps,
    )
    if recipe.name == "adamw":
        optimizer = keras.optimizers.AdamW(
            schedule, weight_decay=recipe.weight_decay, global_clipnorm=recipe.clip_norm
        )
    else:
        optimizer = keras.optimizers.SGD(
            schedule,
            momentum=recipe.momentum,
            nesterov=recipe.momentum > 0,
            weight_decay=recipe.weight_decay or None,
            global_clipnorm=recipe.clip_norm,
        )
    optimizer.exclude_from_weight_decay([v for v in model.trainable_variables if len(v.shape) == 1])
    return optimizer


def weighted_cross_entropy(
    label_smoothing: float, class_weights: Sequence[float] | None
) -> Callable[[Any, Any], Any]:
    """Loss of each image: cross-entropy with smoothed labels times the weight of its class.

    An image of mixed classes has their weights in the same proportions. Keras' own smoothing and
    `class_weight` take one-hot targets only, and class numbers only.
    """

    def loss(labels: Any, probabilities: Any) -> Any:
        targets = _distribution(labels, probabilities)
        losses = keras.losses.categorical_crossentropy(
            targets, probabilities, label_smoothing=label_smoothing
        )
        if class_weights is not None:
            losses = losses * ops.sum(targets * ops.convert_to_tensor(class_weights), axis=-1)
        return losses

    return loss


def accuracy(labels: Any, probabilities: Any) -> Any:
    """Whether the highest probability is that of the label, or of the largest share of a mix."""
    targets = _distribution(labels, probabilities)
    right = ops.argmax(probabilities, axis=-1) == ops.argmax(targets, axis=-1)
    return ops.cast(right, "float32")


def cross_entropy(labels: Any, probabilities: Any) -> Any:
    """Cross-entropy of each image in nats, without smoothing."""
    return keras.losses.categorical_crossentropy(
        _distribution(labels, probabilities), probabilities
    )


def _distribution(labels: Any, probabilities: Any) -> Any:
    """Targets (batch, classes): class numbers as one-hot rows, distributions as they are."""
    if len(labels.shape) == 2 and labels.shape[-1] == probabilities.shape[-1]:
        return ops.cast(labels, probabilities.dtype)
    return ops.one_hot(ops.reshape(labels, (-1,)), probabilities.shape[-1])


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
    setting: Callable[[], contextlib.AbstractContextManager[None]]


def phases_of(network: keras.Model, task: Task, console: Console) -> Iterator[Phase]:
    """A linear probe and all weights in fine-tuning, BatchNorm frozen; else all weights alone."""
    recipe = task.recipe
    setting: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    if recipe.finetune:
        body, head = split_head(network)
        features = functools.partial(feature_batches, task, body, console)
        yield Phase(head, head_recipe(recipe, recipe.finetune), features, setting)
        setting = functools.partial(frozen_batch_norm, network)
    if recipe.epochs:
        images = functools.partial(image_batches, task)
        yield Phase(training_twin(network), recipe, images, setting)


def head_recipe(recipe: Recipe, finetune: Finetune) -> Recipe:
    """Recipe of the linear probe: AdamW, without weight decay and warm-up."""
    return dataclasses.replace(
        recipe,
        epochs=finetune.head_epochs,
        optimizer=dataclasses.replace(
            recipe.optimizer,
            name="adamw",
            learning_rate=finetune.head_learning_rate,
            weight_decay=0.0,
            warmup_epochs=0,
            clip_norm=None,
        ),
    )


def train_network(
    network: keras.Model,
    task: Task,
    run: Run,
    *,
    start: Checkpoint | None,
    stop: Stop,
    console: Console,
    held_out: Sequence[Row] | None = None,
) -> list[Row]:
    """Train a network, and give it the weights of its best epoch, or of its last one with folds.

    Args:
        network: Built for the task's recipe.
        task: The images and the recipe.
        run: Receives history, TensorBoard events, checkpoints and the best model as it trains.
        start: A checkpoint of this training to begin at; None for its first step.
        stop: A request to end, obeyed between steps.
        console: Where progress is printed.
        held_out: The mean history of the folds, for the training that has no validation images.

    Returns:
        The history, a row for each epoch.

    Raises:
        InputError: If the training diverges, or the run cannot be written.
    """
    phases = list(phases_of(network, task, console))
    first = distributed.is_first()
    history = History(task.batch_size, run.write_history if first else lambda rows: None, held_out)
    folded = task.images.folds is not None
    best = BestModel(network, history, run.model_file, is_last=folded)
    ending = EarlyEnd(task.recipe, history, task.steps_per_epoch)
    epochs = sum(phase.recipe.epochs for phase in phases)
    progress = ProgressLine(console, history, epochs=epochs)
    checkpoints = Checkpoints(
        *(run.checkpoints_folder, network, history, best, ending),
        settings=task.settings,
        stop=stop,
        start=start,
    )
    callbacks = [history, progress, best, ending, checkpoints]
    if first:
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
                _fit(phase, first_epoch, task, callbacks, checkpoints, ending, stop)
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


def _fit(
    phase: Phase,
    first_epoch: int,
    task: Task,
    callbacks: Sequence[keras.callbacks.Callback],
    checkpoints: Checkpoints,
    ending: EarlyEnd,
    stop: Stop,
) -> None:
    """One phase, from its first step or from the checkpoint's."""
    last_epoch, steps = first_epoch + phase.recipe.epochs, task.steps_per_epoch
    with phase.setting():
        compile_model(
            phase.model, phase.recipe, steps_per_epoch=steps, class_weights=task.class_weights
        )
        epoch, step = checkpoints.restore(phase.model) or (first_epoch, 0)
        if epoch == last_epoch or ending.is_due():
            return  # an earlier process ended after its last step, or there is no time
        data = phase.batches((epoch - first_epoch) * steps + step)
        with stop.held(), _written(checkpoints):
            fit(phase.model, data, steps, (epoch, last_epoch), callbacks)
        stop.obey()


@contextlib.contextmanager
def _written(checkpoints: Checkpoints) -> Iterator[None]:
    """Say what a full disk or a folder that turned read-only means for the training."""
    try:
        yield
    except (OSError, InputError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # of `staged`
        if not isinstance(cause, OSError):
            raise
        raise InputError(
            f"the run cannot be written, at {checkpoints}: {cause.strerror or cause}. Its last "
            "checkpoint is whole: free some space, or make the folder writable, and go on"
        ) from error
