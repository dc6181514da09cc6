"""ResNet-18 and -34 of He et al. 2015 (arXiv 1512.03385), table 1, and their plain networks."""

from __future__ import annotations

import functools
from typing import Any

import keras
from keras import layers

from keras_resnet18.model.arguments import (
    Activation,
    Pooling,
    Shape,
    Weights,
    check_head,
    image_input,
    initialize,
    published_weights,
)
from keras_resnet18.model.blocks import (
    batch_norm,
    conv_block,
    convolution,
    identity_block,
    plain_block,
)
from keras_resnet18.model.pooling import AdaptiveAveragePooling2D
from keras_resnet18.model.resnet_d import averaging_block, deep_stem
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.recipe import check_network

# Table 1: filters and number of blocks of each stage. With two convolutions per block, the stem and
# the dense layer, these are 18 and 34 layers with weights.
STAGES = {
    18: ((64, 2), (128, 2), (256, 2), (512, 2)),
    34: ((64, 3), (128, 4), (256, 6), (512, 3)),
}

# Kernel size and stride of the stem, and whether a 3×3 max-pool of stride 2 follows. The first is
# the paper's; the others keep more of a small image, as is usual for CIFAR.
STEMS = {"imagenet": (7, 2, True), "small": (3, 1, False), "small_stride2": (3, 2, False)}


def build_resnet18(
    *,
    include_top: bool = True,
    weights: Weights = None,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: Shape = (224, 224, 3),
    pooling: Pooling = None,
    classes: int = 1000,
    classifier_activation: Activation = "softmax",
    include_preprocessing: bool = True,
    stem: str = "imagenet",
    variant: str | None = None,
    dropout: float = 0.0,
    name: str | None = None,
) -> keras.Model:
    """Builds ResNet-18.

    Arguments have the names and the meaning that they have in `keras.applications`. The network
    follows the active dtype policy (`keras.config.set_dtype_policy`); normalization, pooled
    features, logits and softmax are float32 under every policy.

    Args:
        include_top: Whether to end in the classifier: average pooling, dropout, a dense layer.
        weights: `None` for random weights; `"imagenet"` or another name of published weights, which
            `keras-resnet18 info weights` lists (downloaded once; with another number of classes
            the head stays random, with a warning); or the path of a file: Keras' `.weights.h5`, or
            a checkpoint that `load_weights` reads, with the same classes.
        input_tensor: Keras tensor to use as the image, instead of a new input.
        input_shape: (height, width, channels). Height and width may be `None`, for images of any
            size. At least 32 pixels a side with the imagenet stem, 8 with the others.
        pooling: Without a top: `None` for the last feature map (batch, height / 32, width / 32,
            512), `"avg"` or `"max"` for its mean or maximum (batch, 512), or an output size such as
            3 or (3, 3) for a map of that size from images of any size (batch, 3, 3, 512).
        classes: Number of classes; with a top only.
        classifier_activation: `"softmax"` for probabilities, `None` for logits, or any Keras
            activation; with a top only.
        include_preprocessing: Whether the network takes pixels of 0 to 255 and normalizes them
            itself, as `preprocess_input` does, with the mean and std of the published weights or
            else ImageNet's. If false, give it what `preprocess_input` returns.
        stem: `"imagenet"` (7×7 at stride 2, max-pool), or for images of about 28 to 64 pixels
            `"small"` (3×3 at stride 1) or `"small_stride2"` (3×3 at stride 2).
        variant: `None` for the paper's network, or `"d"` for ResNet-D (`resnet_d.py`), with the
            imagenet stem only. A plain network has no shortcuts: there it changes the stem alone.
        dropout: Rate before the dense layer, from 0 up to but not including 1; with a top only.
        name: Name of the model; by default the network's, such as `"resnet18"`.

    Returns:
        Functional `keras.Model`, not compiled. Layer names are stable (`stem_conv`,
        `stage2_block1_conv1`, `predictions`, …), so that feature maps can be taken by name: the map
        of a stage is the `_out` of its last block. At strides 4, 8, 16 and 32 these are
        `stage1_block2_out` to `stage4_block2_out` in ResNet-18, and `stage1_block3_out`,
        `stage2_block4_out`, `stage3_block6_out` and `stage4_block3_out` in ResNet-34.

    Raises:
        InputError: A `ValueError` that says what is allowed and what was received.
    """
    return _build("resnet18", 18, residual=True, **locals())


_DEFAULTS: dict[str, Any] = build_resnet18.__kwdefaults__ or {}


