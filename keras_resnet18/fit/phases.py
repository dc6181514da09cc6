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
    """Compile a classifier, and create the variables of its optimizer and metrics.

    The model's outputs are probabilities (batch, classes). Labels are class numbers (batch,) or
    distributions over the classes (batch, classes).
    """
    model.compile(
        optimizer=build_optimizer(
            recipe.optimizer, model, steps_per_epoch=steps_per_epoch, epochs=recipe.epochs
        ),
        loss=weighted_cross_entropy(recipe.optimizer.label_smoothing, class_weights),
        # weighted, so that images that fill up the last batch for several devices do not count
        weighted_metrics=[accuracy, cross_entropy],
        jit_compile=fastest_jit(),
    )
    # Keras creates these variables at the first step, too late to restore a checkpoint.
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
    """Train a compiled model from `epochs[0]`, counted from 0, up to `epochs[1]`."""
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
    # a recipe's warm-up may be longer than its training
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
    """Loss per image: cross-entropy with smoothed labels, times the weight of the class.

    Mixed images get the weighted mean of their classes' weights. Keras' own label smoothing
    supports only one-hot targets, and its `class_weight` only class numbers.
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
    """1 for each image whose most probable class is its label, or a mix's largest share; or 0."""
    targets = _distribution(labels, probabilities)
    right = ops.argmax(probabilities, axis=-1) == ops.argmax(targets, axis=-1)
    return ops.cast(right, "float32")


def cross_entropy(labels: Any, probabilities: Any) -> Any:
    """Cross-entropy of each image in nats, without label smoothing."""
    return keras.losses.categorical_crossentropy(
        _distribution(labels, probabilities), probabilities
    )


def _distribution(labels: Any, probabilities: Any) -> Any:
    """Targets (batch, classes): converts class numbers to one-hot rows."""
    if len(labels.shape) == 2 and labels.shape[-1] == probabilities.shape[-1]:
        return ops.cast(labels, probabilities.dtype)
    return ops.one_hot(ops.reshape(labels, (-1,)), probabilities.shape[-1])


@dataclasses.dataclass(frozen=True)
class Phase:
    """One `model.fit`."""

    model: keras.Model  # the network's training twin, or its head
    recipe: Recipe  # with the optimizer and epochs of this phase
    batches: Callable[[int], Pair]  # from a step on
    setting: Callable[[], contextlib.AbstractContextManager[None]]  # around compile and fit


def phases_of(network: keras.Model, task: Task, console: Console) -> Iterator[Phase]:
    """In fine-tuning, a linear probe, then all weights with frozen BatchNorm; else all weights."""
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
    """Recipe of the linear probe: AdamW without weight decay or warm-up."""
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
    """Train a network, give it the weights of its best epoch, and return its history.

    With folds, the last epoch counts as the best. History, TensorBoard events, checkpoints and the
    best model are written to `run` meanwhile. `held_out` is the folds' mean history, for the
    training that has no validation images. Raises InputError if the training diverges or the run
    cannot be written.
    """
    phases = list(phases_of(network, task, console))
    first = distributed.is_first()
    history = History(task.batch_size, run.write_history if first else lambda rows: None, held_out)
    best = BestModel(network, history, run.model_file, is_last=task.images.folds is not None)
    ending = EarlyEnd(task.recipe, history, task.steps_per_epoch)
    epochs = sum(phase.recipe.epochs for phase in phases)
    progress = ProgressLine(console, history, epochs=epochs)
    kept = (run.checkpoints_folder, network, history, best, ending)
    checkpoints = Checkpoints(*kept, settings=task.settings, stop=stop, start=start)
    callbacks = [history, progress, best, ending, checkpoints]
    if first:
        callbacks.insert(-2, keras.callbacks.TensorBoard(run.tensorboard_folder, write_graph=False))
    if start is not None:
        history.rows, best.weights = start.rows, start.best
        history.first_step, history.seconds_before = start.step, start.seconds
        ending.seconds_before = start.total_seconds
    first_epoch = 0
    try:
        for number, phase in enumerate(phases):
            if start is None or number >= start.phase:
                checkpoints.phase = number
                if phase is phases[-1]:
                    ending.first_epoch = first_epoch
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
    """Train one phase from its first step, or from that of the checkpoint."""
    last_epoch, steps = first_epoch + phase.recipe.epochs, task.steps_per_epoch
    with phase.setting():
        compile_model(
            phase.model, phase.recipe, steps_per_epoch=steps, class_weights=task.class_weights
        )
        epoch, step = checkpoints.restore(phase.model) or (first_epoch, 0)
        if epoch == last_epoch or ending.is_due():
            return  # an earlier process finished the phase, or the training is due to end
        data = phase.batches((epoch - first_epoch) * steps + step)
        with stop.held(), _written(checkpoints):
            fit(phase.model, data, steps, (epoch, last_epoch), callbacks)
        stop.obey()


@contextlib.contextmanager
def _written(checkpoints: Checkpoints) -> Iterator[None]:
    """Report a full disk or a read-only folder with the position in the training."""
    try:
        yield
    except (OSError, InputError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # raised by `staged`
        if not isinstance(cause, OSError):
            raise
        raise InputError(
            f"the run cannot be written, at {checkpoints}: {cause.strerror or cause}. Its last "
            "checkpoint is whole: free some space, or make the folder writable, and go on"
        ) from error
