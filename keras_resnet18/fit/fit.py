"""One `model.fit` under a recipe: compiled, scheduled, the best epoch kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_resnet18.device import fastest_jit
from keras_resnet18.recipe.recipe import Optimizer, Recipe


def compile_model(model: keras.Model, recipe: Recipe, *, steps_per_epoch: int) -> None:
    """Compiles a classifier with softmax for a training by `recipe`.

    Args:
        model: Its output is probabilities (batch, classes); labels are class numbers (batch,).
        recipe: Its optimizer, epochs and label smoothing are used.
        steps_per_epoch: What the schedule counts in.
    """
    model.compile(
        optimizer=build_optimizer(
            recipe.optimizer, model, steps_per_epoch=steps_per_epoch, epochs=recipe.epochs
        ),
        loss=smoothed_cross_entropy(recipe.optimizer.label_smoothing),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=fastest_jit(),
    )


def fit_model(
    model: keras.Model,
    recipe: Recipe,
    train_batches: Any,
    validation_batches: Any,
    *,
    steps_per_epoch: int,
    first_epoch: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Trains a classifier by `recipe`, from compiling to the last epoch.

    Args:
        model: As for `compile_model`.
        recipe: As for `compile_model`.
        train_batches: Endless (what the model takes, class numbers).
        validation_batches: Finite, for choosing the epoch.
        steps_per_epoch: Batches an epoch.
        first_epoch: How many epochs of the run's history there are already.
        callbacks: For reporting, and `KeepBest`.
    """
    compile_model(model, recipe, steps_per_epoch=steps_per_epoch)
    model.fit(
        train_batches,
        initial_epoch=first_epoch,
        epochs=first_epoch + recipe.epochs,
        steps_per_epoch=steps_per_epoch,
        validation_data=validation_batches,
        callbacks=list(callbacks),
        shuffle=False,  # the batches come in the order that is meant
        verbose=0,
    )


class KeepBest(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Puts the weights of the best epoch back when the training ends.

    The best has the lowest validation loss, as for Keras' own callbacks: the accuracy on a few
    hundred images is so coarse that an early epoch wins by chance.

    Args:
        network: Whose weights; a part of it may be what is fitted.

    Attributes:
        epoch: The best one so far, counted from 1.
    """

    def __init__(self, network: keras.Model) -> None:
        super().__init__()
        self.epoch = 0
        self._network = network
        self._loss = math.inf
        self._weights: list[Any] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        loss = (logs or {})["val_loss"]
        loss = loss if math.isfinite(loss) else math.inf
        if loss < self._loss or not self._weights:
            self.epoch, self._loss, self._weights = epoch + 1, loss, self._network.get_weights()

    def on_train_end(self, logs: Any = None) -> None:
        self._network.set_weights(self._weights)


def build_optimizer(
    recipe: Optimizer, model: keras.Model, *, steps_per_epoch: int, epochs: int
) -> keras.optimizers.Optimizer:
    """The optimizer with its schedule; weight decay touches neither BatchNorm nor biases."""
    steps = epochs * steps_per_epoch
    # the warm-up's part of the steps, if the recipe warms up longer than it trains
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