@functools.wraps(build_resnet18, assigned=(), updated=())  # the arguments that help() shows
def build_resnet34(**arguments: Any) -> keras.Model:
    """Builds ResNet-34. Takes the arguments of `build_resnet18`."""
    return _build("resnet34", 34, residual=True, **_DEFAULTS | arguments)


@functools.wraps(build_resnet18, assigned=(), updated=())
def build_plain18(**arguments: Any) -> keras.Model:
    """Builds ResNet-18 without shortcuts. Takes the arguments of `build_resnet18`."""
    return _build("plain18", 18, residual=False, **_DEFAULTS | arguments)


@functools.wraps(build_resnet18, assigned=(), updated=())
def build_plain34(**arguments: Any) -> keras.Model:
    """Builds ResNet-34 without shortcuts. Takes the arguments of `build_resnet18`."""
    return _build("plain34", 34, residual=False, **_DEFAULTS | arguments)


def _build(
    network: str,
    depth: int,
    *,
    residual: bool,
    include_top: bool,
    weights: Weights,
    input_tensor: keras.KerasTensor | None,
    input_shape: Shape,
    pooling: Pooling,
    classes: int,
    classifier_activation: Activation,
    include_preprocessing: bool,
    stem: str,
    variant: str | None,
    dropout: float,
    name: str | None,
) -> keras.Model:
    check_network(stem, variant, dropout)
    check_head(include_top, classes, classifier_activation, dropout, pooling)
    published = published_weights(weights, network=f"{network}{variant or ''}", stem=stem)

    x = image = image_input(input_tensor, input_shape, stem)
    if include_preprocessing:
        preprocess = published.preprocess if published else Preprocess()
        scale, offset = preprocess.scale_and_offset(x.shape[-1])
        x = layers.Rescaling(list(scale), list(offset), dtype="float32", name="normalization")(x)
    x = _stem(x, stem, variant)
    x = _stages(x, depth, residual=residual, variant=variant)
    if include_top:
        x = _classifier(x, classes, classifier_activation, dropout)
    elif pooling is not None:
        x = _pool(x, pooling)

    inputs = keras.utils.get_source_inputs(image)
    # a single input bare, not in a list: Keras warns when a call's structure differs
    model = keras.Model(inputs[0] if len(inputs) == 1 else inputs, x, name=name or network)
    initialize(model, published or weights)
    return model


def _stem(x: keras.KerasTensor, stem: str, variant: str | None) -> keras.KerasTensor:
    kernel_size, stride, pool = STEMS[stem]
    if variant == "d":
        x = deep_stem(x)
    else:
        x = convolution(x, 64, kernel_size, stride=stride, name="stem_conv")
        x = batch_norm(x, name="stem_bn")
        x = layers.ReLU(name="stem_relu")(x)
    if pool:
        # zeros never win the maximum, because a ReLU returns nothing below zero
        x = layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
        x = layers.MaxPooling2D(3, strides=2, name="stem_pool")(x)
    return x


def _stages(
    x: keras.KerasTensor, depth: int, *, residual: bool, variant: str | None
) -> keras.KerasTensor:
    """The four stages of table 1. From the second on, the first block halves the map."""
    halving_block = averaging_block if variant == "d" else conv_block
    for stage, (filters, blocks) in enumerate(STAGES[depth], start=1):
        for block in range(1, blocks + 1):
            name = f"stage{stage}_block{block}"
            halves = stage > 1 and block == 1
            if not residual:
                x = plain_block(x, filters, stride=2 if halves else 1, name=name)
            elif halves:
                x = halving_block(x, filters, name=name)
            else:
                x = identity_block(x, filters, name=name)
    return x


def _classifier(
    x: keras.KerasTensor, classes: int, activation: Activation, dropout: float
) -> keras.KerasTensor:
    x = _pool(x, "avg")
    if dropout:
        x = layers.Dropout(dropout, dtype="float32", name="head_dropout")(x)
    return layers.Dense(
        classes,
        activation=activation,
        # uniform in ±1/√fan_in, which is a variance of 1/(3·fan_in): torch's initial dense layers
        kernel_initializer=keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform"),
        dtype="float32",
        name="predictions",
    )(x)


def _pool(x: keras.KerasTensor, pooling: Any) -> keras.KerasTensor:
    settings = {"dtype": "float32", "name": "head_pool"}
    if pooling == "avg":  # adaptive pooling to 1×1, for which every Keras has a layer
        return layers.GlobalAveragePooling2D(**settings)(x)
    if pooling == "max":
        return layers.GlobalMaxPooling2D(**settings)(x)
    return AdaptiveAveragePooling2D(pooling, **settings)(x)
