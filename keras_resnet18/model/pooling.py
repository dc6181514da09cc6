"""Adaptive average pooling: the output size is given, and the windows follow from the input."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_resnet18.errors import within


@keras.saving.register_keras_serializable(package="keras_resnet18")
class AdaptiveAveragePooling2D(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Averages feature maps of any size to a fixed size.

    Output row i is the mean of the input rows from ⌊i·in/out⌋ to ⌈(i+1)·in/out⌉, exclusive, and
    likewise for columns. These are torch's windows; they overlap where the sizes do not divide.

    The mean is linear, so each axis is one small matrix product. Unlike Keras' own layer, this one
    takes input sizes that are known only at run time. Sums are in float32 under every dtype policy.

    Args:
        output_size: Positive integer, or a tuple (height, width) of two.
        **kwargs: Arguments of every Keras layer, such as `name` and `dtype`.

    Input shape:
        (batch, height, width, channels), height and width known or `None`.

    Output shape:
        (batch, *output_size, channels).

    Raises:
        InputError: For any other output size.
    """

    def __init__(self, output_size: int | tuple[int, int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        allowed = "one or two positive whole numbers, such as 3 or (3, 3)"
        within("output_size", output_size, is_output_size(output_size), allowed)
        size = (output_size,) * 2 if isinstance(output_size, int) else output_size
        self.output_size = (size[0], size[1])

    def call(self, inputs: Any) -> Any:
        height, width = ops.shape(inputs)[1:3]
        rows = _averaging_matrix(height, self.output_size[0])
        columns = _averaging_matrix(width, self.output_size[1])
        x = ops.cast(inputs, "float32")
        x = ops.einsum("ih,nhwc->niwc", rows, x)
        x = ops.einsum("jw,niwc->nijc", columns, x)
        return ops.cast(x, self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], *self.output_size, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "output_size": list(self.output_size)}


def is_output_size(value: Any) -> bool:
    """Whether a value is a positive integer, or a list or tuple of two."""
    sizes = value if isinstance(value, list | tuple) and len(value) == 2 else [value]
    return all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sizes)


def _averaging_matrix(size: Any, output_size: int) -> Any:
    """Float32 matrix of shape (output_size, size) that pools an axis of length `size`.

    `size` is an integer or a scalar tensor.
    """
    i = ops.expand_dims(ops.arange(output_size, dtype="int32"), 1)
    start = i * size // output_size
    end = ((i + 1) * size + output_size - 1) // output_size
    position = ops.expand_dims(ops.arange(size, dtype="int32"), 0)
    inside = ops.logical_and(start <= position, position < end)
    return ops.cast(inside, "float32") / ops.cast(end - start, "float32")
