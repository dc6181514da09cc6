"""Raw pixels in, named probabilities out: the one graph that every format is made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_resnet18.classify.exported import class_names
from keras_resnet18.errors import InputError, is_utf8
from keras_resnet18.exporters.compare import FEATURES, answering, probabilities
from keras_resnet18.exporters.image_bytes import decode
from keras_resnet18.files import INPUT, OUTPUT
from keras_resnet18.preprocess import Preprocess

# How many classes `serve_bytes` names.
TOP = 5


def check_model(model: keras.Model, labels: Sequence[str] | None) -> None:
    """Raises InputError unless `model` is a trained image classifier of the classes `labels`."""
    if keras.config.backend() != "tensorflow":
        raise InputError(
            "exports are made with Keras on TensorFlow: set KERAS_BACKEND=tensorflow and load the "
            f"model's .keras file there. Received: KERAS_BACKEND={keras.config.backend()!r}"
        )
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise InputError(
            "an export needs a functional or Sequential keras.Model that knows its input shape. "
            f"Received: {type(model).__name__}"
        )
    if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4 or len(model.outputs) != 1:
        raise InputError(
            "an export needs a model with one input, (batch, height, width, channels), and one "
            f"output. Received: input shape {model.input_shape}, output shape {model.output_shape}"
        )
    if len(model.output_shape) != 2:
        raise InputError(
            "an export needs a classifier, whose output is (batch, classes): build it with "
            f"include_top=True. Received: output shape {model.output_shape}"
        )
    classes = model.output_shape[1]
    if classes == 1:
        raise InputError(
            "an export needs an output for each class, two or more: build the model with classes=2 "
            f"and softmax. Received: output shape {model.output_shape}, of one class"
        )
    for variable in model.weights:
        if not np.isfinite(variable.numpy()).all():
            raise InputError(
                "an export needs weights that are finite numbers: take those of an earlier epoch, "
                f"or train with a lower learning rate. Received: NaN or infinity in {variable.path}"
            )
    if labels is None:
        return
    if isinstance(labels, str) or len(labels) != classes:
        raise InputError(
            f"labels must be {classes} names, one for each class in the order of the model's "
            f"output. Received: {'one string' if isinstance(labels, str) else len(labels)}"
        )
    for label in labels:
        if not isinstance(label, str) or label.splitlines() != [label] or not is_utf8(label):
            raise InputError(
                f"labels must be non-empty, one-line strings of Unicode. Received: {label!r}"
            )


def check_size(model: keras.Model, what: str) -> None:
    """Raises InputError unless `model` takes images of one fixed size, as `what` does."""
    if None in model.input_shape[1:]:
        raise InputError(
            f"{what} takes images of one size: build the model with a fixed input_shape. "
            f"Received: input shape {model.input_shape}"
        )


def check_preprocess(model: keras.Model, preprocess: Preprocess | None) -> None:
    """Raises InputError unless the specification, if there is one, makes what the model takes."""
    if preprocess is None:
        return
    *size, channels = model.input_shape[1:]
    if channels != 3 or any(a not in (None, b) for a, b in zip(size, preprocess.size, strict=True)):
        raise InputError(
            f"preprocess must make what the model takes, {model.input_shape[1:]}. "
            f"Received: preprocess.size={preprocess.size}, of 3 channels"
        )


def write_saved_model(
    model: keras.Model, path: Path, *, batch_size: int | None = None, dtype: str = "uint8"
) -> None:
    """Writes a float32 model from pixels to probabilities as a SavedModel, for converters to read.

    Its signature `serving_default` takes `image`, (batch_size, height, width, channels) of `dtype`
    with values of 0 to 255, and returns `probabilities`, float32 (batch_size, classes).
    """
    # No archive.track(model): an endpoint's variables are tracked anyway, and would be saved twice.
    archive = keras.export.ExportArchive()
    shape = (batch_size, *model.input_shape[1:])
    archive.add_endpoint(
        "serving_default",
        lambda image: {OUTPUT: probabilities(model, image)},
        input_signature=[tf.TensorSpec(shape, dtype, name=INPUT)],
    )
    archive.write_out(str(path), verbose=False)


def write_endpoints(
    model: keras.Model,
    path: Path,
    *,
    labels: Sequence[str] | None,
    preprocess: Preprocess | None,
) -> None:
    """Writes a float32 model as a SavedModel for servers; `export_saved_model` has its signatures.

    Without `preprocess`, `image` is pixels of the model's own shape everywhere, and there is no
    `serve_pixels` and no `serve_bytes`.
    """
    shape = model.input_shape[1:] if preprocess is None else (*preprocess.size, 3)
    pixels = tf.TensorSpec((None, *shape), "uint8", INPUT)
    images = pixels if preprocess is None else tf.TensorSpec((None, None, None, 3), "uint8", INPUT)
    files = tf.TensorSpec((None,), "string", "image_bytes")
    # a function of its own, so that the network is traced once and not for every endpoint
    network = tf.function(answering(model), input_signature=[pixels], autograph=False)

    def prepared(image: Any) -> Any:
        return image if preprocess is None else preprocess.resize_and_crop(image)

    def decoded(image_bytes: Any) -> Any:
        spec = tf.TensorSpec(shape, "uint8")
        return tf.map_fn(lambda file: prepared(decode(file)), image_bytes, fn_output_signature=spec)

    def one_of(name: str, image: Any) -> dict[str, Any]:
        return {name: network(image)[name]}

    archive = keras.export.ExportArchive()
    archive.add_endpoint("serving_default", lambda image: one_of(OUTPUT, prepared(image)), [images])
    if FEATURES in network.get_concrete_function().structured_outputs:
        archive.add_endpoint(FEATURES, lambda image: one_of(FEATURES, prepared(image)), [images])
    if preprocess is not None:
        archive.add_endpoint("serve_pixels", lambda image: one_of(OUTPUT, image), [pixels])
        archive.add_endpoint(
            "serve_bytes",
            lambda image_bytes: _best(network(decoded(image_bytes))[OUTPUT], labels),
            [files],
        )
    if labels is not None:
        archive.add_endpoint("labels", lambda: {"labels": tf.constant(list(labels))}, [])
    archive.write_out(str(path), verbose=False)


def _best(scores: Any, labels: Sequence[str] | None) -> dict[str, Any]:
    """The most probable classes of each image, the best one first, and their probabilities."""
    classes = scores.shape[-1]
    best = tf.math.top_k(scores, k=min(TOP, classes))
    names = tf.constant(class_names(labels, classes))
    return {"labels": tf.gather(names, best.indices), OUTPUT: best.values}
