"""The network of a training: build, split, freeze BatchNorm, calibrate."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from rich.console import Console

from keras_resnet18 import distributed
from keras_resnet18.data.pipeline import eval_batches
from keras_resnet18.data.progress import watched
from keras_resnet18.data.splits import Split
from keras_resnet18.files import staged
from keras_resnet18.fit.task import Task, run_of_weights
from keras_resnet18.machine import dtype_policy, fastest_jit
from keras_resnet18.model import resnet
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.run import Run, save_model
from keras_resnet18.weights.checkpoints import is_name
from keras_resnet18.weights.transfer import copy_weights, load_weights

BUILDERS: dict[str, Callable[..., keras.Model]] = {
    "resnet18": resnet.build_resnet18,
    "resnet34": resnet.build_resnet34,
    "plain18": resnet.build_plain18,
    "plain34": resnet.build_plain34,
}

_BATCH_SIZE = 64  # for computing features


def build_network(task: Task, console: Console, *, resumed: bool = False) -> keras.Model:
    """Build the network, load pretrained weights, and print which were used.

    If `resumed`, a checkpoint holds all weights, and the pretrained ones may no longer exist.
    """
    recipe = task.recipe
    # Keras' initializers draw from a global generator; everything else has its own seed.
    keras.utils.set_random_seed(recipe.seed)

    def build(**weights: str) -> keras.Model:
        with dtype_policy(task.policy):
            return BUILDERS[recipe.network.name](
                input_shape=(*task.preprocess.size, 3),
                classes=len(task.source.classes),
                stem=recipe.network.stem,
                variant=recipe.network.variant,
                dropout=recipe.network.dropout,
                **weights,
            )

    if recipe.finetune is None:
        return build()
    weights = recipe.finetune.weights
    if resumed:
        model = build()
        if is_name(weights):  # their normalization may differ from ImageNet's
            scale, offset = task.preprocess.scale_and_offset()
            layer = model.get_layer("normalization")
            layer.scale, layer.offset = list(scale), list(offset)
        return model
    if (run := run_of_weights(recipe)) is not None:
        model = build()
        names = {"classes": task.source.classes, "trained_classes": run.spec.labels}
        console.print(f"{weights}: {copy_weights(model, run.model, **names)}")
    elif is_name(weights):  # by the builder, which sets their normalization
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)  # in every training, not only the first
            model = build(weights=weights)
        for warning in said:
            if issubclass(warning.category, UserWarning):
                console.print(str(warning.message))
    else:
        model = build()
        console.print(f"{weights}: {load_weights(model, weights, head='skip')}")
    return model


def split_head(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Split a network of this package into two models that share its layers and weights.

    Returns:
        The body, from images to features (batch, channels), and the head, from features to
        probabilities (batch, classes).
    """
    pool = model.get_layer("head_pool")
    features = x = keras.Input(pool.output.shape[1:])
    for layer in model.layers[model.layers.index(pool) + 1 :]:
        x = layer(x)
    return keras.Model(model.inputs, pool.output), keras.Model(features, x)


def features_of(
    body: keras.Model, split: Split, preprocess: Preprocess, console: Console
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Features (n, channels) and labels (n,) of a split. Processes share the work and get all."""
    body.compile(jit_compile=fastest_jit())
    # begins with an empty array: one of several processes may have no images
    features = [np.empty((0, *body.output_shape[1:]), body.output.dtype)]
    labels = [np.empty(0, np.int64)]
    batches = eval_batches(split, preprocess.resize_and_crop, batch_size=_BATCH_SIZE)
    with watched(console, "features", split.size) as advance:
        for images, targets in batches:
            features.append(body.predict_on_batch(images.numpy()))
            labels.append(targets.numpy())
            advance(len(targets))
    return (
        distributed.gather(np.concatenate(features), split.size),
        distributed.gather(np.concatenate(labels), split.size),
    )


@contextlib.contextmanager
def frozen_batch_norm(model: keras.Model) -> Iterator[None]:
    """Freeze every BatchNorm, from `compile` to the end of `fit`, in inference mode.

    A few images give poor statistics; those of the pretraining match the weights.
    """
    normalizations = [
        layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)
    ]
    before = [layer.trainable for layer in normalizations]
    for layer in normalizations:
        layer.trainable = False
    try:
        yield
    finally:
        for layer, trainable in zip(normalizations, before, strict=True):
            layer.trainable = trainable


def logits_of(
    model: keras.Model, split: Split, preprocess: Preprocess, console: Console
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Logits (n, classes) and labels (n,) of a split, on every process.

    Logits are computed from features: a float32 softmax may give 0, whose logarithm is lost.
    """
    features, labels = features_of(split_head(model)[0], split, preprocess, console)
    kernel, bias = model.layers[-1].get_weights()
    return features.astype(np.float32) @ kernel + bias, labels


def divide_logits(model: keras.Model, temperature: float, run: Run) -> None:
    """Divide the last layer's kernel and bias by a temperature, and rewrite `model.keras`.

    So the model and its exports are calibrated; the most probable classes do not change.
    """
    if temperature == 1:
        return
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel / temperature, bias / temperature])
    if distributed.is_first():
        with staged(run.model_file) as new:
            save_model(model, new)
