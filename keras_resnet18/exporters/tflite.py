"""`export_tflite`: a .tflite file for phones."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_resnet18.classify.calibration import MIN_IMAGES, score_threshold
from keras_resnet18.classify.exported import Predict, TFLiteFile
from keras_resnet18.errors import ExportError, InputError, within
from keras_resnet18.exporters import convert, graph
from keras_resnet18.exporters.compare import (
    MIN_AGREEMENT,
    Batch,
    ExportReport,
    export_verified,
    pixel_batches,
)
from keras_resnet18.files import TFLITE
from keras_resnet18.spec import LABELS_FILE, SPEC_FILE, ClassifierSpec
from keras_resnet18.tflite_file import (
    add_metadata,
    append_files,
    check_about,
    describe_model,
    keep_softmax_float,
    pack,
    rewrite_for_gpu,
)
from keras_resnet18.weights.transfer import leaves

# Calibration finds the range of each tensor; ranges settle after a few hundred images
CALIBRATION_IMAGES = 300

# With fewer images, the ranges are not representative
MIN_CALIBRATION_IMAGES = 200

_PAD, _CONV = "stem_conv_pad", "stem_conv"  # layer names of our builders


def export_tflite(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    spec: ClassifierSpec | None = None,
    labels: Sequence[str] | None = None,
    quantize: str | None = None,
    calibration: Any = None,
    check: Any = None,
    validation: Any = None,
    min_agreement: float = MIN_AGREEMENT,
    about: Mapping[str, str] | None = None,
) -> ExportReport:
    """Writes a .tflite file and verifies it with LiteRT.

    The file takes `image`, uint8 (1, height, width, channels) with values of 0 to 255, and returns
    `probabilities`, float32 (1, classes), with LiteRT's built-in operators only, whatever dtype
    policy the model was trained under. TFLite Metadata describes both to apps. The file is written
    only if it gives the model's answers in LiteRT; its report is beside it, in `<name>.json`.

    Args:
        model: A classifier that takes pixels of 0 to 255 of one fixed size and returns softmax
            probabilities or logits.
        path: Destination; an existing file is replaced.
        spec: Specification of the classifier: class names, preprocessing, score threshold. That of
            a run is `run.spec`. It is packed into the file; MediaPipe uses the class names and the
            threshold.
        labels: Class names in the order of the model's output if there is no `spec`, by default the
            class numbers. Images are then resized to cover the model's input size.
        quantize: `None` for float32; `"float16"` for float16 weights and float32 arithmetic, half
            the size; `"dynamic"` for int8 weights and float32 activations, or `"int8"` for int8
            weights and activations, a quarter of the size. The softmax is always float32.
        calibration: Training images for `"int8"`, 200 or more: a `tf.data.Dataset` or arrays, of
            images or (image, label), batched or not. The first 300 are used.
        check: Held-out images to compare on, in the same forms. With labels, top-1 accuracy is
            measured too. By default the calibration images without their labels, since accuracy
            on training images is no accuracy, or without those noise.
        validation: Images that the score threshold was chosen by, in the same forms, 100 or more.
            Quantization changes probabilities, so a `"dynamic"` or `"int8"` file gets a threshold
            of its own from them, at the same percentile; by default it keeps that of `spec`.
        min_agreement: Fraction of the images on which file and model must give the same class, 0
            to 1.
        about: Metadata fields: `name`, `description`, `version`, `author`, `license`. The first
            three have defaults made from the model.

    Returns:
        Report with size, agreement, accuracy, latency and operators.

    Raises:
        InputError: If an argument cannot be used; the message says which and why.
        ExportError: If the file does not give the model's answers. Nothing is written then.
    """
    model, spec = graph.prepared(model, spec, labels, fixed_size="a .tflite file")
    _check_arguments(quantize, calibration, check, min_agreement)
    check_about(about := about or {})
    shape = model.input_shape[1:]
    batches: Iterator[Batch] | None = None
    if check is not None:
        batches = pixel_batches(check, shape, argument="check")
    elif calibration is not None:
        seen = pixel_batches(calibration, shape, argument="calibration", limit=CALIBRATION_IMAGES)
        batches = ((pixels, None) for pixels, _ in seen)
    images = _calibration_images(calibration, shape) if quantize == "int8" else None

    def write(twin: keras.Model, new: Path) -> TFLiteFile:
        packed = with_packed_stem(twin) if quantize in ("dynamic", "int8") else twin
        _convert(packed, new, quantize, images)
        if quantize == "int8":
            keep_softmax_float(new)
        own = spec
        if quantize in ("dynamic", "int8"):
            rewrite_for_gpu(new)
            if validation is not None and spec.threshold is not None:
                own = _with_own_threshold(spec, TFLiteFile(new), validation, shape)
        add_metadata(new, pack(describe_model(twin, own, about)))
        append_files(new, {LABELS_FILE: own.labels_txt(), SPEC_FILE: own.to_json()})
        return open_checked(new, twin)

    return export_verified(
        TFLITE[quantize],
        Path(path),
        model,
        write,
        spec=spec,
        shape=shape,
        batches=batches,
        min_agreement=min_agreement,
    )


def _with_own_threshold(
    spec: ClassifierSpec, file: Predict, validation: Any, shape: tuple[int, ...]
) -> ClassifierSpec:
    """Replaces the threshold by the one at which `file` answers 95 % of the images."""
    batches = pixel_batches(validation, shape, argument="validation")
    highest = np.concatenate([file(pixels).max(1) for pixels, _ in batches])
    if len(highest) < MIN_IMAGES:
        return spec
    return dataclasses.replace(spec, threshold=score_threshold(highest))


def _check_arguments(
    quantize: str | None, calibration: Any, check: Any, min_agreement: float
) -> None:
    if quantize not in TFLITE:
        kinds = ", ".join(map(repr, TFLITE))
        raise InputError(f"quantize must be one of {kinds}. Received: quantize={quantize!r}")
    if quantize == "int8" and calibration is None:
        raise InputError(
            "quantize='int8' needs calibration images, such as the training dataset. "
            "Received: calibration=None"
        )
    if quantize == "dynamic" and check is None and calibration is None:
        raise InputError(
            "quantize='dynamic' needs images to be compared on: give check or calibration. "
            "Received: neither"
        )
    is_fraction = isinstance(min_agreement, int | float) and 0 <= min_agreement <= 1
    within("min_agreement", min_agreement, is_fraction, "from 0 to 1")


def _calibration_images(calibration: Any, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    batches = pixel_batches(calibration, shape, argument="calibration", limit=CALIBRATION_IMAGES)
    images = np.concatenate([pixels for pixels, _ in batches])
    if len(images) < MIN_CALIBRATION_IMAGES:
        raise InputError(
            f"quantize='int8' needs {MIN_CALIBRATION_IMAGES} calibration images or more. Received: "
            f"{len(images)}: give more, or take quantize='dynamic', which needs none"
        )
    # Two corner pixels make the range of the input 0 to 255, so that pixels need no scaling
    images[0, 0, 0], images[0, -1, -1] = 0, 255
    return images


def _convert(
    model: keras.Model,
    path: Path,
    quantize: str | None,
    calibration: np.ndarray[Any, Any] | None,
) -> None:
    saved_model = path.with_name(f"{path.name}.saved_model")
    # The quantizer makes a float input uint8; it would cast and quantize a uint8 input
    dtype = "uint8" if calibration is None else "float32"
    graph.write_saved_model(model, saved_model, batch_size=1, dtype=dtype)
    arguments = [convert.__file__, str(saved_model), str(path)]
    if quantize is not None:
        arguments.append(quantize)
    if calibration is not None:
        images = path.with_name(f"{path.name}.calibration.npy")
        np.save(images, calibration)
        arguments.append(str(images))
    graph.run_converter("TensorFlow's converter", arguments, path)


def with_packed_stem(model: keras.Model) -> keras.Model:
    """Rearranges the 7×7 stem of our builders by space to depth, for int8 kernels.

    Those kernels read four or eight channels at a time, most of which are empty with three
    channels. Every 2×2 pixels become one pixel of twelve channels, and the 7×7 kernel with stride 2
    becomes a 4×4 kernel with stride 1: the same products and sums, padded with zeros. A model with
    another stem, or an odd height or width, is returned unchanged.
    """
    layers = {layer.name: layer for layer in model.layers}
    pad, conv = layers.get(_PAD), layers.get(_CONV)
    if pad is None or conv is None or (conv.kernel_size, conv.strides) != ((7, 7), (2, 2)):
        return model
    if any(side % 2 for side in pad.input.shape[1:3]):
        return model

    def packed(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer.name == _PAD:
            return keras.layers.Lambda(_space_to_depth, name=_PAD)
        if layer.name == _CONV:
            changes = {"kernel_size": 4, "strides": 1}
            return type(layer).from_config({**layer.get_config(), **changes})
        return layer

    kernel, *bias = conv.get_weights()
    twin = keras.models.clone_model(model, clone_function=packed)
    twin.get_layer(_CONV).set_weights([_pack(kernel), *bias])
    return twin


def _pack(kernel: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Rearranges a kernel from (7, 7, c, filters) to (4, 4, 4 · c, filters)."""
    kernel = np.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
    *_, channels, filters = kernel.shape
    blocks = kernel.reshape(4, 2, 4, 2, channels, filters).transpose(0, 2, 1, 3, 4, 5)
    return blocks.reshape(4, 4, 4 * channels, filters)


