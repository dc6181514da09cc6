"""Weights of one network of this package in another."""

from __future__ import annotations

import keras

from keras_resnet18.errors import InputError
from keras_resnet18.weights.layouts import HEAD, own_layers


def copy_weights(model: keras.Model, trained: keras.Model, *, classes_match: bool) -> str:
    """Gives a model the weights of a trained one, layer by layer.

    Args:
        model: The model that receives them.
        trained: A model with layers of the same names and shapes, the head aside.
        classes_match: Whether both heads tell the same classes apart; if not, the head is kept.

    Returns:
        What was done, in words.

    Raises:
        InputError: If a layer is missing or has another shape. The model is unchanged.
    """
    ours, theirs = own_layers(model), own_layers(trained)
    if not classes_match:
        ours.pop(HEAD, None)
        theirs.pop(HEAD, None)
    shapes = [
        {name: [v.shape for v in layer.weights] for name, layer in layers.items()}
        for layers in (ours, theirs)
    ]
    if shapes[0] != shapes[1]:
        names = [n for n in {**ours, **theirs} if shapes[0].get(n) != shapes[1].get(n)]
        raise InputError(
            "a run's weights fit a network of its depth, stem and variant: leave network.* as the "
            f"run has it. Received: other layers at {', '.join(names[:3])}"
        )
    for name, layer in ours.items():
        layer.set_weights(theirs[name].get_weights())
    kept = "with its head" if classes_match else "its head left out: the classes are others"
    return f"{sum(len(layer.weights) for layer in ours.values())} variables, {kept}"
