"""ResNet-18 and -34 of He et al. 2015 (arXiv 1512.03385), table 1, and their plain twins."""

from __future__ import annotations

import functools
import os
import warnings
from typing import Any

import keras
from keras import layers

from keras_resnet18.model.arguments import (
    Activation,
    Pooling,
    Shape,
    check_classifier,
    check_features,
    check_input_tensor,
    check_network,
    published_weights,
)
from keras_resnet18.model.blocks import (
    batch_norm,
    conv_block,
    convolution,
    identity_block,
    plain_block,
)
from keras_resnet18.model.pooling import AdaptiveAveragePooling2D, as_output_size
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.weights.catalogue import Published, fetch
from keras_resnet18.weights.checkpoints import KERAS_WEIGHTS
from keras_resnet18.weights.transfer import load_weights

# Table 1: blocks in each of the four stages. With two convolutions a block, the stem and the dense
# layer these are 18 and 34 layers with weights.
STAGE_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
STAGE_FILTERS = (64, 128, 256, 512)

# stem: kernel size, stride, whether a 3×3/2 max-pool follows. The first is the paper's; the others
# keep more of a small image, as is usual for CIFAR.
STEMS = {"imagenet": (7, 2, True), "small": (3, 1, False), "small_stride2": (3, 2, False)}

# Variant "d": suffix of the names, filters, kernel size and stride of the stem's convolutions.
DEEP_STEM = (("1", 32, 3, 2), ("2", 32, 3, 1), ("3", 64, 3, 1))


def build_resnet18(
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
    name: str | None = None,
) -> keras.Model:
    """Builds ResNet-18.

    Arguments are named, and mean the same, as in `keras.applications`. The network follows the
    active dtype policy (`keras.config.set_dtype_policy`); normalisation, pooled features, logits
    and softmax are float32 under every policy.

    Args:
        include_top: Whether to end in the classifier: average pooling, dropout, a dense layer.
        weights: `None` for random weights; `"imagenet"` or another name of published weights, which
            `keras-resnet18 info weights` lists: they are downloaded once, and with another number
            of classes the head stays random, which is a warning; or the path of a file: Keras'
            `.weights.h5`, or a checkpoint that `load_weights` reads, with the same classes.
        input_tensor: A Keras tensor to use as the image, instead of a new input.
        input_shape: (height, width, channels). Height and width may be `None`, for images of any
            size. At least 32 pixels a side with the imagenet stem, 8 with the others.
        pooling: Without a top: `None` for the last feature map (batch, height / 32, width / 32,
            512; see `output_stride`), `"avg"` or `"max"` for its mean or maximum (batch, 512), or
            an output size such as 3 or (3, 3) for a map of that size whatever the image's
            (batch, 3, 3, 512).
        classes: Number of classes; with a top only.
        classifier_activation: `"softmax"` for probabilities, `None` for logits, or any Keras
            activation; with a top only.
        include_preprocessing: Whether the network takes pixels of 0 to 255 and normalises them
            itself, as `preprocess_input` does, with the mean and std of the published weights or
            else ImageNet's. Without it, give it what `preprocess_input` returns.
        stem: `"imagenet"` (7×7 at stride 2, max-pool), or for images of about 28 to 64 pixels
            `"small"` (3×3 at stride 1) or `"small_stride2"` (3×3 at stride 2).
        variant: `None` for the paper's network, or `"d"` for ResNet-D (He et al. 2018, arXiv
            1812.01187, figure 2): a stem of three 3×3 convolutions, and shortcuts that average
            before they project; with the imagenet stem only. A plain network has no shortcuts, so
            there it is the stem.
        output_stride: How many times smaller than the image the last map is, at most: 32, or 16 or
            8 for segmentation. The weights are the same, and so are the values: every second
            (fourth) of each row and column equals stride 32's. The last stages' convolutions are
            dilated for it, as in timm, and with variant `"d"` the averages too, which timm's are
            not.
        dropout: Rate before the dense layer, from 0 up to but not including 1; with a top only.
        name: The model's name; by default the network's, such as `"resnet18"`.

    Returns:
        A functional `keras.Model`, not compiled. The names of its layers are stable (`stem_conv`,
        `stage2_block1_conv1`, `predictions`, …), so that feature maps can be taken by name: a
        stage's map is the `_out` of its last block. At strides 4, 8, 16 and 32 these are, of
        ResNet-18, `stage1_block2_out`, `stage2_block2_out`, `stage3_block2_out` and
        `stage4_block2_out`; of ResNet-34, `stage1_block3_out`, `stage2_block4_out`,
        `stage3_block6_out` and `stage4_block3_out`.

    Raises:
        InputError: A `ValueError` that says what is allowed and what was received.
    """
    return _build("resnet18", 18, residual=True, **locals())


_DEFAULTS: dict[str, Any] = build_resnet18.__kwdefaults__ or {}


@functools.wraps(build_resnet18, assigned=(), updated=())  # the arguments that help() shows
def build_resnet34(**arguments: Any) -> keras.Model:
    """Builds ResNet-34. The arguments are those of `build_resnet18`."""
    return _build("resnet34", 34, residual=True, **_DEFAULTS | arguments)


@functools.wraps(build_resnet18, assigned=(), updated=())
def build_plain18(**arguments: Any) -> keras.Model:
    """Builds ResNet-18 without its shortcuts. The arguments are those of `build_resnet18`."""
    return _build("plain18", 18, residual=False, **_DEFAULTS | arguments)