def _space_to_depth(images: Any) -> Any:
    """Rearranges (batch, height, width, c) to (batch, height / 2 + 3, width / 2 + 3, 4 · c)."""
    # Pads by 2 of the new pixels, or 4 old ones: the 7×7 kernel's 3, and 1 where `_pack` adds zeros
    return tf.pad(tf.nn.space_to_depth(images, 2), ((0, 0), (2, 1), (2, 1), (0, 0)))


def open_checked(path: Path, model: keras.Model) -> TFLiteFile:
    """Opens a .tflite file, and raises ExportError for faults that the converter does not report.

    Such a file lacks convolutions, or takes scaled pixels.
    """
    file = TFLiteFile(path)
    operators = file.operators
    convolutions = sum(isinstance(layer, keras.layers.Conv2D) for layer in leaves(model))
    found = operators.get("CONV_2D", 0) + operators.get("DEPTHWISE_CONV_2D", 0)
    if not operators or found < convolutions:
        which = "converted" if operators else "empty"
        raise ExportError(
            f"the {which} graph has {found} convolutions, the model {convolutions}: the "
            f"converter left some out. Its operators: {operators}"
        )
    scale, zero_point = file.input["quantization"]
    if (scale, zero_point) not in ((0.0, 0), (1.0, 0)):
        raise ExportError(
            "the converted graph must take pixels of 0 to 255 as they are. "
            f"Its input: uint8, scale {scale}, zero point {zero_point}"
        )
    return file
