"""What fine-tuning needs: a network in two, and BatchNorm left as it was."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import keras

from keras_resnet18.recipe.recipe import Finetune, Optimizer, Recipe


def split_head(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """The network up to its pooled features, and the classifier of them.

    Args:
        model: A classifier that a builder of this package made.

    Returns:
        Two models of the same layers, and so of the same weights: from images to features
        (batch, channels), and from features to probabilities (batch, classes).
    """
    pool = model.get_layer("head_pool")
    features = x = keras.Input(pool.output.shape[1:])
    for layer in model.layers[model.layers.index(pool) + 1 :]:
        x = layer(x)
    return keras.Model(model.inputs, pool.output), keras.Model(features, x)


def head_recipe(recipe: Recipe, finetune: Finetune) -> Recipe:
    """How the classifier alone is fitted: the recipe's way, by AdamW, and quickly."""
    return dataclasses.replace(
        recipe,
        epochs=finetune.head_epochs,
        optimizer=Optimizer(
            name="adamw",
            learning_rate=finetune.head_learning_rate,
            weight_decay=0.0,
            warmup_epochs=0,
            label_smoothing=recipe.optimizer.label_smoothing,
            class_weights=recipe.optimizer.class_weights,
            ema=recipe.optimizer.ema,
        ),
    )


@contextlib.contextmanager
def frozen_batch_norm(model: keras.Model) -> Iterator[None]:
    """Keeps every value of every BatchNorm inside, and lets it normalise as in inference.

    A few images give poor statistics, and those of the pretraining fit the weights. It must hold
    from `compile` to the end of `fit`.
    """
    normalisations = [
        layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)
    ]
    before = [layer.trainable for layer in normalisations]
    for layer in normalisations:
        layer.trainable = False
    try:
        yield
    finally:
        for layer, trainable in zip(normalisations, before, strict=True):
            layer.trainable = trainable
