"""Checkpoints as the torch libraries write them, and a network small enough to load often."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy
from golden.numpy_weights import numpy_weights, resnet_shapes
from keras import layers
from weights.checkpoints import Arrays

from keras_resnet18.model.blocks import batch_norm, convolution, identity_block


@pytest.fixture(scope="session")
def arrays() -> Arrays:
    """The golden ResNet-18 under torchvision's names, in torch's layout, with 10 classes."""
    return numpy_weights(resnet_shapes(18, 10), 2015)


@pytest.fixture(scope="session")
def small_arrays() -> Callable[..., Arrays]:
    """The tensors of `small_model`, under torchvision's names."""

    def make(classes: int = 10, channels: int = 3) -> Arrays:
        shapes = resnet_shapes(18, classes, channels)
        kept = {n: s for n, s in shapes.items() if re.match(r"conv1|bn1|layer1\.0|fc", n)}
        return numpy_weights(kept | {"fc.weight": (classes, 64)}, 7)

    return make


@pytest.fixture(scope="session")
def small_model() -> Callable[..., keras.Model]:
    """A stem, one block and a classifier: a network of ours with most of its stages cut out."""

    def make(classes: int = 10, channels: int = 3) -> keras.Model:
        image = keras.Input((32, 32, channels))
        x = batch_norm(convolution(image, 64, 7, stride=2, name="stem_conv"), name="stem_bn")
        x = identity_block(x, 64, name="stage1_block1")
        x = layers.GlobalAveragePooling2D(name="head_pool")(x)
        return keras.Model(image, layers.Dense(classes, name="predictions")(x), name="small")

    return make


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[[Mapping[str, np.ndarray]], Path]:
    """Writes tensors to a .safetensors file and returns its path."""

    def write(arrays: Mapping[str, np.ndarray], name: str = "model.safetensors") -> Path:
        safetensors.numpy.save_file(dict(arrays), tmp_path / name)
        return tmp_path / name

    return write
