"""A model's own answers, in float32: what an exported file is compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_resnet18.errors import InputError
from keras_resnet18.formats import OUTPUT

# An endpoint and its output, and the layer that gives it, as our builders name it.
FEATURES, _POOL = "features", "head_pool"


def float32_twin(model: keras.Model) -> keras.Model:
    """The same network computing in float32, with the same weights; `model` itself if it does.

    LiteRT has no kernels for what a mixed-precision graph does, and its weights are float32 anyway.
    """
    if all(layer.compute_dtype == "float32" for layer in leaves(model)):
        return model

    def in_float32(layer: keras.layers.Layer) -> keras.layers.Layer:
        return copy_layer(layer, dtype="float32")

    twin = keras.models.clone_model(model, clone_function=in_float32, recursive=True)
    twin.set_weights(model.get_weights())
    return twin


def copy_layer(layer: keras.layers.Layer, **changes: Any) -> keras.layers.Layer:
    """A new layer with the config of another, changed in some values.

    Raises:
        InputError: If it cannot be made, as of a Lambda, or of a layer without `get_config`.
    """
    try:
        return type(layer).from_config({**layer.get_config(), **changes})
    except Exception as error:  # what a user's layer raises
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            "this export copies the model layer by layer, so each layer needs a get_config that "
            "its from_config takes; a model built in float32 needs no copy as SavedModel, float32 "
            f".tflite or .onnx. Received: the {type(layer).__name__} {layer.name!r} ({reason})"
        ) from error


def probabilities(model: keras.Model, pixels: Any) -> Any:
    """The model's probabilities, float32 (batch, classes), for pixels of 0–255 of any dtype."""
    scores = model(tf.cast(pixels, model.inputs[0].dtype), training=False)
    return _as_probabilities(scores, model)


def answering(model: keras.Model) -> Callable[[Any], dict[str, Any]]:
    """A function from pixels, as of `probabilities`, to all that the model tells about them.

    It gives `probabilities`, and of a model with a layer `head_pool` that layer's output, float32,
    as `features`.
    """
    if _POOL not in {layer.name for layer in model.layers}:
        return lambda pixels: {OUTPUT: probabilities(model, pixels)}
    both = keras.Model(model.inputs[0], [model.outputs[0], model.get_layer(_POOL).output])

    def answers(pixels: Any) -> dict[str, Any]:
        scores, pooled = both(tf.cast(pixels, model.inputs[0].dtype), training=False)
        return {OUTPUT: _as_probabilities(scores, model), FEATURES: tf.cast(pooled, tf.float32)}

    return answers


def _as_probabilities(scores: Any, model: keras.Model) -> Any:
    scores = tf.cast(scores, tf.float32)
    return tf.nn.softmax(scores) if _is_linear(model.outputs[0]) else scores


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
