"""The training twin computes what its model does, on the model's own variables."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_resnet18.errors import InputError
from keras_resnet18.fit import twin as twins
from keras_resnet18.fit.twin import FusedBatchNorm, training_twin

# Rounding of what each policy computes in; sums of gradients are wider.
ROUNDING = {"float32": 1e-5, "mixed_bfloat16": 2**-7, "mixed_float16": 2**-10}


@pytest.fixture(params=ROUNDING)
def rounding(request, set_dtype_policy):
    """Sets a policy, and is its rounding."""
    set_dtype_policy(request.param)
    return ROUNDING[request.param]


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
    """‖values − expected‖ / ‖expected‖ over all arrays; absolute for a small ‖expected‖."""
    ours, theirs = (
        np.concatenate([np.asarray(x, np.float64).ravel() for x in arrays])
        for arrays in (values, expected)
    )
    return np.linalg.norm(ours - theirs) / max(1, np.linalg.norm(theirs))


def training_step(model, twin, inputs):
    """Outputs, gradients and new moving statistics of one step; the variables are put back."""
    before, inputs = model.get_weights(), tf.convert_to_tensor(inputs)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = twin(inputs, training=True)
        weights = np.random.default_rng(1).normal(size=outputs.shape)
        loss = tf.reduce_sum(tf.cast(outputs, tf.float32) * tf.cast(weights, tf.float32))
    gradients = tape.gradient(loss, [inputs, *(v.value for v in model.trainable_variables)])
    statistics = [v.numpy() for v in model.non_trainable_variables if "moving" in v.path]
    model.set_weights(before)
    return [outputs], gradients, statistics


def assert_alike(model, inputs, tolerance, of_statistics=None):
    twin = training_twin(model)
    stock, fast = (training_step(model, m, inputs) for m in (model, twin))
    assert fast[0][0].dtype == stock[0][0].dtype
    for got, expected in zip(fast, stock, strict=True):
        assert distance(got, expected) < tolerance
    assert distance(fast[2], stock[2]) < (of_statistics or tolerance)
    return twin


@pytest.mark.parametrize("settings", [{}, {"scale": False}, {"center": False}])
@pytest.mark.parametrize("shape", [(16, 5, 7), (1, 5, 7), (1, 1, 1)])
def test_a_layer_gives_the_stock_ones_output_gradients_statistics(rounding, settings, shape):
    random = np.random.default_rng(0)
    image = keras.Input((*shape[1:], 4))
    model = keras.Model(image, layers.BatchNormalization(momentum=0.9, **settings)(image))
    for variable in model.variables:
        variable.assign(random.uniform(0.5, 2, variable.shape))
    inputs = tf.cast(random.normal(3, 2, (*shape, 4)), model.layers[-1].compute_dtype)
    twin = assert_alike(model, inputs, 4 * rounding, of_statistics=1e-5)  # which are float32
    assert fused(twin)


def test_a_network_gives_the_models_output_gradients_and_statistics(rounding, images):
    model = small_resnet()
    twin = assert_alike(model, images, 8 * rounding)
    assert len(fused(twin)) == 2
    np.testing.assert_array_equal(twin(images), model(images))  # inference is the stock layer's


def test_the_twin_of_resnet18d_has_its_variables_and_layers_in_their_order(resnet18d):
    twin = training_twin(resnet18d)
    assert len(fused(twin)) == 22
    assert identities(twin.variables) == identities(resnet18d.variables)  # a checkpoint's order
    assert [layer.name for layer in twin.layers] == [layer.name for layer in resnet18d.layers]


def fit(twin, images, labels):
    twin.compile(
        keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
        "sparse_categorical_crossentropy",
        jit_compile=False,
    )
    keras.utils.set_random_seed(1)
    options = {"batch_size": 8, "epochs": 3, "shuffle": False, "verbose": 0}
    history = twin.fit(images, labels, validation_data=(images, labels), **options)
    return history.history


def test_fit_trains_the_model_as_fitting_it_would(set_dtype_policy, images, labels, tmp_path):
    set_dtype_policy("mixed_bfloat16")
    rounding = ROUNDING["mixed_bfloat16"]
    stock, model = small_resnet(dropout=0.2), small_resnet(dropout=0.2)
    twin = training_twin(model)
    config, before = model.to_json(), model.get_weights()
    expected, history = fit(stock, images, labels), fit(twin, images, labels)
    assert len(twin.optimizer.variables) == len(stock.optimizer.variables)
    assert distance(model.get_weights(), stock.get_weights()) < 10 * rounding
    assert distance(model.get_weights(), before) > 0.01
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=20 * rounding)
    model.save(tmp_path / "model.keras")
    assert model.to_json() == config  # stock layers
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(images), twin(images))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("what", ["last_bn", "model"])
def test_what_is_frozen_in_the_model_is_frozen_in_its_twin(when, what, images):
    model = small_resnet()
    frozen = model if what == "model" else model.get_layer(what)
    frozen.trainable = when == "after"
    twin = training_twin(model)
    for trainable in (False, True):
        frozen.trainable = trainable
        assert identities(twin.trainable_variables) == identities(model.trainable_variables)
        stock, fast = (training_step(model, m, images) for m in (model, twin))
        assert distance(fast[0], stock[0]) < 1e-6
        assert distance(fast[2], stock[2]) < 1e-6
        before = frozen.get_weights()
        twin(images, training=True)
        changed = [(a != b).any() for a, b in zip(before, frozen.get_weights(), strict=True)]
        assert any(changed) == trainable


def functional_block():
    image = keras.Input((8, 8, 3))
    return keras.Model(image, layers.BatchNormalization()(layers.ReLU()(image)))


def sequential_block():
    block = keras.Sequential([keras.Input((8, 8, 3)), layers.BatchNormalization(), layers.ReLU()])
    block.compile(loss=lambda labels, outputs: 0.0)  # which no config can hold
    return block


@pytest.mark.parametrize("training", [None, False])
@pytest.mark.parametrize("block", [functional_block, sequential_block])
def test_batch_norm_in_nested_models_is_replaced_too(block, training, images):
    inner, image = block(), keras.Input((8, 8, 3))
    x = inner(layers.Conv2D(3, 3, padding="same")(image), training=training)
    x = inner(layers.BatchNormalization()(x))  # the same weights again
    model = keras.Model(image, layers.Softmax()(layers.GlobalAveragePooling2D()(x)))
    twin = assert_alike(model, images, 1e-4)
    assert len(fused(twin)) == 2
    assert identities(twin.variables) == identities(model.variables)


def test_a_sequential_model_and_a_model_of_several_inputs_have_twins(images):
    assert fused(assert_alike(sequential_block(), images, 1e-5))
    inputs = {name: keras.Input((8, 8, 3), name=name) for name in ("left", "right")}
    x = layers.Add()(list(inputs.values()))
    penalty = keras.regularizers.L2(0.5)
    x = layers.BatchNormalization(gamma_regularizer=penalty)(x)
    model = keras.Model(inputs, {"out": x})
    given, twin = {"left": images, "right": -2 * images}, training_twin(model)
    stock, fast = (m(given, training=True)["out"] for m in (model, twin))
    np.testing.assert_allclose(fast, stock, atol=1e-5)
    assert [float(loss) for loss in twin.losses] == [1.5]  # the penalty counts once


class OwnBatchNorm(layers.BatchNormalization):
    """What a user's class computes is not known."""


