"""A model as a .tflite file for phones."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_resnet18 import tflite_file as metadata
from keras_resnet18.classify.exported import Predict, TFLiteFile
from keras_resnet18.errors import ExportError, InputError, within
from keras_resnet18.exporters import convert, graph
from keras_resnet18.exporters.compare import (
    MIN_AGREEMENT,
    ExportReport,
    export_verified,
    pixel_batches,
)
from keras_resnet18.files import TFLITE
from keras_resnet18.spec import LABELS_FILE, SPEC_FILE, ClassifierSpec
from keras_resnet18.tflite_file import add_metadata, append_files, contents, keep_softmax_float

# Calibration finds each tensor's range. Ranges settle after a few hundred images; more cost time.
CALIBRATION_IMAGES = 300

# With fewer, the ranges are those of a few images and not of the kind.
MIN_CALIBRATION_IMAGES = 200

_PAD, _CONV = "stem_conv_pad", "stem_conv"  # as our builders name them


def export_tflite(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    spec: ClassifierSpec | None = None,
    labels: Sequence[str] | None = None,
    quantize: str | None = None,
    calibration: Any = None,
    check: Any = None,
    min_agreement: float = MIN_AGREEMENT,
    about: Mapping[str, str] | None = None,
) -> ExportReport:
    """Writes a .tflite file that takes pixels and gives probabilities, verified by LiteRT.

    The file takes `image`, uint8 (1, height, width, channels) with values of 0 to 255, and gives
    `probabilities`, float32 (1, classes), with LiteRT's built-in operators only, whatever dtype
    policy the model was trained under. TFLite Metadata describes both to apps. LiteRT runs the
    file, and it is written only if it gives the model's answers; its figures are beside it, in
    `<name>.json`.

    Args:
        model: A classifier that takes pixels of 0 to 255, of one fixed size; with softmax or
            logits.
        path: The file to write; one that exists is replaced.
        spec: Specification of the classifier: class names, preprocessing, score threshold. A run
            has its own, `run.spec`.
        labels: Class names in the order of the model's output, where there is no `spec`; by default
            the classes' numbers. Images are then resized until they cover the model's size.
            The specification is packed into the file; MediaPipe obeys labels and threshold.
        quantize: `None` for float32; `"float16"` for float16 weights and float32 arithmetic, half
            the size; `"dynamic"` for int8 weights and float32 activations, `"int8"` for int8
            weights and activations, a quarter. The softmax is float32 in all of them.
        calibration: Images like those of training, for `"int8"`, 200 or more: a `tf.data.Dataset`
            or arrays, of images or (image, label), batched or not. The first 300 are used.
        check: Held-out images of the same kinds, to compare on; with labels, top-1 accuracy is
            measured too. By default the calibration images, and without those noise, on which
            accuracy is not measured.
        min_agreement: Fraction of the images, 0 to 1, that must get the class the model gives.
        about: For the metadata: some of `name`, `description`, `version`, `author`, `license`. The
            first three are by default made from the model; author and license, which are yours to
            say, are left out.

    Returns:
        Size, agreement, accuracy, latency: `print` it.

    Raises:
        InputError: If an argument cannot be used; the message says which and why.
        ExportError: If the file does not give the model's answers. Nothing is written then.
    """
    graph.check_model(model)
    graph.check_size(model, "a .tflite file")
    spec = graph.spec_of(model, spec, labels)
    _check_arguments(quantize, calibration, check, min_agreement)
    metadata.check_about(about := about or {})
    shape = model.input_shape[1:]
    if check is None and calibration is None:
        batches = None
    elif check is None:
        batches = pixel_batches(
            calibration, shape, argument="calibration", limit=CALIBRATION_IMAGES
        )
    else:
        batches = pixel_batches(check, shape, argument="check")
    images = _calibration_images(calibration, shape) if quantize == "int8" else None

    def write(twin: keras.Model, new: Path) -> tuple[Predict, dict[str, int]]:
        packed = with_packed_stem(twin) if quantize in ("dynamic", "int8") else twin
        _convert(packed, new, quantize, images)
        if quantize == "int8":
            keep_softmax_float(new)
        add_metadata(new, metadata.pack(metadata.describe_model(twin, spec, about)))
        append_files(new, {LABELS_FILE: spec.labels_txt(), SPEC_FILE: spec.to_json()})
        return open_checked(new, twin)

    return export_verified(
        TFLITE[quantize],
        Path(path),
        model,
        write,
        shape=shape,
        batches=batches,
        min_agreement=min_agreement,
    )


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
    # The range of the input must be 0 to 255, so that uint8 pixels are their own quantised values;
    # two corner pixels see to that where no image happens to have them.
    images[0, 0, 0], images[0, -1, -1] = 0, 255
    return images


def _convert(
    model: keras.Model,
    path: Path,
    quantize: str | None,
    calibration: np.ndarray[Any, Any] | None,
) -> None:
    saved_model = path.with_name(f"{path.name}.saved_model")
    # The quantiser turns a float input into a uint8 one; a uint8 input it would cast and quantise.
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
    """Rearranges the stem for int8 kernels; returns `model` itself if its stem is another.

    These kernels read channels four or eight at a time, and three channels leave most of such a
    read empty. Every 2×2 pixels become one of twelve channels, and the 7×7 kernel of stride 2
    becomes a 4×4 kernel of stride 1: the same products and sums, with more zeros among them.

    The layers `stem_conv_pad` and `stem_conv` of a `build_resnet18`, 7×7 with stride 2, are
    rearranged, if height and width are even. All other layers are the model's own.
    """
    layers = {layer.name: layer for layer in model.layers}
    if not _is_paper_stem(layers.get(_PAD), layers.get(_CONV)):
        return model

    def packed(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer.name == _PAD:
            return keras.layers.Lambda(_space_to_depth, name=_PAD)
        if layer.name == _CONV:
            changes = {"kernel_size": 4, "strides": 1}
            return type(layer).from_config({**layer.get_config(), **changes})
        return layer  # shared with the model

    kernel, *bias = layers[_CONV].get_weights()
    twin = keras.models.clone_model(model, clone_function=packed)
    twin.get_layer(_CONV).set_weights([_pack(kernel), *bias])
    return twin


def _is_paper_stem(pad: Any, conv: Any) -> bool:
    return (
        isinstance(pad, keras.layers.ZeroPadding2D)
        and isinstance(conv, keras.layers.Conv2D)
        and pad.padding == ((3, 3), (3, 3))
        and conv.kernel_size == (7, 7)
        and conv.strides == (2, 2)
        and conv.padding == "valid"
        and conv.dilation_rate == (1, 1)
        and conv.groups == 1
        and conv.input is pad.output
        and all(side is not None and side % 2 == 0 for side in pad.input.shape[1:3])
    )


def _pack(kernel: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(7, 7, c, filters) to (4, 4, 4 · c, filters)."""
    kernel = np.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
    *_, channels, filters = kernel.shape
    blocks = kernel.reshape(4, 2, 4, 2, channels, filters).transpose(0, 2, 1, 3, 4, 5)
    return blocks.reshape(4, 4, 4 * channels, filters)


