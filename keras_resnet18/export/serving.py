"""Raw pixels in, named probabilities out: the one graph that every format is made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_resnet18.errors import InputError

# The names that every exported file gives its input and its output.
INPUT, OUTPUT = "image", "probabilities"


def check_model(model: keras.Model, labels: Sequence[str] | None) -> None:
    """Raises InputError unless `model` is an image classifier and `labels` are its classes."""
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
    if labels is None:
        return
    classes = model.output_shape[1]
    if isinstance(labels, str) or len(labels) != classes:
        raise InputError(
            f"labels must be {classes} names, one for each class in the order of the model's "
            f"output. Received: {'one string' if isinstance(labels, str) else len(labels)}"
        )
    for label in labels:
        if not isinstance(label, str) or label.splitlines() != [label]:
            raise InputError(f"labels must be non-empty, one-line strings. Received: {label!r}")


def float32_twin(model: keras.Model) -> keras.Model:
    """The same network computing in float32, with the same weights; `model` itself if it does.

    LiteRT has no kernels for what a mixed-precision graph does, and its weights are float32 anyway.
    """
    if all(layer.compute_dtype == "float32" for layer in leaves(model)):
        return model

    def in_float32(layer: keras.layers.Layer) -> keras.layers.Layer:
        return type(layer).from_config({**layer.get_config(), "dtype": "float32"})

    twin = keras.models.clone_model(model, clone_function=in_float32, recursive=True)
    twin.set_weights(model.get_weights())
    return twin


def probabilities(model: keras.Model, pixels: Any) -> Any:
    """The model's probabilities, float32 (batch, classes), for pixels of 0–255 of any dtype."""
    scores = model(tf.cast(pixels, model.inputs[0].dtype), training=False)
    scores = tf.cast(scores, tf.float32)
    return tf.nn.softmax(scores) if _is_linear(model.outputs[0]) else scores


def write_saved_model(
    model: keras.Model,
    path: Path,
    *,
    batch_size: int | None = None,
    dtype: str = "uint8",
    labels: Sequence[str] | None = None,
) -> None:
    """Writes the serving graph of a float32 model as a SavedModel.

    Its signature `serving_default` takes `image`, (batch_size, height, width, channels) of `dtype`
    with values of 0 to 255, and returns `probabilities`, float32 (batch_size, classes). With labels
    a second signature, `labels`, takes nothing and returns them: `labels`, strings (classes,).
    """
    # No archive.track(model): an endpoint's variables are tracked anyway, and would be saved twice.
    archive = keras.export.ExportArchive()
    shape = (batch_size, *model.input_shape[1:])
    archive.add_endpoint(
        "serving_default",
        lambda image: {OUTPUT: probabilities(model, image)},
        input_signature=[tf.TensorSpec(shape, dtype, name=INPUT)],
    )
    if labels is not None:
        names = tf.constant(list(labels))
        archive.add_endpoint("labels", lambda: {"labels": tf.identity(names)}, input_signature=[])
    archive.write_out(str(path), verbose=False)


def predictor(model: keras.Model) -> Callable[[Any], Any]:
    """A compiled function from pixels (batch, height, width, channels) to probabilities, NumPy."""
    function = tf.function(lambda pixels: probabilities(model, pixels), reduce_retracing=True)
    return lambda pixels: function(tf.convert_to_tensor(pixels)).numpy()


def leaves(model: keras.Model) -> list[keras.layers.Layer]:
    """The model's layers, and those of the models inside it."""
    return [layer for layer in model._flatten_layers() if not isinstance(layer, keras.Model)]


def _is_linear(output: keras.KerasTensor) -> bool:
    """Whether a model's output is logits, as with `classifier_activation=None`."""
    last, node, _ = output._keras_history
    if isinstance(last, keras.Model):
        return _is_linear(last.outputs[0])
    linear = getattr(last, "activation", None) is keras.activations.linear
    if linear and isinstance(last, keras.layers.Activation):
        # only a cast to float32, as Keras' guide to mixed precision has it after a softmax
        return _is_linear(last._inbound_nodes[node].input_tensors[0])
    return linear
