"""ResNet-18 and -34 of He et al. 2015 (arXiv 1512.03385), table 1, and their plain twins."""

from __future__ import annotations

import inspect
import os
import warnings

import keras
from keras import layers

from keras_resnet18.model.arguments import (
    STEMS,
    Activation,
    Builder,
    Pooling,
    Shape,
    check_head,
    check_input,
    check_input_tensor,
    check_output_stride,
    check_variant,
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
from keras_resnet18.weights.endings import KERAS_WEIGHTS
from keras_resnet18.weights.transfer import load_weights

# depth: how many blocks each stage has. With two convolutions a block, the stem and the dense layer
# these are 18 and 34 layers with weights.
STAGE_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
STAGE_FILTERS = (64, 128, 256, 512)

# the deep stem's convolutions: what their names end in, filters, kernel size, stride
DEEP_STEM = (("1", 32, 3, 2), ("2", 32, 3, 1), ("3", 64, 3, 1))

# by how much a stem makes the map smaller
STEM_STRIDES = {stem: stride * (2 if pool else 1) for stem, (_, stride, pool, _) in STEMS.items()}


def _builder(depth: int, *, residual: bool, default_name: str, title: str) -> Builder:
    """The public function that builds one of the four networks."""

    def build(
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
        name: str = default_name,
    ) -> keras.Model:
        if input_tensor is not None:
            check_input_tensor(input_tensor)
            input_shape = input_tensor.shape[1:]
        check_input(input_shape, stem=stem, include_preprocessing=include_preprocessing)
        check_variant(variant, stem=stem)
        check_output_stride(output_stride)
        check_head(
            include_top=include_top,
            pooling=pooling,
            classes=classes,
            classifier_activation=classifier_activation,
            dropout=dropout,
        )
        published = published_weights(weights, network=f"{default_name}{variant or ''}", stem=stem)
        preprocess = Preprocess() if published is None else published.preprocess

        image = keras.Input(input_shape, name="image") if input_tensor is None else input_tensor
        x = _normalization(preprocess)(image) if include_preprocessing else image
        x = _stem(x, stem, variant)
        x = _stages(
            x,
            depth,
            residual=residual,
            pool=variant == "d",
            reached=STEM_STRIDES[stem],
            output_stride=output_stride,
        )
        x = _classifier(x, classes, classifier_activation, dropout) if include_top else x
        x = x if pooling is None else _features(x, pooling)

        inputs = keras.utils.get_source_inputs(image)
        # one input bare, not in a list: Keras warns when a call's structure is another one
        model = keras.Model(inputs[0] if len(inputs) == 1 else inputs, x, name=name)
        if published is not None:
            _load_published(model, published)
        elif weights is not None:
            _load(model, weights)
        return model

    build.__name__ = build.__qualname__ = f"build_{default_name}"
    build.__doc__ = f"Builds {title}.\n\n{inspect.getdoc(Builder.__call__)}"
    return build


def _load(model: keras.Model, weights: str | os.PathLike[str]) -> None:
    if os.fspath(weights).endswith(KERAS_WEIGHTS):
        model.load_weights(weights)
    else:
        load_weights(model, weights)


def _load_published(model: keras.Model, published: Published) -> None:
    # a classifier of the same classes is loaded all the same: the file is known to have one
    if load_weights(model, fetch(published), head="skip").kept:
        warnings.warn(
            f"{published.name} knows ImageNet's 1,000 classes: the head for "
            f"{model.output_shape[-1]:,} classes is new, and has to be trained",
            stacklevel=3,  # the line that builds
        )


def _normalization(preprocess: Preprocess) -> layers.Layer:
    """The layer that takes pixels of 0–255 to the network's scale."""
    return layers.Rescaling(
        scale=list(preprocess.scale),
        offset=list(preprocess.offset),
        dtype="float32",
        name="normalization",
    )


def _stem(x: keras.KerasTensor, stem: str, variant: str | None) -> keras.KerasTensor:
    kernel_size, stride, pool, _ = STEMS[stem]
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
    x: keras.KerasTensor,
    depth: int,
    *,
    residual: bool,
    pool: bool,
    reached: int,
    output_stride: int,
) -> keras.KerasTensor:
    """Table 1's four stages. From the second on, the first block halves the map.

    Once its stride has `reached` the output's, the map stays as it is and what follows looks at
    every second value instead, with the same weights: the holes ("trous") of Chen et al. 2014
    (arXiv 1412.7062). Every second value of the result is what halving would have given.
    """
    dilation = 1
    for stage, filters in enumerate(STAGE_FILTERS, start=1):
        for block in range(1, STAGE_BLOCKS[depth][stage - 1] + 1):
            name = f"stage{stage}_block{block}"
            stride, before = 1, dilation
            halves = stage > 1 and block == 1
            if halves and reached < output_stride:
                stride, reached = 2, 2 * reached
            elif halves:
                dilation = 2 * dilation
            dilations = (before, dilation)
            if not residual:
                x = plain_block(x, filters, stride=stride, dilations=dilations, name=name)
            elif halves:
                x = conv_block(x, filters, stride=stride, dilations=dilations, pool=pool, name=name)
            else:
                x = identity_block(x, filters, dilation=dilation, name=name)
    return x


def _classifier(
    x: keras.KerasTensor, classes: int, activation: Activation, dropout: float
) -> keras.KerasTensor:
    # adaptive pooling to 1×1 is global pooling, for which every Keras has a layer
    x = layers.GlobalAveragePooling2D(dtype="float32", name="head_pool")(x)
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


def _features(x: keras.KerasTensor, pooling: str | int | tuple[int, int]) -> keras.KerasTensor:
    if pooling == "avg":
        layer = layers.GlobalAveragePooling2D(dtype="float32", name="head_pool")
    elif pooling == "max":
        layer = layers.GlobalMaxPooling2D(dtype="float32", name="head_pool")
    else:
        layer = AdaptiveAveragePooling2D(as_output_size(pooling), dtype="float32", name="head_pool")
    return layer(x)


build_resnet18 = _builder(18, residual=True, default_name="resnet18", title="ResNet-18")
build_resnet34 = _builder(34, residual=True, default_name="resnet34", title="ResNet-34")
build_plain18 = _builder(
    18, residual=False, default_name="plain18", title="ResNet-18 without its shortcuts"
)
build_plain34 = _builder(
    34, residual=False, default_name="plain34", title="ResNet-34 without its shortcuts"
)
