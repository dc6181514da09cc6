"""The training twin computes what its model does, on the model's own variables."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_resnet18 import build_resnet18
from keras_resnet18.errors import InputError
from keras_resnet18.fit import twin as twins
from keras_resnet18.fit.twin import FusedBatchNorm, training_twin

# Rounding of what each policy computes in; sums of gradients are wider.
ROUNDING = {"float32": 1e-5, "mixed_bfloat16": 2**-7, "mixed_float16": 2**-10}


@pytest.fixture(params=ROUNDING)
def policy(request, set_dtype_policy):
    set_dtype_policy(request.param)
    return request.param


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(3, 2, (16, 8, 8, 3)).astype(np.float32)


@pytest.fixture
def labels():
    return np.arange(16) % 4


def small_resnet(*, dropout=0.0):
    """A residual block between a stem and a classifier."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, use_bias=False)(image)
    x = stem = layers.ReLU()(layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name="last_bn")(x)
    x = layers.ReLU()(layers.Add()([x, stem]))
    x = layers.GlobalAveragePooling2D(dtype="float32")(x)
    x = layers.Dropout(dropout, seed=1)(x)
    return keras.Model(
        image, layers.Dense(4, activation="softmax", dtype="float32", name="predictions")(x)
    )


def fused(twin):
    return [layer.name for layer in twin._flatten_layers() if isinstance(layer, FusedBatchNorm)]


def identities(variables):
    return [id(variable) for variable in variables]


def distance(values, expected):
    """‖values − expected‖ / ‖expected‖ over all arrays."""
    pairs = [
        (np.asarray(a, np.float64), np.asarray(b, np.float64))
        for a, b in zip(values, expected, strict=True)
    ]
    return np.sqrt(
        sum(((a - b) ** 2).sum() for a, b in pairs) / sum((b**2).sum() for _, b in pairs)
    )


def training_step(model, twin, images, labels):
    """Output, loss, gradients and new moving statistics of one step; the variables are put back."""
    before = model.get_weights()

    def step():
        with tf.GradientTape() as tape:
            outputs = twin(images, training=True)
            loss = keras.losses.sparse_categorical_crossentropy(labels, outputs)
        return outputs, loss, tape.gradient(loss, [v.value for v in model.trainable_variables])

    outputs, loss, gradients = step()
    statistics = [v.numpy() for v in model.non_trainable_variables if "moving" in v.path]
    model.set_weights(before)
    return [outputs], [loss], gradients, statistics


@pytest.mark.parametrize("settings", [{}, {"scale": False}, {"center": False}])
@pytest.mark.parametrize("shape", [(16, 5, 7), (1, 5, 7), (1, 1, 1)])
def test_one_layer_gives_the_stock_layers_output_gradients_and_statistics(policy, settings, shape):
    rounding = ROUNDING[policy]
    random = np.random.default_rng(0)
    image = keras.Input((*shape[1:], 4))
    model = keras.Model(image, layers.BatchNormalization(momentum=0.9, **settings)(image))
    for variable in model.variables:
        variable.assign(random.uniform(0.5, 2, variable.shape))
    inputs = tf.cast(random.normal(3, 2, (*shape, 4)), model.layers[-1].compute_dtype)
    weights = tf.constant(random.normal(size=inputs.shape), tf.float32)

    def step(layer):
        before = model.get_weights()
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=True)
            loss = tf.reduce_sum(tf.cast(outputs, tf.float32) * weights)
        gradients = tape.gradient(loss, [inputs, *(v.value for v in model.trainable_variables)])
        after = model.get_weights()
        model.set_weights(before)
        return outputs, gradients, after

    stock, twin = step(model), step(training_twin(model))
    assert fused(training_twin(model))
    assert twin[0].dtype == stock[0].dtype
    np.testing.assert_allclose(
        *(np.float32(s[0]) for s in (twin, stock)), rtol=0, atol=4 * rounding
    )
    for got, expected in zip(twin[1], stock[1], strict=True):
        tolerance = 4 * rounding * max(1, np.abs(np.float32(expected)).max())
        np.testing.assert_allclose(np.float32(got), np.float32(expected), rtol=0, atol=tolerance)
    for got, expected in zip(twin[2], stock[2], strict=True):  # both kept in float32
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_a_network_gives_the_models_output_gradients_and_statistics(policy, images, labels):
    model = small_resnet()
    twin = training_twin(model)
    assert len(fused(twin)) == 2
    stock, fast = (training_step(model, m, images, labels) for m in (model, twin))
    for got, expected in zip(fast, stock, strict=True):
        assert distance(got, expected) < 8 * ROUNDING[policy]
    np.testing.assert_array_equal(twin(images), model(images))  # inference is the stock layer's


