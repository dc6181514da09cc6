"""Diagnosis of an export that differs from its model: common mistakes, each tested."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_litert.tools import flatbuffer_utils

from keras_resnet18.classify.accuracy import interval
from keras_resnet18.exporters import compare as reference
from keras_resnet18.exporters.compare import (
    Batch,
    Comparison,
    Limits,
    Predict,
    compare,
    noise,
    whole_float32,
)
from keras_resnet18.exporters.stem import with_packed_stem
from keras_resnet18.preprocess import IMAGENET_MEAN, IMAGENET_STD

# Mistakes are looked for on the first images.
_IMAGES = 256
_BATCH_SIZE = 32

# (mean, standard deviation) on a scale of 0 to 1, tried where a file's own cannot be measured: none
# at all, pixels to 0–1, pixels to -1–1, and ImageNet's.
_USUAL = (
    ((0.0,) * 3, (1 / 255,) * 3),
    ((0.0,) * 3, (1.0,) * 3),
    ((0.5,) * 3, (0.5,) * 3),
    (IMAGENET_MEAN, IMAGENET_STD),
)

# Error in grey levels by which int8 may round the constants of a normalisation
_LEVELS = 3

# Cosine of a file's filter and the model's. Folding BatchNorm in changes a filter's length and not
# its direction; rounding to int8 leaves 0.9999.
_SAME_DIRECTION = 0.999

_BUILTIN, _TYPE = schema.BuiltinOperator, schema.TensorType
_WEIGHTED = (_BUILTIN.CONV_2D, _BUILTIN.FULLY_CONNECTED)
_STEM = (_BUILTIN.SPACE_TO_DEPTH, _BUILTIN.PAD, _BUILTIN.CONV_2D)  # what a stem may begin with


def compare_and_diagnose(
    exported: Predict,
    model: keras.Model,
    batches: Iterable[Batch],
    limits: Limits,
    path: Path | None = None,
) -> tuple[Comparison, str | None]:
    """Compares an export with its model, and diagnoses the mistake where it exceeds the limits.

    A mistake is named only if the images show it: made a second time, or in the model too, it makes
    the answers equal; for calibration, the weights are the model's and only rounding is left.

    Args:
        exported: From uint8 pixels (n, height, width, channels) to probabilities (n, classes).
        model: The Keras model as it was trained.
        batches: Images, with labels or without.
        limits: How far from the model the export may be.
        path: The file, if it is a .tflite file: some mistakes are seen in its tensors. For other
            formats only common normalisations are recognised.

    Returns:
        The figures, and the fault in one line; None if there is none.
    """
    first: list[np.ndarray[Any, Any]] = []
    comparison = compare(exported, model, _kept(batches, first))
    fault = limits.fault(comparison)
    if fault is None:
        return comparison, None
    mistake = _mistake(exported, model, np.concatenate(first)[:_IMAGES], limits, path)
    return comparison, f"{fault}: {mistake}" if mistake else fault


def quantization(path: Path) -> str | None:
    """`export_tflite`'s argument `quantize` that gives a file with such tensors."""
    model = flatbuffer_utils.read_model(str(path))
    tensors = model.subgraphs[0].tensors
    for operator in _find(model, _WEIGHTED):
        image, weights = (tensors[i].type for i in operator.inputs[:2])
        if weights == _TYPE.INT8:
            return "int8" if image == _TYPE.INT8 else "dynamic"
    return "float16" if any(tensor.type == _TYPE.FLOAT16 for tensor in tensors) else None


def _kept(batches: Iterable[Batch], first: list[np.ndarray[Any, Any]]) -> Iterator[Batch]:
    for pixels, labels in batches:
        if sum(map(len, first)) < _IMAGES:
            first.append(pixels)
        yield pixels, labels


def _mistake(
    exported: Predict,
    model: keras.Model,
    pixels: np.ndarray[Any, Any],
    limits: Limits,
    path: Path | None,
) -> str | None:
    twin = reference.float32_twin(model)
    answers = exported(pixels)

    def are_the_models(answers: np.ndarray[Any, Any], changed: np.ndarray[Any, Any]) -> bool:
        exact = _eagerly(lambda some: reference.probabilities(twin, some), changed)
        # few images: the limit needs only be within their confidence interval
        agreeing = int((answers.argmax(1) == exact.argmax(1)).sum())
        _, highest = interval(agreeing, len(answers))
        near = limits.max_difference is None or abs(answers - exact).max() <= limits.max_difference
        return bool(highest >= limits.min_agreement and near)

    shows = not are_the_models(answers, pixels)  # else no change of these could explain it
    if shows and pixels.shape[-1] == 3 and are_the_models(exported(pixels[..., ::-1]), pixels):
        return "it gives the model's answers when red and blue are swapped: the file takes BGR"
    ours = _normalization_of_model(twin, pixels.shape[1:])
    measured = None if path is None else _normalization_of_file(path)
    if ours is None or (path is not None and measured is None):
        return None
    usual = [_Normalization.of(*constants) for constants in _USUAL if pixels.shape[-1] == 3]
    differs = False
    for theirs in usual if measured is None else [measured]:
        as_theirs = (theirs.scale * pixels + theirs.offset - ours.offset) / ours.scale
        differs = bool(abs(as_theirs - pixels).max() > _LEVELS)
        if differs and shows and are_the_models(answers, as_theirs.astype(np.float32)):
            return f"its pixels are normalised differently: {theirs}; the model's: {ours}"
    if path is None or differs:
        return None
    if quantization(path) == "int8" and _has_the_weights_of(path, with_packed_stem(twin)):
        return (
            "its weights are the model's, so it is the rounding of what is between them. Calibrate "
            "with images like those of training"
        )
    return None


