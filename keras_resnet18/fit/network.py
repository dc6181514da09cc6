"""The network of a training: built by its recipe, with the weights that it begins with."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator

import keras
from rich.console import Console

from keras_resnet18.fit.task import Task, run_of_weights
from keras_resnet18.model import resnet
from keras_resnet18.recipe import Finetune, Optimizer, Recipe
from keras_resnet18.weights.checkpoints import is_name
from keras_resnet18.weights.transfer import copy_weights, load_weights

BUILDERS: dict[str, Callable[..., keras.Model]] = {
    "resnet18": resnet.build_resnet18,
    "resnet34": resnet.build_resnet34,
    "plain18": resnet.build_plain18,
    "plain34": resnet.build_plain34,
}


def build_network(task: Task, console: Console) -> keras.Model:
    """Builds the network, and says what was taken of pretrained weights."""
    recipe = task.recipe
    build = functools.partial(
        BUILDERS[recipe.network.name],
        input_shape=(*task.preprocess.size, 3),
        classes=len(task.source.classes),
        stem=recipe.network.stem,
        variant=recipe.network.variant,
        dropout=recipe.network.dropout,
    )
    if recipe.finetune is None:
        return build()
    weights = recipe.finetune.weights
    if (run := run_of_weights(recipe)) is not None:
        model = build()
        same = run.spec.labels == task.source.classes
        console.print(f"{weights}: {copy_weights(model, run.model, classes_match=same)}")
    elif is_name(weights):  # the builder, for their normalisation
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)  # each training says it, not the first
            model = build(weights=weights)
        for warning in said:
            if issubclass(warning.category, UserWarning):
                console.print(str(warning.message))
    else:
        model = build()
        console.print(f"{weights}: {load_weights(model, weights, head='skip')}")
    return model


# What fine-tuning needs: a network in two, and BatchNorm left as it was.


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
