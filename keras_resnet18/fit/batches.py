"""Batches of a training: augmented images, or features for the linear probe.

Each training batch is a pure function of its number, counted over the phase.
"""

from __future__ import annotations

import functools
from typing import Any

import keras
from rich.console import Console

from keras_resnet18.data.augment import augment, mix
from keras_resnet18.data.folds import pool_of
from keras_resnet18.data.pipeline import eval_batches, train_batches, whole_eval_batches
from keras_resnet18.data.splits import Split, array_split
from keras_resnet18.fit.network import features_of
from keras_resnet18.fit.task import Task
from keras_resnet18.fit.twin import alone
from keras_resnet18.machine import device_count

# Endless training batches from a step on, and finite validation batches or None
Pair = tuple[Any, Any]


def image_batches(task: Task, first_step: int) -> Pair:
    """Batches of augmented training images and of unchanged validation images, with labels."""
    settings = task.recipe.augment
    mixed = functools.partial(mix, classes=len(task.source.classes), settings=settings)
    batches = train_batches(
        task.source.splits["train"],
        functools.partial(augment, preprocess=task.preprocess, settings=settings),
        batch_size=task.batch_size,
        seed=task.recipe.seed,
        first_step=first_step,
        mix=mixed if settings.mixes else None,
    )
    return batches, _in_order(task, task.held_out, task.preprocess.resize_and_crop)


def feature_batches(task: Task, body: keras.Model, console: Console, first_step: int) -> Pair:
    """Batches of a model's outputs for the images, computed once, also for all folds."""
    body, folds = alone(body), task.images.folds
    if folds is None:
        known, held_out = (
            array_split(*features_of(body, task.source.splits[kind], task.preprocess, console))
            for kind in ("train", "validation")
        )
    else:
        if folds.features is None:
            pool = pool_of(task.source)
            folds.features = features_of(body, pool, task.preprocess, console)
        out = folds.numbers == (-1 if task.fold is None else task.fold)
        known, held_out = (
            array_split(*(values[rows] for values in folds.features)) for rows in (~out, out)
        )
    batches = train_batches(
        known,
        lambda features, seed: features.whole(),
        batch_size=task.batch_size,
        seed=task.recipe.seed,
        first_step=first_step,
    )
    validation = None if task.held_out is None else held_out
    return batches, _in_order(task, validation, lambda features: features)


def _in_order(task: Task, split: Split | None, transform: Any) -> Any:
    if split is None:
        return None
    batches = eval_batches if device_count() == 1 else whole_eval_batches
    return batches(split, transform, batch_size=task.batch_size)
