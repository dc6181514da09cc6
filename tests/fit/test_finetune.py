"""A network in two parts is the same network; BatchNorm can be left as it was."""

from __future__ import annotations

import contextlib

import keras
import numpy as np
import pytest
from small import build_tiny

from keras_resnet18 import build_resnet18
from keras_resnet18.fit.network import frozen_batch_norm, head_recipe, split_head
from keras_resnet18.fit.phases import compile_model, fit_model
from keras_resnet18.recipe import Augment, Finetune, Optimizer, Recipe


@pytest.fixture
def network():
    return build_tiny(input_shape=(16, 16, 3), classes=3, stem="", dropout=0.5)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)


def test_body_and_head_are_the_network(network, images):
    body, head = split_head(network)
    features = body.predict_on_batch(images)
    assert features.shape == (4, 14 * 14 * 8)
    np.testing.assert_allclose(
        head.predict_on_batch(features), network.predict_on_batch(images), rtol=1e-5, atol=1e-7
    )
    assert [layer.name for layer in head.layers[1:]] == ["head_dropout", "predictions"]


def test_a_network_that_was_split_is_saved_as_before(network, images, tmp_path):
    before = network.to_json()
    split_head(network)
    assert network.to_json() == before
    network.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict_on_batch(images), network.predict_on_batch(images))


def test_what_the_head_learns_the_network_knows(network):
    body, head = split_head(network)
    before = [weight.numpy() for weight in body.weights]
    features = np.zeros((24, 14 * 14 * 8), np.float32)
    features[np.arange(24), np.arange(24) % 3] = 1
    batches = _batches(features, np.arange(24) % 3, 8)
    recipe = head_recipe(Recipe(), Finetune(head_epochs=5, head_learning_rate=0.1))
    compile_model(head, recipe, steps_per_epoch=3)
    fit_model(head, batches.repeat(), batches, steps_per_epoch=3, epochs=(0, 5))
    kernel, _ = network.get_layer("predictions").get_weights()
    assert np.argmax(kernel[:3], axis=1).tolist() == [0, 1, 2]
    for weight, old in zip(body.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)


@pytest.mark.parametrize("frozen", [True, False])
def test_batch_norm_keeps_every_bit_while_it_is_frozen(network, images, frozen):
    model = network
    kernel = model.get_layer("stem_conv").kernel.numpy()
    values = _batch_norm(model)
    batches = _batches(images, np.arange(4) % 3, 2)
    recipe = Recipe(epochs=1, optimizer=Optimizer(learning_rate=0.01, warmup_epochs=0))
    with frozen_batch_norm(model) if frozen else contextlib.nullcontext():
        compile_model(model, recipe, steps_per_epoch=2)
        fit_model(model, batches.repeat(), batches, steps_per_epoch=2, epochs=(0, 1))
    assert np.array_equal(values, _batch_norm(model)) == frozen
    assert not np.array_equal(kernel, model.get_layer("stem_conv").kernel)
    assert all(layer.trainable for layer in model.layers)


def test_a_frozen_body_is_bit_unchanged_by_a_plain_keras_training(images):
    model = build_resnet18(input_shape=(16, 16, 3), classes=3, stem="small_stride2")
    for layer in model.layers[:-1]:
        layer.trainable = False
    body = [weight.numpy() for layer in model.layers[:-1] for weight in layer.weights]
    head = model.layers[-1].kernel.numpy()
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(images, np.arange(4) % 3, epochs=1, verbose=0)
    after = [weight.numpy() for layer in model.layers[:-1] for weight in layer.weights]
    assert all(np.array_equal(a, b) for a, b in zip(body, after, strict=True))
    assert not np.array_equal(head, model.layers[-1].kernel)


def test_the_heads_recipe_is_the_trainings_but_for_its_optimizer():
    recipe = Recipe(epochs=9, seed=3, optimizer=Optimizer(label_smoothing=0.2), augment=Augment())
    head = head_recipe(recipe, Finetune(head_epochs=4, head_learning_rate=0.1))
    assert (head.epochs, head.seed, head.batch_size) == (4, 3, recipe.batch_size)
    assert (head.optimizer.name, head.optimizer.learning_rate) == ("adamw", 0.1)
    assert head.optimizer.label_smoothing == 0.2


def _batch_norm(model):
    return np.concatenate(
        [
            weight.numpy()
            for layer in model.layers
            if isinstance(layer, keras.layers.BatchNormalization)
            for weight in layer.weights
        ]
    )


def _batches(values, labels, size):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((values, labels)).batch(size)