def _space_to_depth(images: Any) -> Any:
    """(batch, height, width, c) to (batch, height / 2 + 3, width / 2 + 3, 4 · c), padded by 0."""
    # a 7×7 kernel begins 3 pixels before its stride: 2 of the new ones, and half of one unused
    return tf.pad(tf.nn.space_to_depth(images, 2), ((0, 0), (2, 1), (2, 1), (0, 0)))


def open_checked(path: Path, model: keras.Model) -> tuple[TFLiteFile, dict[str, int]]:
    """Opens a .tflite file and checks it for what the converter may get wrong in silence.

    Returns:
        The file, and the number of its operators by name.

    Raises:
        ExportError: If the file is broken, convolutions are missing, an operator is not built in,
            or the file does not take uint8 pixels as they are and give float32.
    """
    try:
        operators = contents(path).operators
    except InputError:
        TFLiteFile(path)  # raises the clearer error
        raise
    layers = graph.leaves(model)
    convolutions = sum(isinstance(layer, keras.layers.Conv2D) for layer in layers)
    found = operators.get("CONV_2D", 0) + operators.get("DEPTHWISE_CONV_2D", 0)
    if not operators or found < convolutions:
        which = "converted" if operators else "empty"
        raise ExportError(
            f"the {which} graph has {found} convolutions, the model {convolutions}: the "
            f"converter left some out. Its operators: {operators}"
        )
    if any(name.startswith("CUSTOM") for name in operators):
        raise ExportError(
            "the converted graph needs operators that are not built into LiteRT. "
            f"Its operators: {operators}"
        )
    file = TFLiteFile(path)
    scale, zero_point = file.input["quantization"]
    if (scale, zero_point) not in ((0.0, 0), (1.0, 0)):
        raise ExportError(
            "the converted graph must take pixels of 0 to 255 as they are. "
            f"Its input: uint8, scale {scale}, zero point {zero_point}"
        )
    return file, operators
