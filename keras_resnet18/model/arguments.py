"""Arguments of the builders: checks, the image input, and the initial weights."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from keras_resnet18.errors import InputError, path_of, within
from keras_resnet18.model.pooling import is_output_size
from keras_resnet18.recipe import SMALLEST_SIDE
from keras_resnet18.weights.catalogue import Published, fetch, find_weights
from keras_resnet18.weights.checkpoints import KERAS_WEIGHTS, is_name
from keras_resnet18.weights.transfer import load_weights

Activation = str | Callable[[Any], Any] | None
Pooling = str | int | tuple[int, int] | None
Shape = tuple[int | None, int | None, int]
Weights = str | os.PathLike[str] | None

_WEIGHTS = "a published name, as keras-resnet18 info weights lists them, or an existing file"


def image_input(
    input_tensor: keras.KerasTensor | None, input_shape: Shape, stem: str
) -> keras.KerasTensor:
    """Returns `input_tensor`, or a new input; raises InputError if it does not fit the stem."""
    if keras.config.image_data_format() != "channels_last":
        raise InputError(
            "the network takes channels last: keras.config.set_image_data_format('channels_last'). "
            f"Received: image_data_format={keras.config.image_data_format()!r}"
        )
    if input_tensor is not None:
        if not keras.utils.is_keras_tensor(input_tensor):
            raise InputError(
                "input_tensor must be a Keras tensor, as keras.Input() returns. "
                f"Received: input_tensor={type(input_tensor).__name__}"
            )
        input_shape = input_tensor.shape[1:]
    fits = isinstance(input_shape, list | tuple) and len(input_shape) == 3
    fits = fits and all(n is None or isinstance(n, int) for n in input_shape)
    if not fits or (input_shape[2] or 0) < 1:
        raise InputError(
            "input_shape must be (height, width, channels), height and width numbers or None. "
            f"Received: input_shape={input_shape!r}"
        )
    smallest = SMALLEST_SIDE[stem]
    if any(side is not None and side < smallest for side in input_shape[:2]):
        raise InputError(
            f"images must be at least {smallest} pixels a side with the {stem!r} stem. "
            f"Received: input_shape={tuple(input_shape)}"
        )
    return keras.Input(input_shape, name="image") if input_tensor is None else input_tensor


def check_head(
    include_top: bool, classes: int, activation: Activation, dropout: float, pooling: Pooling
) -> None:
    """Raises InputError unless these arguments fit a network with or without a top."""
    if include_top:
        whole = isinstance(classes, int) and not isinstance(classes, bool) and classes >= 1
        within("classes", classes, whole, "a positive whole number")
        try:
            keras.activations.get(activation)
        except (TypeError, ValueError):
            raise InputError(
                "classifier_activation must be 'softmax', None (logits) or a Keras activation. "
                f"Received: classifier_activation={activation!r}"
            ) from None
        within("pooling", pooling, pooling is None, "None, or given with include_top=False")
        return
    for name, value, default in (
        ("classes", classes, 1000),
        ("classifier_activation", activation, "softmax"),
        ("dropout", dropout, 0.0),
    ):
        within(name, value, value == default, f"{default!r}, or given with include_top=True")
    known = pooling in (None, "avg", "max") or is_output_size(pooling)
    within("pooling", pooling, known, "None, 'avg', 'max' or an output size such as 3 or (3, 3)")


def published_weights(weights: Weights, *, network: str, stem: str) -> Published | None:
    """Returns the published weights that `weights` names, or None if it is None or a path."""
    if weights is None:
        return None
    name = str(path_of(weights, "weights to be None, a name or a path"))
    if not is_name(name):
        within("weights", name, Path(name).exists(), _WEIGHTS)
        return None
    entry = find_weights(name)
    if (entry.network, stem) != (network, "imagenet"):
        raise InputError(
            f"these weights are for a {entry.network} with the imagenet stem. "
            f"Received: weights={weights!r} for a {network} with stem={stem!r}"
        )
    return entry


def initialize(model: keras.Model, weights: Published | Weights) -> None:
    """Loads the weights that a model begins with; warns if its head has other classes."""
    if isinstance(weights, Published):
        # with "skip", the head is loaded too if it has the model's number of classes
        if load_weights(model, fetch(weights), head="skip").kept:
            warnings.warn(
                f"{weights.name} has ImageNet's 1,000 classes: the head for "
                f"{model.output_shape[-1]:,} classes is new and must be trained",
                stacklevel=4,  # the caller's line
            )
    elif weights is not None and os.fspath(weights).endswith(KERAS_WEIGHTS):
        model.load_weights(weights)
    elif weights is not None:
        load_weights(model, weights)
