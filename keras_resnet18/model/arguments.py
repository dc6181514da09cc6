"""The arguments that the builders share: what they mean, and what is no argument at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import keras

from keras_resnet18.errors import InputError
from keras_resnet18.model.pooling import as_output_size
from keras_resnet18.weights.catalogue import Published, find
from keras_resnet18.weights.endings import ENDINGS, is_name

# stem: (kernel size, stride, max pooling?, smallest input side in pixels). The first is the
# paper's; the others keep more of a small image, as is usual for CIFAR.
STEMS = {
    "imagenet": (7, 2, True, 32),
    "small": (3, 1, False, 8),
    "small_stride2": (3, 2, False, 8),
}

VARIANTS = (None, "d")
OUTPUT_STRIDES = (8, 16, 32)

Activation = str | Callable[[Any], Any] | None
Pooling = str | int | tuple[int, int] | None
Shape = tuple[int | None, int | None, int]


class Builder(Protocol):
    """A function that builds a network."""

    __name__: str
    __qualname__: str

    def __call__(
        self,
        *,
        include_top: bool = True,
        weights: str | os.PathLike[str] | None = None,
        input_tensor: keras.KerasTensor | None = None,
        input_shape: Shape = (224, 224, 3),
        pooling: Pooling = None,
        classes: int = 1000,
        classifier_activation: Activation = "softmax",
        include_preprocessing: bool = True,
        stem: str = "imagenet",
        variant: str | None = None,
        output_stride: int = 32,
        dropout: float = 0.0,
        name: str = ...,
    ) -> keras.Model:
        """Arguments are named, and mean the same, as in `keras.applications`.

        The network follows the active dtype policy (`keras.config.set_dtype_policy`);
        normalisation, pooled features, logits and softmax are float32 under every policy.

        Args:
            include_top: Whether to end in the classifier: average pooling, dropout, a dense layer.
            weights: `None` for random ones; `"imagenet"` or another name of published ones, which
                `keras-resnet18 info weights` lists: they are downloaded once, and with another
                number of classes the head stays new, which is a warning; or the path of a file to
                load: Keras' `.weights.h5`, or a checkpoint that `load_weights` reads, whose head
                must have the same classes.
            input_tensor: A Keras tensor to use as the image, instead of a new input.
            input_shape: (height, width, channels). Height and width may be `None`, for images of
                any size. At least 32 pixels a side with the imagenet stem, 8 with the others.
            pooling: Without a top: `None` for the last feature map (batch, height / 32, width / 32,
                512; see `output_stride`), `"avg"` or `"max"` for its mean or maximum (batch, 512),
                or an output size such as 3 or (3, 3) for a map of that size whatever the image's
                (batch, 3, 3, 512).
            classes: Number of classes; with a top only.
            classifier_activation: `"softmax"` for probabilities, `None` for logits, or any Keras
                activation; with a top only.
            include_preprocessing: Whether the network takes pixels of 0 to 255 and normalises them
                itself, with the mean and std of published weights or else ImageNet's (three
                channels then, red, green and blue). Without it, give it what `preprocess_input`
                returns.
            stem: `"imagenet"` (7×7 at stride 2, max pooling), or for images of about 28 to 64
                pixels `"small"` (3×3 at stride 1) or `"small_stride2"` (3×3 at stride 2).
            variant: `None` for the paper's network, or `"d"` for ResNet-D (He et al. 2018, arXiv
                1812.01187, figure 2): a stem of three 3×3 convolutions, and shortcuts that average
                before they project; with the imagenet stem only. A plain network has no shortcut,
                so there it is the stem.
            output_stride: By how much the last map is smaller than the image, at most: 32, or 16
                or 8 for maps that stay larger, as segmentation wants them. The weights are the
                same, and so are the values: every second (fourth) one of each row and column is
                what a stride of 32 gives. The convolutions of the last stages are dilated for it,
                as in timm, and with variant `"d"` the averages too, which timm's are not.
            dropout: Rate before the dense layer, from 0 up to but not including 1; with a top only.
            name: Of the model.

        Returns:
            A functional `keras.Model`, not compiled. Its layers' names are stable (`stem_conv`,
            `stage2_block1_conv1`, `predictions`, …), so that feature maps can be taken by name: a
            stage's map is the `_out` of its last block. At strides 4, 8, 16 and 32 these are, of
            ResNet-18, `stage1_block2_out`, `stage2_block2_out`, `stage3_block2_out` and
            `stage4_block2_out`; of ResNet-34, `stage1_block3_out`, `stage2_block4_out`,
            `stage3_block6_out` and `stage4_block3_out`.

        Raises:
            InputError: A `ValueError` that says what is allowed and what was received.
        """


def check_input(input_shape: Any, *, stem: str, include_preprocessing: bool) -> None:
    """Raises InputError unless a network with this stem takes images of this shape."""
    if keras.config.image_data_format() != "channels_last":
        raise InputError(
            "the network takes channels last: keras.config.set_image_data_format('channels_last'). "
            f"Received: image_data_format={keras.config.image_data_format()!r}"
        )
    if not isinstance(stem, str) or stem not in STEMS:
        raise InputError(f"stem must be one of {', '.join(STEMS)}. Received: stem={stem!r}")
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
    smallest = STEMS[stem][3]
    if any(side is not None and side < smallest for side in input_shape[:2]):
        raise InputError(
            f"images must be at least {smallest} pixels a side with the {stem!r} stem. "
            f"Received: input_shape={tuple(input_shape)}"
        )
    if include_preprocessing and input_shape[2] != 3:
        raise InputError(
            "include_preprocessing=True normalises three channels, red, green and blue; other "
            "numbers of channels need include_preprocessing=False. "
            f"Received: input_shape={tuple(input_shape)}"
        )


def check_variant(variant: str | None, *, stem: str) -> None:
    """Raises InputError unless this variant is one, and goes with this stem."""
    if variant not in VARIANTS:
        raise InputError(
            "variant must be None (the paper's network) or 'd' (ResNet-D). "
            f"Received: variant={variant!r}"
        )
    if variant is not None and stem != "imagenet":
        raise InputError(
            f"variant {variant!r} has a stem of its own in place of the imagenet stem: leave stem "
            f"at 'imagenet'. Received: stem={stem!r}, variant={variant!r}"
        )


def check_output_stride(output_stride: int) -> None:
    """Raises InputError unless the last map can be smaller than the image by this."""
    if not isinstance(output_stride, int) or output_stride not in OUTPUT_STRIDES:
        raise InputError(
            f"output_stride must be one of {', '.join(map(str, OUTPUT_STRIDES))}. "
            f"Received: output_stride={output_stride!r}"
        )


def check_input_tensor(input_tensor: Any) -> None:
    """Raises InputError unless `input_tensor` is a symbolic Keras tensor."""
    if not keras.utils.is_keras_tensor(input_tensor):
        raise InputError(
            "input_tensor must be a Keras tensor, as keras.Input() returns. "
            f"Received: input_tensor={type(input_tensor).__name__}"
        )


def check_head(
    *,
    include_top: bool,
    pooling: Pooling,
    classes: int,
    classifier_activation: Activation,
    dropout: float,
) -> None:
    """Raises InputError unless these fit a classifier, or features without one."""
    if include_top:
        _check_classifier(classes, classifier_activation, dropout)
        if pooling is not None:
            raise InputError(
                "pooling is for features: it needs include_top=False. "
                f"Received: pooling={pooling!r}, include_top=True"
            )
        return
    for name, value, default in (
        ("classes", classes, 1000),
        ("classifier_activation", classifier_activation, "softmax"),
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


def _check_classifier(classes: int, activation: Activation, dropout: float) -> None:
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < 1:
        raise InputError(f"classes must be a positive whole number. Received: classes={classes!r}")
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise InputError(f"dropout must be from 0 up to below 1. Received: dropout={dropout!r}")
    try:
        keras.activations.get(activation)
    except (TypeError, ValueError):
        raise InputError(
            "classifier_activation must be 'softmax', None (logits) or a Keras activation. "
            f"Received: classifier_activation={activation!r}"
        ) from None


def published_weights(
    weights: str | os.PathLike[str] | None, *, network: str, stem: str
) -> Published | None:
    """The catalogue's entry that `weights` names, or None if it is None or the path of a file.

    Raises:
        InputError: If it is none of them, or the entry is for another network.
    """
    if isinstance(weights, str) and is_name(weights):
        entry = find(weights)
        if (entry.network, stem) != (network, "imagenet"):
            raise InputError(
                f"these weights are for a {entry.network} with the imagenet stem. "
                f"Received: weights={weights!r} for a {network} with stem={stem!r}"
            )
        return entry
    if weights is not None and not (
        isinstance(weights, str | os.PathLike)
        and not is_name(str(weights))
        and Path(weights).is_file()
    ):
        received = str(weights) if isinstance(weights, os.PathLike) else weights
        raise InputError(
            "weights must be None, the name of published ones (keras-resnet18 info weights), or "
            f"the path of an existing {', '.join(ENDINGS)} file. Received: weights={received!r}"
        )
    return None