@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((8,), layers.BatchNormalization()),
        ((4, 8, 8), layers.BatchNormalization(axis=1)),
        ((8, 8, 3), layers.BatchNormalization(synchronized=True)),
        ((8, 8, 3), layers.BatchNormalization(dtype="float64")),
        ((8, 8, 3), OwnBatchNorm()),
        ((8, 8, 3), layers.ReLU()),
    ],
)
def test_a_model_without_such_a_batch_norm_is_its_own_twin(shape, layer):
    model = keras.Sequential([keras.Input(shape), layer])
    assert training_twin(model) is model


def test_a_compiled_model_stays_compiled_and_where_xla_compiles_it_is_its_own_twin(monkeypatch):
    model = small_resnet()
    model.compile("sgd", loss=lambda labels, outputs: 0.0)
    optimizer = model.optimizer
    assert not training_twin(model).compiled
    assert model.optimizer is optimizer
    monkeypatch.setattr(twins, "fastest_jit", lambda: "auto")
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
    outer = keras.Input((8, 8, 3))
    nested = keras.Model(outer, model(outer))
    assert training_twin(nested) is nested  # a part of this kind stays as it is
    with pytest.raises(InputError, match="built=False"):
        training_twin(keras.Sequential([layers.BatchNormalization()]))
    with pytest.raises(InputError, match="save the model that it was made of"):
        training_twin(small_resnet()).save(tmp_path / "twin.keras")
