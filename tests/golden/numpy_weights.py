"""Seeded weights, images and probes that the torch program and the Keras tests share.

Weights carry torch's names and layout: a convolution kernel is (out, in, height, width), a dense
kernel (out, in). Images and activations are NHWC. All draws come from ``RandomState``: NumPy has
frozen its streams, while those of the newer ``Generator`` may change.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

# The settings of the stored run.
CLASSES = 10
WEIGHT_SEED = 2015
# Chosen so that no value of the training step lies within rounding of a ReLU's or the max pool's
# decision: with another seed one flipped element can move an update by 1e-3 to 1e-1 of its norm.
IMAGE_SEED = 1524
LABEL_SEED = 385
POOL_SEED = 77
IMAGE_SHAPE = (2, 224, 224, 3)
TRAIN_SHAPE = (8, 64, 64, 3)
LEARNING_RATE = 0.1
MOMENTUM = 0.9
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")
# ((input height, width), (output height, width)): whole, overlapping, uneven and enlarging bins.
POOL_CASES = (
    ((7, 7), (1, 1)),
    ((7, 7), (3, 3)),
    ((10, 10), (4, 4)),
    ((5, 5), (7, 7)),
    ((1, 1), (3, 3)),
    ((7, 10), (3, 4)),
)

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
WIDTHS = (64, 128, 256, 512)


class Network(NamedTuple):
    """A network of the golden run."""

    depth: int = 18
    channels: int = 3
    deep: bool = False  # a ResNet-D


# Those that are compared stage by stage on one small image. Its sides leave a last row or column
# without a neighbour in most maps that are halved.
SMALL_SIZE = (67, 54)
NETWORKS = {
    "18_grey": Network(channels=1),
    "34": Network(depth=34),
    "18d": Network(deep=True),
}
IMAGE_LOW, IMAGE_HIGH = -2.1, 2.6
ACTIVATION_SAMPLES = 16
TENSOR_SAMPLES = 4

# Scale of the last batch normalization of a block. With 1 each block would multiply the variance
# by about three, and the logits of depth 34 would leave the range in which float32 compares well.
RESIDUAL_DAMPING = 0.5


def _rng(key: str, seed: int) -> np.random.RandomState:
    """A stream that depends on ``key`` and ``seed`` alone, so the order of calls is immaterial."""
    return np.random.RandomState([seed, zlib.crc32(key.encode())])


def resnet_shapes(
    depth: int, classes: int, in_channels: int = 3, *, deep: bool = False
) -> dict[str, tuple[int, ...]]:
    """Shapes of a ResNet's tensors under torch's names, in the order of the layers.

    A ResNet-D (`deep`) has timm's names: three convolutions in the stem, and a pool, which has no
    tensors, before each projection. `num_batches_tracked` is left out.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def conv_bn(conv: str, bn: str, out: int, inputs: int, size: int) -> None:
        shapes[f"{conv}.weight"] = (out, inputs, size, size)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{bn}.{part}"] = (out,)

    if deep:
        conv_bn("conv1.0", "conv1.1", 32, in_channels, 3)
        conv_bn("conv1.3", "conv1.4", 32, 32, 3)
        conv_bn("conv1.6", "bn1", WIDTHS[0], 32, 3)
    else:
        conv_bn("conv1", "bn1", WIDTHS[0], in_channels, 7)
    projection = ("downsample.1", "downsample.2") if deep else ("downsample.0", "downsample.1")
    inputs = WIDTHS[0]
    for stage, (width, blocks) in enumerate(zip(WIDTHS, BLOCKS[depth], strict=True), start=1):
        for index in range(blocks):
            block = f"layer{stage}.{index}"
            conv_bn(f"{block}.conv1", f"{block}.bn1", width, inputs, 3)
            conv_bn(f"{block}.conv2", f"{block}.bn2", width, width, 3)
            # Only the blocks that halve the map change their width and need a projection.
            if inputs != width:
                conv_bn(f"{block}.{projection[0]}", f"{block}.{projection[1]}", width, inputs, 1)
            inputs = width
    shapes["fc.weight"] = (classes, inputs)
    shapes["fc.bias"] = (classes,)
    return shapes


def _weight(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """One tensor of ``numpy_weights``, float64 of ``shape``."""
    rng = _rng(key, seed)
    part = key.rpartition(".")[2]
    if len(shape) == 4:
        fan_out = shape[0] * shape[2] * shape[3]
        return rng.normal(0.0, np.sqrt(2.0 / fan_out), shape)
    if key in ("fc.weight", "fc.bias"):
        return rng.normal(0.0, 0.05, shape)
    if part == "weight":
        damping = RESIDUAL_DAMPING if key.endswith(".bn2.weight") else 1.0
        return damping * rng.uniform(0.5, 1.5, shape)
    if part == "bias":
        return rng.normal(0.0, 0.1, shape)
    if part == "running_mean":
        return rng.normal(0.0, 0.3, shape)
    if part == "running_var":
        return rng.uniform(0.5, 1.5, shape)
    raise ValueError(f"no rule for the tensor {key!r} of shape {shape}")


def numpy_weights(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """A float32 array for every name and shape, each from its own stream.

    Kernels are He-normal by fan-out. BatchNorm's vectors are all away from their usual 1 and 0, so
    that a swapped or skipped one shows.
    """
    return {key: _weight(key, shape, seed).astype(np.float32) for key, shape in shapes.items()}


def numpy_images(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Float32 NHWC images of ``shape``, uniform in about the range of normalized photographs."""
    return _rng("images", seed).uniform(IMAGE_LOW, IMAGE_HIGH, shape).astype(np.float32)


def numpy_labels(count: int, classes: int, seed: int) -> np.ndarray:
    """Int64 labels of shape (count,) in [0, classes)."""
    return _rng("labels", seed).randint(0, classes, count).astype(np.int64)


def pool_name(size: tuple[int, int], output: tuple[int, int]) -> str:
    """The name of a pooling case, such as ``7x10_to_3x4``."""
    return f"{size[0]}x{size[1]}_to_{output[0]}x{output[1]}"


def pool_arrays(
    size: tuple[int, int], output: tuple[int, int], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Input (2, *size, 3) and cotangent (2, *output, 3) of a pooling case, float32 normal NHWC."""
    name = pool_name(size, output)
    values = _rng(f"pool input {name}", seed).standard_normal((2, *size, 3))
    cotangent = _rng(f"pool cotangent {name}", seed).standard_normal((2, *output, 3))
    return values.astype(np.float32), cotangent.astype(np.float32)


def sample_indices(key: str, size: int, count: int) -> np.ndarray:
    """Flat indices into an array of ``size`` elements, drawn with repeats.

    Regular steps would not do: in NHWC they often fall on the same few channels.
    """
    return _rng(key, 0).randint(0, size, count)


def activation_probe(key: str, values: np.ndarray) -> np.ndarray:
    """Mean, standard deviation and 16 values of an NHWC activation: float64 of shape (18,)."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    samples = flat[sample_indices(key, flat.size, ACTIVATION_SAMPLES)]
    return np.concatenate([[flat.mean(), flat.std()], samples])


def tensor_probe(key: str, values: np.ndarray) -> np.ndarray:
    """Sum, L2 norm and 4 values of a weight tensor in torch layout: float64 of shape (6,)."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    samples = flat[sample_indices(key, flat.size, TENSOR_SAMPLES)]
    return np.concatenate([[flat.sum(), np.linalg.norm(flat)], samples])
