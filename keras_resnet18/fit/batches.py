"""Batches of a training: augmented images, or features for the linear probe."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import keras
import numpy as np
from rich.console import Console

from keras_resnet18 import distributed
from keras_resnet18.data.augment import augment, mix
from keras_resnet18.data.pipeline import (
    eval_batches,
    steps_per_epoch,
    train_batches,
    whole_eval_batches,
)
from keras_resnet18.data.progress import watched
from keras_resnet18.data.splits import Split, array_split
from keras_resnet18.errors import InputError
from keras_resnet18.fit.phases import Batches, Pair
from keras_resnet18.fit.task import Task
from keras_resnet18.fit.twin import alone
from keras_resnet18.machine import device_count, fastest_jit
from keras_resnet18.preprocess import Preprocess

_FEATURES_BATCH = 64


def make_batches(task: Task, console: Console) -> Batches:
    """Training and validation batches of every phase, each a function of its number.

    Args:
        task: What the training is given.
        console: Where progress is shown.
    """
    recipe, preprocess = task.recipe, task.preprocess
    training, validation = task.source.splits["train"], task.source.splits["validation"]
    size = batch_size_of(task)
    shuffled = functools.partial(train_batches, batch_size=size, seed=recipe.seed)
    if device_count() == 1:
        in_order = functools.partial(eval_batches, batch_size=size)
    else:
        in_order = functools.partial(whole_eval_batches, batch_size=size)
    variation = dataclasses.asdict(recipe.augment)
    mixing = {name: variation.pop(name) for name in ("mixup", "cutmix")}
    vary = functools.partial(augment, preprocess=preprocess, **variation)
    mixed = functools.partial(mix, classes=len(task.source.classes), **mixing)

    def images(first_step: int) -> Pair:
        mix_or_not = mixed if any(mixing.values()) else None
        batches = shuffled(training, vary, first_step=first_step, mix=mix_or_not)
        return batches, in_order(validation, preprocess.resize_and_crop)

    def features(body: keras.Model, first_step: int) -> Pair:
        body = alone(body)
        known = _features(body, training, preprocess, console)
        held_out = _features(body, validation, preprocess, console)
        batches = shuffled(known, lambda features, seed: features.whole(), first_step=first_step)
        return batches, in_order(held_out, lambda features: features)

    steps = steps_per_epoch(training.size, size)
    return Batches(size, steps, class_weights(task), images, features)


def batch_size_of(task: Task) -> int:
    """Images per step: the recipe's, or all of a smaller training set."""
    return min(task.recipe.batch_size, task.source.splits["train"].size)


def class_weights(task: Task) -> Sequence[float] | None:
    """Inverse of each class's number of training images, 1 on average, where the recipe asks.

    Raises:
        InputError: If it does, and the labels are not known before the images are read.
    """
    if task.recipe.optimizer.class_weights is None:
        return None
    labels = task.source.splits["train"].labels
    if labels is None:
        raise InputError(
            "class_weights='balanced' needs a source whose labels are known before its images are "
            f"read: export it as a folder, or leave it out. Received: {task.source.name}"
        )
    counts = np.bincount(labels, minlength=len(task.source.classes))
    weights: list[float] = (len(labels) / len(counts) / counts).tolist()
    return weights


def _features(
    body: keras.Model,
    split: Split,
    preprocess: Preprocess,
    console: Console,
) -> Split:
    """What the network makes of each image, computed once, by one of the processes."""
    batches = eval_batches(split, preprocess.resize_and_crop, batch_size=_FEATURES_BATCH)
    body.compile(jit_compile=fastest_jit())
    # one of no image, for a process that has none
    features = [np.empty((0, *body.output_shape[1:]), body.output.dtype)]
    labels = [np.empty(0, np.int64)]
    with watched(console, "features", split.size) as advance:
        for images, targets in batches:
            features.append(body.predict_on_batch(images.numpy()))
            labels.append(targets.numpy())
            advance(len(targets))
    return array_split(
        distributed.gather(np.concatenate(features), split.size),
        distributed.gather(np.concatenate(labels), split.size),
    )