def test_resnet18d_is_as_near_to_float64_as_its_model(set_dtype_policy):
    images = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    step = functools.partial(training_step, images=images, labels=np.arange(8))
    keras.utils.set_random_seed(0)
    model = build_resnet18(input_shape=(64, 64, 3), classes=10, variant="d")
    weights = model.get_weights()
    exact = keras.models.clone_model(model, clone_function=_in_float64)
    exact.set_weights(weights)
    expected = step(exact, exact)[2]
    set_dtype_policy("mixed_bfloat16")
    model = build_resnet18(input_shape=(64, 64, 3), classes=10, variant="d")
    model.set_weights(weights)
    twin = training_twin(model)
    assert len(fused(twin)) == 22
    assert identities(twin.variables) == identities(model.variables)  # a checkpoint's order
    assert [layer.name for layer in twin.layers] == [layer.name for layer in model.layers]
    stock, fast = (distance(step(model, m)[2], expected) for m in (model, twin))
    assert fast < 1.2 * stock


def _in_float64(layer):
    return type(layer).from_config({**layer.get_config(), "dtype": "float64"})


def fit(model, twin, images, labels):
    twin.compile(
        keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,
    )
    keras.utils.set_random_seed(1)
    data = (images, labels)
    history = twin.fit(
        *data, batch_size=8, epochs=3, shuffle=False, validation_data=data, verbose=0
    )
    return history.history, model.get_weights(), len(twin.optimizer.variables)


def test_fit_trains_the_model_as_fitting_it_would(set_dtype_policy, images, labels, tmp_path):
    set_dtype_policy("mixed_bfloat16")
    rounding = ROUNDING["mixed_bfloat16"]
    stock, model = small_resnet(dropout=0.2), small_resnet(dropout=0.2)
    twin = training_twin(model)
    config, before = model.to_json(), model.get_weights()
    expected, weights, optimizer_variables = fit(stock, stock, images, labels)
    history, trained, count = fit(model, twin, images, labels)
    assert count == optimizer_variables
    assert distance(trained, weights) < 10 * rounding
    for name, values in expected.items():
        if "loss" in name:
            np.testing.assert_allclose(history[name], values, rtol=20 * rounding)
    assert distance(trained, before) > 0.01

    model.save(tmp_path / "model.keras")
    assert model.to_json() == config  # stock layers
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(images), twin(images))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("what", ["last_bn", "model"])
def test_what_is_frozen_in_the_model_is_frozen_in_its_twin(when, what, images, labels):
    model = small_resnet()
    frozen = model if what == "model" else model.get_layer(what)
    frozen.trainable = when == "after"
    twin = training_twin(model)
    frozen.trainable = False
    assert identities(twin.trainable_variables) == identities(model.trainable_variables)
    stock, fast = (training_step(model, m, images, labels) for m in (model, twin))
    if what == "model":
        np.testing.assert_array_equal(fast[0], stock[0])
    else:
        assert distance(fast[0], stock[0]) < 1e-6
        assert distance(fast[3], stock[3]) < 1e-6
    for old, new in zip(frozen.get_weights(), _after_step(twin, frozen, images), strict=True):
        np.testing.assert_array_equal(new, old)

    frozen.trainable = True
    assert identities(twin.trainable_variables) == identities(model.trainable_variables)
    before = frozen.get_weights()
    assert any(
        (a != b).any() for a, b in zip(before, _after_step(twin, frozen, images), strict=True)
    )


def _after_step(twin, layer, images):
    twin(images, training=True)
    return layer.get_weights()


def nested(inner, *, training=None):
    image = keras.Input((8, 8, 3))
    x = inner(layers.Conv2D(3, 3, padding="same")(image), training=training)
    x = layers.BatchNormalization()(x)
    x = inner(x)  # the same weights again
    return keras.Model(image, layers.Softmax()(layers.GlobalAveragePooling2D()(x)))


def functional_block():
    image = keras.Input((8, 8, 3))
    return keras.Model(image, layers.BatchNormalization()(layers.ReLU()(image)))


