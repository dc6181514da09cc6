"""Checks of the builders' arguments: each raises InputError with what is allowed and received."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from keras_resnet18.errors import InputError, one_of, within
from keras_resnet18.model.pooling import as_output_size
from keras_resnet18.recipe import SMALLEST_SIDE, STEMS, VARIANTS
from keras_resnet18.weights.catalogue import Published, find_weights
from keras_resnet18.weights.checkpoints import ENDINGS, is_name

Activation = str | Callable[[Any], Any] | None
Pooling = str | int | tuple[int, int] | None
Shape = tuple[int | None, int | None, int]

OUTPUT_STRIDES = (8, 16, 32)


def check_network(input_shape: Any, *, stem: str, variant: str | None, output_stride: int) -> None:
    """Checks everything before the head."""
    if keras.config.image_data_format() != "channels_last":
        raise InputError(
            "the network takes channels last: keras.config.set_image_data_format('channels_last'). "
            f"Received: image_data_format={keras.config.image_data_format()!r}"
        )
    one_of("stem", stem, STEMS)
    known = variant is None or variant in VARIANTS
    within("variant", variant, known, "None (the paper's network) or 'd' (ResNet-D)")
    if variant is not None and stem != "imagenet":
        raise InputError(
            f"variant {variant!r} has its own stem: leave stem at 'imagenet'. "
            f"Received: stem={stem!r}, variant={variant!r}"
        )
    known = isinstance(output_stride, int) and output_stride in OUTPUT_STRIDES
    within("output_stride", output_stride, known, "8, 16 or 32")
    if (
        not isinstance(input_shape, list | tuple)
        or len(input_shape) != 3
        or not all(isinstance(n, int) or n is None for n in input_shape)
        or input_shape[2] is None
        or input_shape[2] < 1
    ):
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


def check_input_tensor(input_tensor: Any) -> None:
    """Checks that `input_tensor` is a symbolic Keras tensor."""
    if not keras.utils.is_keras_tensor(input_tensor):
        raise InputError(
            "input_tensor must be a Keras tensor, as keras.Input() returns. "
            f"Received: input_tensor={type(input_tensor).__name__}"
        )


def check_classifier(
    classes: int, activation: Activation, dropout: float, pooling: Pooling
) -> None:
    """Checks the head of a network with a top."""
    whole = isinstance(classes, int) and not isinstance(classes, bool) and classes >= 1
    within("classes", classes, whole, "a positive whole number")
    rate = isinstance(dropout, int | float) and 0 <= dropout < 1
    within("dropout", dropout, rate, "from 0 up to below 1")
    try:
        keras.activations.get(activation)
    except (TypeError, ValueError):
        raise InputError(
            "classifier_activation must be 'softmax', None (logits) or a Keras activation. "
            f"Received: classifier_activation={activation!r}"
        ) from None
    if pooling is not None:
        raise InputError(
            "pooling is for features: it needs include_top=False. "
            f"Received: pooling={pooling!r}, include_top=True"
        )


def check_features(classes: int, activation: Activation, dropout: float, pooling: Pooling) -> None:
    """Checks the end of a network without a top, which has no classifier to configure."""
    for name, value, default in (
        ("classes", classes, 1000),
        ("classifier_activation", activation, "softmax"),
        ("dropout", dropout, 0.0),
    ):
        if value != default:
            raise InputError(
                f"{name} is for the classifier: it needs include_top=True. "
                f"Received: {name}={value!r}, include_top=False"
            )
    if pooling not in (None, "avg", "max"):
        try:
            as_output_size(pooling)
        except InputError:
            raise InputError(
                "pooling must be None, 'avg', 'max' or an output size such as 3 or (3, 3). "
                f"Received: pooling={pooling!r}"
            ) from None


def published_weights(
    weights: str | os.PathLike[str] | None, *, network: str, stem: str
) -> Published | None:
    """The catalogue's entry that `weights` names; None if it is None or the path of a file.

    Raises:
        InputError: If it is none of these, or the entry is for another network.
    """
    if isinstance(weights, str) and is_name(weights):
        entry = find_weights(weights)
        if (entry.network, stem) != (network, "imagenet"):
            raise InputError(
                f"these weights are for a {entry.network} with the imagenet stem. "
                f"Received: weights={weights!r} for a {network} with stem={stem!r}"
            )
        return entry
    if weights is not None and not (
        isinstance(weights, str | os.PathLike)
        and not is_name(str(weights))
        and Path(weights).exists()
    ):
        received = str(weights) if isinstance(weights, os.PathLike) else weights
        raise InputError(
            "weights must be None, the name of published ones (keras-resnet18 info weights), or "
            f"the path of an existing {', '.join(ENDINGS)} file. Received: weights={received!r}"
        )
    return None
