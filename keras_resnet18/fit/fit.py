"""One `model.fit` by a recipe: optimizer, schedule, loss and metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_resnet18.device import fastest_jit
from keras_resnet18.recipe.recipe import Optimizer, Recipe


def compile_model(model: keras.Model, recipe: Recipe, *, steps_per_epoch: int) -> None:
    """Compiles a classifier, and makes the variables of optimizer and metrics.

    Args:
        model: Its output is probabilities (batch, classes); labels are class numbers (batch,).
        recipe: Optimizer, epochs and label smoothing are used.
        steps_per_epoch: Batches per epoch, for the schedule.
    """
    model.compile(
        optimizer=build_optimizer(
            recipe.optimizer, model, steps_per_epoch=steps_per_epoch, epochs=recipe.epochs
        ),
        loss=smoothed_cross_entropy(recipe.optimizer.label_smoothing),
        metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
            keras.metrics.SparseCategoricalCrossentropy(name="cross_entropy"),
        ],
        jit_compile=fastest_jit(),
    )
    # Keras makes these variables at the first step; a checkpoint is put into them before it.
    model.optimizer.build(model.trainable_variables)
    probabilities = ops.ones((1, model.output_shape[-1]))
    model.compute_metrics(None, ops.zeros((1,), "int32"), probabilities)
    model.reset_metrics()


def fit_model(
    model: keras.Model,
    train_batches: Any,
    validation_batches: Any,
    *,
    steps_per_epoch: int,
    epochs: tuple[int, int],
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Trains a compiled classifier.

    Args:
        model: See `compile_model`.
        train_batches: Endless dataset of (inputs, class numbers).
        validation_batches: Finite dataset of the same kind.
        steps_per_epoch: Training batches per epoch.
        epochs: Number of the first epoch, from 0, and of the one after the last.
        callbacks: Keras callbacks.
    """
    first, last = epochs
    model.fit(
        train_batches,
        initial_epoch=first,
        epochs=last,
        steps_per_epoch=steps_per_epoch,
        validation_data=validation_batches,
        callbacks=list(callbacks),
        shuffle=False,  # the batches are in order
        verbose=0,
    )


def build_optimizer(
    recipe: Optimizer, model: keras.Model, *, steps_per_epoch: int, epochs: int
) -> keras.optimizers.Optimizer:
    """Optimizer with its schedule; without weight decay for BatchNorm and biases."""
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
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=recipe.weight_decay)
    else:
        optimizer = keras.optimizers.SGD(
            schedule,
            momentum=recipe.momentum,
            nesterov=recipe.momentum > 0,
            weight_decay=recipe.weight_decay or None,
        )
    optimizer.exclude_from_weight_decay([v for v in model.trainable_variables if len(v.shape) == 1])
    return optimizer


def smoothed_cross_entropy(label_smoothing: float) -> Callable[[Any, Any], Any]:
    """Cross-entropy between class numbers (batch,) and probabilities (batch, classes).

    Keras smooths labels for one-hot targets only.
    """

    def cross_entropy(labels: Any, probabilities: Any) -> Any:
        one_hot = ops.one_hot(ops.reshape(labels, (-1,)), probabilities.shape[-1])
        return keras.losses.categorical_crossentropy(
            one_hot, probabilities, label_smoothing=label_smoothing
        )

    return cross_entropy