def sequential_block():
    block = keras.Sequential([keras.Input((8, 8, 3)), layers.BatchNormalization(), layers.ReLU()])
    block.compile(loss=lambda labels, outputs: 0.0)  # which no config can hold
    return block


@pytest.mark.parametrize(
    ("block", "training"),
    [(functional_block, None), (sequential_block, None), (functional_block, False)],
)
def test_batch_norm_in_nested_models_is_replaced_too(block, training, images, labels):
    model = nested(block(), training=training)
    twin = training_twin(model)
    assert len(fused(twin)) == 2
    assert identities(twin.variables) == identities(model.variables)
    stock, fast = (training_step(model, m, images, labels % 3) for m in (model, twin))
    for got, expected in zip(fast, stock, strict=True):
        assert distance(got, expected) < 1e-4


def test_a_sequential_model_and_a_model_of_several_inputs_have_twins(images):
    model = sequential_block()
    np.testing.assert_allclose(
        training_twin(model)(images, training=True), model(images, training=True), atol=1e-5
    )
    inputs = {name: keras.Input((8, 8, 3), name=name) for name in ("left", "right")}
    x = layers.Add()(list(inputs.values()))
    model = keras.Model(inputs, {"out": layers.BatchNormalization()(x)})
    given = {"left": images, "right": -2 * images}
    stock, fast = (m(given, training=True)["out"] for m in (model, training_twin(model)))
    np.testing.assert_allclose(fast, stock, atol=1e-5)


def test_penalties_on_gamma_and_beta_count_once():
    image = keras.Input((8, 8, 3))
    penalty = keras.regularizers.L2(0.5)
    model = keras.Model(image, layers.BatchNormalization(gamma_regularizer=penalty)(image))
    assert [float(loss) for loss in training_twin(model).losses] == [1.5]


class OwnBatchNorm(layers.BatchNormalization):
    """What a user's class computes is not known."""


@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((8,), layers.BatchNormalization()),
        ((8, 8), layers.BatchNormalization()),
        ((4, 8, 8), layers.BatchNormalization(axis=1)),
        ((8, 8, 3), layers.BatchNormalization(renorm=True)),
        ((8, 8, 3), layers.BatchNormalization(synchronized=True)),
        ((8, 8, 3), layers.BatchNormalization(dtype="float64")),
        ((8, 8, 3), layers.BatchNormalization(activity_regularizer="l2")),
        ((8, 8, 3), OwnBatchNorm()),
        ((8, 8, 3), layers.ReLU()),
    ],
)
def test_a_model_without_such_a_batch_norm_is_its_own_twin(shape, layer):
    model = keras.Sequential([keras.Input(shape), layer])
    assert training_twin(model) is model


def test_pixels_that_are_whole_numbers_are_left_to_the_stock_layer(images):
    image = keras.Input((8, 8, 3), dtype="uint8")
    model = keras.Model(image, layers.BatchNormalization()(image))
    pixels = np.clip(images, 0, 255).astype(np.uint8)
    np.testing.assert_allclose(
        training_twin(model)(pixels, training=True), model(pixels, training=True), atol=1e-6
    )


def test_a_compiled_model_stays_compiled_and_its_twin_is_not(monkeypatch):
    model = small_resnet()
    model.compile("sgd", loss=lambda labels, outputs: 0.0)
    optimizer = model.optimizer
    twin = training_twin(model)
    assert not twin.compiled
    assert model.optimizer is optimizer
    monkeypatch.setattr(twins, "fastest_jit", lambda: "auto")  # where Keras compiles with XLA
    assert training_twin(model) is model


class Subclassed(keras.Model):
    """Its own training step, which a clone of its layers would not have."""

    def train_step(self, data):
        return {}


def test_a_model_of_ones_own_class_one_not_built_and_a_saved_twin_are_refused(tmp_path):
    image = keras.Input((8, 8, 3))
    model = Subclassed(image, layers.BatchNormalization()(image))
    with pytest.raises(InputError, match=r"functional or Sequential.*Subclassed"):
        training_twin(model)
    with pytest.raises(InputError, match="built=False"):
        training_twin(keras.Sequential([layers.BatchNormalization()]))
    with pytest.raises(InputError, match="save the model that it was made of"):
        training_twin(small_resnet()).save(tmp_path / "twin.keras")
    outer = keras.Input((8, 8, 3))
    nested = keras.Model(outer, model(outer))
    assert training_twin(nested) is nested  # a part of this kind stays as it is
