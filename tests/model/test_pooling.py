"""AdaptiveAveragePooling2D has torch's windows, whatever is known of the input's size, and when.

Nothing here depends on the Keras backend; test_portability.py runs this file on JAX as well.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
from golden.numpy_weights import POOL_CASES, POOL_SEED, pool_arrays, pool_name

from keras_resnet18 import AdaptiveAveragePooling2D

each_case = pytest.mark.parametrize(
    ("size", "output"), POOL_CASES, ids=[pool_name(*case) for case in POOL_CASES]
)


def compiled(function):
    """`function` of image batches of any size, compiled by the Keras backend."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)  # which compiles anew for every size
    import tensorflow as tf

    return tf.function(function, input_signature=[tf.TensorSpec((None, None, None, 3))])


def gradient(function, x, cotangent):
    """Of sum(function(x) · cotangent), by x."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.grad(lambda x: (function(x) * cotangent).sum())(x)
    import tensorflow as tf

    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(function(x) * cotangent)
    return tape.gradient(total, x)


def as_model(output, size):
    """The layer in a functional model for images of `size`, which may be open."""
    image = keras.Input((*size, 3))
    return keras.Model(image, AdaptiveAveragePooling2D(output)(image))


def ways(size, output):
    """Every way in which a map can reach the layer."""
    layer = AdaptiveAveragePooling2D(output)
    return {
        "eager": layer,
        "compiled": compiled(layer),
        "in a model of this size": as_model(output, size),
        "in a model of any size": as_model(output, (None, None)),
    }


@each_case
def test_output_equals_torchs_in_every_way(golden, size, output):
    x, _ = pool_arrays(size, output, POOL_SEED)
    expected = golden[f"pool/{pool_name(size, output)}/out"]
    for way, pool in ways(size, output).items():
        got = keras.ops.convert_to_numpy(pool(x))
        np.testing.assert_allclose(got, expected, atol=2e-6, err_msg=way)


@each_case
def test_gradient_equals_torchs_in_every_way(golden, size, output):
    x, cotangent = pool_arrays(size, output, POOL_SEED)
    expected = golden[f"pool/{pool_name(size, output)}/grad"]
    for way, pool in ways(size, output).items():
        got = keras.ops.convert_to_numpy(gradient(pool, x, cotangent))
        np.testing.assert_allclose(got, expected, atol=2e-6, err_msg=way)


@pytest.mark.parametrize("size", [(7, 10), (None, None), (7, None)])
def test_the_output_size_is_known_even_where_the_inputs_is_not(size):
    assert as_model((3, 4), size).output_shape == (None, 3, 4, 3)


def test_float16_sums_do_not_overflow(set_dtype_policy):
    set_dtype_policy("mixed_float16")
    pooled = AdaptiveAveragePooling2D(1)(np.full((1, 60, 60, 1), 100.0, "float16"))
    assert keras.backend.standardize_dtype(pooled.dtype) == "float16"
    assert float(pooled[0, 0, 0, 0]) == 100  # the sum, 360,000, is beyond float16


def test_a_saved_model_with_the_layer_opens_and_gives_the_same(tmp_path):
    model = as_model((3, 4), (None, None))
    x, _ = pool_arrays((7, 10), (3, 4), POOL_SEED)
    model.save(tmp_path / "pool.keras")
    again = keras.saving.load_model(tmp_path / "pool.keras")
    np.testing.assert_array_equal(again(x), model(x))


@pytest.mark.parametrize("value", [0, 2.5, True, "3", (3,), (3, 1.5)])
def test_other_output_sizes_are_refused_with_the_value_received(value):
    with pytest.raises(ValueError) as error:
        AdaptiveAveragePooling2D(value)
    message = str(error.value)
    assert "positive whole numbers, such as 3 or (3, 3)" in message
    assert f"Received: output_size={value!r}" in message
