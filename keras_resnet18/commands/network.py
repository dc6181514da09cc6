"""The network of a training: built by its recipe, with the weights that it begins with."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import keras
from rich.console import Console

from keras_resnet18.commands.task import Task, run_of_weights
from keras_resnet18.model import resnet
from keras_resnet18.weights.endings import is_name
from keras_resnet18.weights.own import copy_weights
from keras_resnet18.weights.transfer import load_weights

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
        same = run.labels == task.source.classes
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
