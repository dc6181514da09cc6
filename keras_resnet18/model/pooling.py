"""Adaptive average pooling: you give the output size, the windows follow from the input."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_resnet18.errors import InputError


@keras.saving.register_keras_serializable(package="keras_resnet18")
class AdaptiveAveragePooling2D(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Averages a feature map of any size down, or up, to a fixed size.

    Output row i is the mean of the input rows from ⌊i·in/out⌋ up to ⌈(i+1)·in/out⌉, exclusive, and
    likewise for columns: torch's windows, exact where the sizes do not divide (they then overlap).

    Such a mean is linear, so each axis is one small matrix product. It works for input sizes known
    only at run time, which Keras' own layer refuses. The sums are made in float32, under every
    dtype policy.

    Args:
        output_size: One positive whole number, or two: (height, width).
        **kwargs: As for every Keras layer: `name`, `dtype`, …

    Input shape:
        (batch, height, width, channels), height and width known or `None`.

    Output shape:
        (batch, *output_size, channels).

    Raises:
        InputError: For any other output size.
    """

    def __init__(self, output_size: int | tuple[int, int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.output_size = as_output_size(output_size)

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


def as_output_size(value: Any) -> tuple[int, int]:
    """`value` as (height, width), if it is an output size.

    Raises:
        InputError: If it is not.
    """
    size = (value, value) if isinstance(value, int) else value
    if (
        not isinstance(size, list | tuple)
        or len(size) != 2
        or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in size)
    ):
        raise InputError(
            "output_size must be one or two positive whole numbers, such as 3 or (3, 3). "
            f"Received: output_size={value!r}"
        )
    return tuple(size)


def _averaging_matrix(size: Any, output_size: int) -> Any:
    """The matrix, float32 of shape (output_size, size), whose product with an axis pools it.

    `size` may be a number or a scalar tensor.
    """
    i = ops.expand_dims(ops.arange(output_size, dtype="int32"), 1)
    start = i * size // output_size
    end = ((i + 1) * size + output_size - 1) // output_size
    position = ops.expand_dims(ops.arange(size, dtype="int32"), 0)
    inside = ops.logical_and(start <= position, position < end)
    return ops.cast(inside, "float32") / ops.cast(end - start, "float32")