def _eagerly(function: Predict, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A network's outputs, computed in batches without tracing a graph."""
    some = (pixels[i : i + _BATCH_SIZE] for i in range(0, len(pixels), _BATCH_SIZE))
    with whole_float32():
        return np.concatenate([function(batch.astype(np.float32)).numpy() for batch in some])


@dataclasses.dataclass(frozen=True)
class _Normalization:
    """Normalisation of pixels of 0 to 255: pixel · scale + offset, per channel."""

    scale: np.ndarray[Any, Any]
    offset: np.ndarray[Any, Any]

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float]) -> _Normalization:
        """The normalisation (pixel / 255 - mean) / std."""
        return cls(1 / 255 / np.array(std), -np.array(mean) / np.array(std))

    @classmethod
    def seen(
        cls, pixels: np.ndarray[Any, Any], values: np.ndarray[Any, Any]
    ) -> _Normalization | None:
        """The normalisation fitted to pixels and the values made of them; None if there is none."""
        if values.shape != pixels.shape:
            return None
        scale, offset = np.transpose(
            [
                np.polyfit(pixels[..., i].ravel(), values[..., i].ravel(), 1)
                for i in range(pixels.shape[-1])
            ]
        )
        return cls(scale, offset) if scale.all() else None

    def __str__(self) -> str:
        means, stds = -self.offset / self.scale / 255, 1 / self.scale / 255
        mean, std = (", ".join(f"{value:.3f}" for value in values) for values in (means, stds))
        return f"mean {mean}, standard deviation {std}"


def _normalization_of_model(model: keras.Model, shape: tuple[int, ...]) -> _Normalization | None:
    """Normalisation before a model's first convolution or its padding, measured on noise."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.ZeroPadding2D):
            pixels, _ = next(noise(shape))
            before = keras.Model(model.inputs[0], layer.input)
            return _Normalization.seen(pixels, _eagerly(before, pixels))
    return None


def _normalization_of_file(path: Path) -> _Normalization | None:
    """Normalisation before a .tflite file's first convolution, measured on noise."""
    first = next(_find(flatbuffer_utils.read_model(str(path)), _STEM), None)
    if first is None:
        return None
    index = int(first.inputs[0])
    interpreter = Interpreter(
        str(path),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    (image,) = interpreter.get_input_details()
    pixels, _ = next(noise(tuple(image["shape"][1:])))
    interpreter.set_tensor(image["index"], pixels[:1])
    interpreter.invoke()
    values = interpreter.get_tensor(index).astype(np.float64)
    (details,) = (d for d in interpreter.get_tensor_details() if d["index"] == index)
    scale, zero_point = details["quantization"]
    return _Normalization.seen(pixels[:1], (values - zero_point) * scale if scale else values)


def _has_the_weights_of(path: Path, model: keras.Model) -> bool:
    """Whether each of the model's filters is in an int8 file, up to its length."""
    stored = flatbuffer_utils.read_model(str(path))
    theirs = []
    for operator in _find(stored, _WEIGHTED):
        tensor = stored.subgraphs[0].tensors[operator.inputs[1]]
        values = stored.buffers[tensor.buffer].data
        if tensor.type == _TYPE.INT8 and values is not None:
            kernel = np.asarray(values, np.uint8).view(np.int8).reshape(tensor.shape)
            theirs.append(_directions(kernel))
    layers = keras.layers.Conv2D | keras.layers.Dense
    return all(
        any(
            _same(_directions(np.moveaxis(keras.ops.convert_to_numpy(layer.kernel), -1, 0)), x)
            for x in theirs
        )
        for layer in reference.leaves(model)
        if isinstance(layer, layers)
    )


def _directions(kernel: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A kernel of shape (filters, …) as one unit vector for each filter."""
    rows = kernel.reshape(len(kernel), -1).astype(np.float64)
    directions: np.ndarray[Any, Any] = rows / np.maximum(
        np.linalg.norm(rows, axis=1, keepdims=True), 1e-12
    )
    return directions


def _same(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    # the median: a BatchNorm with a scale of 0 makes its filter 0
    return a.shape == b.shape and bool(np.median(abs((a * b).sum(1))) > _SAME_DIRECTION)


def _find(model: Any, codes: Sequence[int]) -> Iterator[Any]:
    """A model's operators of these kinds, in the order of execution."""
    for operator in model.subgraphs[0].operators:
        code = model.operatorCodes[operator.opcodeIndex]
        # files older than 127 operators kept the number in a byte
        if max(code.builtinCode, code.deprecatedBuiltinCode) in codes:
            yield operator
