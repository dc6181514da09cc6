"""Training twin: a model with the same variables whose BatchNorm uses TensorFlow's fused op.

Keras' BatchNormalization casts to float32, takes moments, scales, shifts and casts back in separate
passes over memory. XLA fuses them; TensorFlow without XLA does not.
training/benchmarks/train_step.py measures the difference.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_resnet18.errors import InputError
from keras_resnet18.machine import fastest_jit


def training_twin(model: keras.Model) -> keras.Model:
    """Return a model that trains the variables of `model` faster, with fused BatchNorm.

        twin = kr.training_twin(model)
        twin.compile("sgd", "sparse_categorical_crossentropy")
        twin.fit(images, labels)
        model.save("model.keras")  # the trained weights, in stock Keras layers

    Outputs, gradients and moving statistics equal those of `model` up to rounding. All other layers
    are shared, so freezing layers of `model`, also BatchNorm, freezes them in the twin; as usual in
    Keras, compile it afterwards.

    Only BatchNorm of images (4 dimensions, channels last) is replaced, also in nested models, but
    not inside subclassed models.

    Args:
        model: A built functional or Sequential model, compiled or not. It is not changed.

    Returns:
        The uncompiled twin, with the same layer names; or `model` itself where a twin would not be
        faster: on JAX or PyTorch, on a GPU or TPU, where Keras compiles with XLA, and without such
        a BatchNorm.

    Raises:
        InputError: If the model is subclassed, or not built.
    """
    if fastest_jit():
        return model
    if not _is_graph(model) or not model.built:
        raise InputError(
            "a training twin needs a functional or Sequential model that is built. "
            f"Received: {type(model).__name__}, built={getattr(model, 'built', False)}"
        )
    return _twin(model)


class FusedBatchNorm(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Trains the variables of a stock BatchNormalization with TensorFlow's fused op.

    The stock layer itself computes everything but training steps.
    """

    def __init__(self, stock: keras.layers.BatchNormalization) -> None:
        super().__init__(name=stock.name, dtype=stock.dtype_policy, autocast=stock.autocast)
        self.stock = stock
        self.supports_masking = True
        self.built = True

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        stock = self.stock
        if (
            not training
            or not stock.trainable
            or mask is not None
            or keras.backend.standardize_dtype(inputs.dtype) != self.compute_dtype
        ):
            return stock.call(inputs, training=training, mask=mask)
        import tensorflow as tf

        channels = stock.moving_mean.shape
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs,
            ops.cast(stock.gamma, "float32") if stock.scale else tf.ones(channels),
            ops.cast(stock.beta, "float32") if stock.center else tf.zeros(channels),
            epsilon=stock.epsilon,
            is_training=True,
        )
        # the op divides the sum of squares by n - 1 (by 1 where n is 1), Keras by n
        count = tf.cast(tf.size(inputs) // channels[0], "float32")
        _move(stock.moving_mean, mean, stock.momentum)
        _move(stock.moving_variance, variance * ((count - 1) / count), stock.momentum)
        return outputs

    def get_config(self) -> dict[str, Any]:
        raise InputError(
            "a training twin is not saved: save the model that it was made of, which has the "
            f"same variables. Received: {type(self).__name__} {self.name!r}"
        )


def _move(average: keras.Variable, value: Any, momentum: float) -> None:
    before = ops.cast(average, "float32")
    average.assign(before * momentum + value * (1.0 - momentum))


def _twin(model: keras.Model) -> keras.Model:
    """Twin of a functional or Sequential model; the model itself if it has no BatchNorm."""
    replaced = {
        id(layer): _twin(layer) if _is_graph(layer) else FusedBatchNorm(layer)
        for layer in model.layers
        if _is_graph(layer) or _is_fusable(layer)
    }
    if all(replaced.get(id(layer), layer) is layer for layer in model.layers):
        return model
    # clone_model compiles the clone of a compiled model, with an optimizer of its own
    if isinstance(model, keras.Sequential):  # in another model, `input` is that model's tensor
        uncompiled = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    else:
        uncompiled = keras.Model(model.input, model.output, name=model.name)
    return keras.models.clone_model(
        uncompiled, clone_function=lambda layer: replaced.get(id(layer), layer)
    )


def _is_graph(layer: keras.layers.Layer) -> bool:
    """Whether a layer is a functional or Sequential model, not a user's subclass of one."""
    return isinstance(layer, keras.Model) and type(layer).__module__.startswith("keras.")


def _is_fusable(layer: keras.layers.Layer) -> bool:
    return (
        type(layer) is keras.layers.BatchNormalization
        and layer.input_spec.ndim == 4
        and layer.axis in (-1, 3)
        and layer.compute_dtype in ("float32", "bfloat16", "float16")
        and not (layer.renorm or layer.synchronized or layer.activity_regularizer)
    )


# Copies of a network on one device; with a distribution Keras keeps every weight on all devices.


@contextlib.contextmanager
def on_one_device() -> Iterator[None]:
    """Suspend Keras' distribution: models built inside stay on this process's first device."""
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


def replica(model: keras.Model) -> keras.Model:
    """Build a copy of a model with random weights; call it inside `on_one_device`."""
    # clone_model would compile the clone of a compiled model
    uncompiled = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return keras.models.clone_model(uncompiled)


def alone(model: keras.Model) -> keras.Model:
    """Return the model, or a copy on one device if Keras' distribution shares it.

    A single process can neither read nor run a model that several processes share.
    """
    if keras.distribution.distribution() is None:
        return model
    with on_one_device():
        copy = replica(model)
        copy.set_weights(model.get_weights())
    return copy
