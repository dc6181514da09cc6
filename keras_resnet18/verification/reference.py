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

    Raises:
        InputError: If a layer cannot be made again from its config.
    """
    if all(layer.compute_dtype == "float32" for layer in leaves(model)):
        return model
    twin = keras.models.clone_model(model, clone_function=_in_float32, recursive=True)
    twin.set_weights(model.get_weights())
    return twin


def _in_float32(layer: keras.layers.Layer) -> keras.layers.Layer:
    if isinstance(layer, keras.layers.Lambda):  # Keras does not load its function from a config
        arguments = (layer.function, layer._output_shape, layer.mask, layer.arguments)
        return keras.layers.Lambda(*arguments, name=layer.name, dtype="float32")
    try:
        return type(layer).from_config({**layer.get_config(), "dtype": "float32"})
    except Exception as error:  # whatever a user's layer raises
        reason = next(iter(str(error).split("\n")), "") or type(error).__name__
        raise InputError(
            "a model of another precision than float32 is exported from a float32 copy, so each "
            "layer needs get_config and from_config. "
            f"Received: {type(layer).__name__} {layer.name!r} ({reason}): define them, or build "
            "the model in float32"
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
