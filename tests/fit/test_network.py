"""A network in two parts is the same network; BatchNorm can be frozen; the head is calibrated."""

from __future__ import annotations

import contextlib

import keras
import numpy as np
import pytest
from rich.console import Console
from small import build_tiny

from keras_resnet18.classify.calibration import calibrate
from keras_resnet18.data.sources import from_arrays
from keras_resnet18.fit.network import divide_logits, frozen_batch_norm, logits_of, split_head
from keras_resnet18.fit.phases import compile_model, fit, head_recipe
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.recipe import Finetune, Optimizer, Recipe
from keras_resnet18.run import Run, open_model


@pytest.fixture
def network():
    return build_tiny(input_shape=(16, 16, 3), classes=3, stem="", dropout=0.5)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)


def test_body_and_head_are_the_network_which_is_saved_as_before(network, images, tmp_path):
    before = network.to_json()
    body, head = split_head(network)
    features = body.predict_on_batch(images)
    assert features.shape == (4, 14 * 14 * 8)
    probabilities = network.predict_on_batch(images)
    np.testing.assert_allclose(head.predict_on_batch(features), probabilities, rtol=1e-5, atol=1e-7)
    assert [layer.name for layer in head.layers[1:]] == ["head_dropout", "predictions"]
    assert network.to_json() == before
    network.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict_on_batch(images), probabilities)


def test_what_the_head_learns_the_network_knows(network):
    body, head = split_head(network)
    before = [weight.numpy() for weight in body.weights]
    features = np.zeros((24, 14 * 14 * 8), np.float32)
    features[np.arange(24), np.arange(24) % 3] = 1
    batches = _batches(features, np.arange(24) % 3, 8)
    recipe = head_recipe(Recipe(), Finetune(head_epochs=5, head_learning_rate=0.1))
    compile_model(head, recipe, steps_per_epoch=3)
    fit(head, (batches.repeat(), batches), 3, (0, 5))
    kernel, _ = network.get_layer("predictions").get_weights()
    assert np.argmax(kernel[:3], axis=1).tolist() == [0, 1, 2]
    for weight, old in zip(body.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)


@pytest.mark.parametrize("frozen", [True, False])
def test_batch_norm_keeps_every_bit_while_it_is_frozen(network, images, frozen):
    kernel, batch_norm = (network.get_layer(f"stem_{name}") for name in ("conv", "bn"))
    before = kernel.get_weights()[0], np.concatenate(batch_norm.get_weights())
    batches = _batches(images, np.arange(4) % 3, 2)
    recipe = Recipe(epochs=1, optimizer=Optimizer(learning_rate=0.01, warmup_epochs=0))
    with frozen_batch_norm(network) if frozen else contextlib.nullcontext():
        compile_model(network, recipe, steps_per_epoch=2)
        fit(network, (batches.repeat(), batches), 2, (0, 1))
    assert np.array_equal(before[1], np.concatenate(batch_norm.get_weights())) == frozen
    assert not np.array_equal(before[0], kernel.get_weights()[0])
    assert all(layer.trainable for layer in network.layers)


def _batches(values, labels, size):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((values, labels)).batch(size)


def test_the_head_is_divided_by_the_temperature_and_no_class_changes(digits, tmp_path):
    pixels, labels = (values[:150] for values in digits)
    split = from_arrays(pixels, labels, validation=(pixels, labels)).splits["validation"]
    model = build_tiny(input_shape=(32, 32, 3), classes=10, stem="", dropout=0)
    before, then = model.get_weights(), model.predict_on_batch(pixels)
    preprocess, run = Preprocess(size=(32, 32)), Run(tmp_path)
    found = calibrate(*logits_of(model, split, preprocess, Console(quiet=True)))
    divide_logits(model, found.temperature, run)
    assert found.n == 150 and found.temperature != pytest.approx(1, abs=0.01)
    written = open_model(run.model_file).get_weights()
    divided = [*before[:-2], *(weight / found.temperature for weight in before[-2:])]
    for new, kept, expected in zip(model.get_weights(), written, divided, strict=True):
        np.testing.assert_array_equal(new, kept)
        np.testing.assert_allclose(new, expected, rtol=1e-6)
    now = model.predict_on_batch(pixels)
    assert (then.argmax(1) == now.argmax(1)).all()
    assert abs(then - now).max() > 1e-3
