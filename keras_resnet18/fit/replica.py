"""A network of its own for one device, where Keras keeps every weight on all devices."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def on_one_device() -> Iterator[None]:
    """Keeps what is made inside on this process's first device; without distribution as ever."""
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


def replica(model: keras.Model) -> keras.Model:
    """A model with the same layers, to be used inside `on_one_device`; its weights are random."""
    # clone_model would compile the clone of a compiled model, by names of functions
    uncompiled = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return keras.models.clone_model(uncompiled)


def alone(model: keras.Model) -> keras.Model:
    """The model for this process alone, after the training of all: itself, or a copy of it.

    What several processes hold together, one of them can neither read nor run by itself.
    """
    if keras.distribution.distribution() is None:
        return model
    with on_one_device():
        copy = replica(model)
        copy.set_weights(model.get_weights())
    return copy
