"""One `model.fit` by a recipe: optimizer, schedule, loss and metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_resnet18.device import fastest_jit
from keras_resnet18.recipe.recipe import Optimizer, Recipe


def compile_model(
    model: keras.Model,
    recipe: Recipe,
    *,
    steps_per_epoch: int,
    class_weights: Sequence[float] | None = None,
) -> None:
    """Compiles a classifier, and makes the variables of optimizer and metrics.

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