@functools.wraps(build_resnet18, assigned=(), updated=())
def build_plain34(**arguments: Any) -> keras.Model:
    """Builds ResNet-34 without its shortcuts. The arguments are those of `build_resnet18`."""
    return _build("plain34", 34, residual=False, **_DEFAULTS | arguments)


def _build(
    network: str,
    depth: int,
    *,
    residual: bool,
    include_top: bool,
    weights: str | os.PathLike[str] | None,
    input_tensor: keras.KerasTensor | None,
    input_shape: Shape,
    pooling: Pooling,
    classes: int,
    classifier_activation: Activation,
    include_preprocessing: bool,
    stem: str,
    variant: str | None,
    output_stride: int,
    dropout: float,
    name: str | None,
) -> keras.Model:
    if input_tensor is not None:
        check_input_tensor(input_tensor)
        input_shape = input_tensor.shape[1:]
    check_network(input_shape, stem=stem, variant=variant, output_stride=output_stride)
    check_end = check_classifier if include_top else check_features
    check_end(classes, classifier_activation, dropout, pooling)
    published = published_weights(weights, network=f"{network}{variant or ''}", stem=stem)

    image = keras.Input(input_shape, name="image") if input_tensor is None else input_tensor
    x = image
    if include_preprocessing:
        x = _normalize(x, published.preprocess if published else Preprocess())
    x = _stem(x, stem, variant)
    x = _stages(x, depth, residual=residual, stem=stem, variant=variant, stride=output_stride)
    if include_top:
        x = _classifier(x, classes, classifier_activation, dropout)
    elif pooling is not None:
        x = _pool(x, pooling)

    inputs = keras.utils.get_source_inputs(image)
    # a single input bare, not in a list: Keras warns when a call's structure differs
    model = keras.Model(inputs[0] if len(inputs) == 1 else inputs, x, name=name or network)
    if published is not None:
        _load_published(model, published)
    elif weights is not None and os.fspath(weights).endswith(KERAS_WEIGHTS):
        model.load_weights(weights)
    elif weights is not None:
        load_weights(model, weights)
    return model


def _normalize(x: keras.KerasTensor, preprocess: Preprocess) -> keras.KerasTensor:
    """Takes pixels of 0–255 to the network's scale."""
    scale, offset = preprocess.scale_and_offset(x.shape[-1])
    rescale = layers.Rescaling(list(scale), list(offset), dtype="float32", name="normalization")
    return rescale(x)


def _stem(x: keras.KerasTensor, stem: str, variant: str | None) -> keras.KerasTensor:
    kernel_size, stride, pool = STEMS[stem]
    convolutions = DEEP_STEM if variant == "d" else (("", STAGE_FILTERS[0], kernel_size, stride),)
    for number, filters, size, step in convolutions:
        x = convolution(x, filters, size, stride=step, name=f"stem_conv{number}")
        x = batch_norm(x, name=f"stem_bn{number}")
        x = layers.ReLU(name=f"stem_relu{number}")(x)
    if pool:
        # zeros never win the maximum, because nothing that leaves a ReLU is below zero
        x = layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
        x = layers.MaxPooling2D(3, strides=2, name="stem_pool")(x)
    return x


def _stages(
    x: keras.KerasTensor, depth: int, *, residual: bool, stem: str, variant: str | None, stride: int
) -> keras.KerasTensor:
    """Table 1's four stages. From the second on, the first block halves the map.

    Once the map is `stride` times smaller than the image it keeps its size, and the convolutions
    are dilated instead, with the same weights (Chen et al. 2014, arXiv 1412.7062): every second
    value of the result is what halving would have given.
    """
    _, stem_stride, pool = STEMS[stem]
    reached = 2 * stem_stride if pool else stem_stride
    dilation = 1
    for stage, filters in enumerate(STAGE_FILTERS, start=1):
        for block in range(1, STAGE_BLOCKS[depth][stage - 1] + 1):
            name = f"stage{stage}_block{block}"
            step, before = 1, dilation
            changes = stage > 1 and block == 1
            if changes and reached < stride:
                step, reached = 2, 2 * reached
            elif changes:
                dilation = 2 * dilation
            dilations = (before, dilation)
            if not residual:
                x = plain_block(x, filters, stride=step, dilations=dilations, name=name)
            elif changes:
                pool = variant == "d"
                x = conv_block(x, filters, stride=step, dilations=dilations, pool=pool, name=name)
            else:
                x = identity_block(x, filters, dilation=dilation, name=name)
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
        # uniform in ±1/√fan_in, which is a variance of 1/(3·fan_in): torch's init of dense layers
        kernel_initializer=keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform"),
        dtype="float32",
        name="predictions",
    )(x)


def _pool(x: keras.KerasTensor, pooling: str | int | tuple[int, int]) -> keras.KerasTensor:
    settings = {"dtype": "float32", "name": "head_pool"}
    if pooling == "avg":  # adaptive pooling to 1×1, for which every Keras has a layer
        return layers.GlobalAveragePooling2D(**settings)(x)
    if pooling == "max":
        return layers.GlobalMaxPooling2D(**settings)(x)
    return AdaptiveAveragePooling2D(as_output_size(pooling), **settings)(x)


def _load_published(model: keras.Model, published: Published) -> None:
    # a classifier of the same classes is loaded all the same: the file is known to have one
    if load_weights(model, fetch(published), head="skip").kept:
        warnings.warn(
            f"{published.name} knows ImageNet's 1,000 classes: the head for "
            f"{model.output_shape[-1]:,} classes is new, and has to be trained",
            stacklevel=4,  # the line that builds
        )
