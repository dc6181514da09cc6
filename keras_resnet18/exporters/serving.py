"""Raw pixels in, named probabilities out: the one graph that every format is made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_resnet18.errors import InputError
from keras_resnet18.exporters.compare import FEATURES, answering, probabilities
from keras_resnet18.exporters.image_bytes import decode
from keras_resnet18.files import INPUT, OUTPUT
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.spec import ClassifierSpec

# How many classes `serve_bytes` names.
TOP = 5


def check_model(model: keras.Model) -> None:
    """Raises InputError unless `model` is a trained image classifier."""
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


def spec_of(
    model: keras.Model, spec: ClassifierSpec | None, labels: Sequence[str] | None
) -> ClassifierSpec:
    """Specification of a model that is exported.

    Args:
        model: The model, as `check_model` passes it.
        spec: The caller's specification, or None.
        labels: Class names for a specification that is made here; by default the classes' numbers.
            Images are then resized until they cover the model's size, and their middle is cut out.

    Raises:
        InputError: If both are given, or they are another model's.
    """
    *size, channels = model.input_shape[1:]
    classes = model.output_shape[1]
    if spec is None:
        preprocess = None
        if channels == 3 and None not in size:
            preprocess = Preprocess(size=tuple(size), crop_ratio=1.0)
        names: Any = tuple(map(str, range(classes))) if labels is None else labels
        spec = ClassifierSpec(names, preprocess)
    elif labels is not None:
        raise InputError("labels are part of spec: give one of both. Received: labels and spec")
    if not isinstance(spec, ClassifierSpec):
        raise InputError(f"spec must be a ClassifierSpec. Received: {type(spec).__name__}")
    spec.check_model(model.input_shape[1:], classes, "the arguments")
    return spec


def check_size(model: keras.Model, what: str) -> None:
    """Raises InputError unless `model` takes images of one fixed size, as `what` does."""
    if None in model.input_shape[1:]:
        raise InputError(
            f"{what} takes images of one size: build the model with a fixed input_shape. "
            f"Received: input shape {model.input_shape}"
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
    spec: ClassifierSpec,
) -> None:
    """Writes a float32 model as a SavedModel for servers; `export_saved_model` has its signatures.

    Without `spec.preprocess`, `image` is pixels of the model's own shape everywhere, and there is
    no `serve_pixels` and no `serve_bytes`.
    """
    preprocess = spec.preprocess
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
            lambda image_bytes: _best(network(decoded(image_bytes))[OUTPUT], spec.labels),
            [files],
        )
    archive.add_endpoint("labels", lambda: {"labels": tf.constant(list(spec.labels))}, [])
    archive.write_out(str(path), verbose=False)


def _best(scores: Any, labels: Sequence[str]) -> dict[str, Any]:
    """The most probable classes of each image, the best one first, and their probabilities."""
    classes = scores.shape[-1]
    best = tf.math.top_k(scores, k=min(TOP, classes))
    names = tf.constant(list(labels))
    return {"labels": tf.gather(names, best.indices), OUTPUT: best.values}
