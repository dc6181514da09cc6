"""The optimizer, its schedule and the loss are what the recipe says."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_resnet18.fit.phases import (
    accuracy,
    build_optimizer,
    compile_model,
    cross_entropy,
    weighted_cross_entropy,
)
from keras_resnet18.machine import dtype_policy, fastest_jit
from keras_resnet18.recipe import Optimizer, Recipe


@pytest.fixture
def small_network():
    """A convolution, BatchNorm and a dense layer: two kernels, and four vectors."""
    return keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Conv2D(2, 3),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )


def rates(recipe, network, steps_per_epoch, epochs):
    optimizer = build_optimizer(recipe, network, steps_per_epoch=steps_per_epoch, epochs=epochs)
    schedule = optimizer._learning_rate
    return [float(schedule(step)) for step in range(steps_per_epoch * epochs + 1)]


def test_the_rate_rises_linearly_and_falls_along_a_cosine(small_network):
    recipe = Optimizer(learning_rate=0.8, warmup_epochs=2)
    rate = rates(recipe, small_network, steps_per_epoch=4, epochs=10)
    np.testing.assert_allclose(rate[:9], 0.1 * np.arange(9), rtol=1e-6)
    fallen = 0.4 * (1 + np.cos(np.pi * np.arange(33) / 32))
    np.testing.assert_allclose(rate[8:], fallen, atol=1e-6)


def test_without_a_warm_up_the_rate_is_highest_at_once(small_network):
    rate = rates(Optimizer(learning_rate=0.8, warmup_epochs=0), small_network, 5, 2)
    assert rate[0] == pytest.approx(0.8)
    assert rate == sorted(rate, reverse=True)
    assert rate[-1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("steps", "epochs"), [(1, 1), (3, 2)])
def test_a_warm_up_longer_than_the_training_leaves_a_schedule(small_network, steps, epochs):
    rate = rates(Optimizer(learning_rate=0.8, warmup_epochs=100), small_network, steps, epochs)
    assert all(0 <= value <= 0.8 + 1e-6 for value in rate)
    assert max(rate) > 0


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_weight_decay_shrinks_kernels_and_no_vector(small_network, name):
    recipe = Optimizer(name=name, learning_rate=0.1, weight_decay=0.5, warmup_epochs=0)
    optimizer = build_optimizer(recipe, small_network, steps_per_epoch=10, epochs=1)
    variables = small_network.trainable_variables
    for variable in variables:
        variable.assign(np.ones(variable.shape))
    optimizer.apply([keras.ops.zeros_like(v) for v in variables], variables)
    for variable in variables:
        expected = 0.95 if len(variable.shape) > 1 else 1.0  # 1 - rate * decay
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-6)


def test_optimizers_are_those_of_the_recipe(small_network):
    def built(**values):
        return build_optimizer(Optimizer(**values), small_network, steps_per_epoch=2, epochs=2)

    sgd = built(momentum=0.7)
    assert isinstance(sgd, keras.optimizers.SGD)
    assert sgd.momentum == 0.7
    assert sgd.nesterov
    assert not built(momentum=0.0).nesterov
    assert isinstance(built(name="adamw"), keras.optimizers.AdamW)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_keras_own_with_class_numbers_for_labels(smoothing):
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(5), 8).astype(np.float32)
    labels = random.integers(0, 5, 8)
    got = weighted_cross_entropy(smoothing, None)(
        keras.ops.convert_to_tensor(labels), keras.ops.convert_to_tensor(probabilities)
    )
    expected = keras.losses.categorical_crossentropy(
        np.eye(5, dtype=np.float32)[labels], probabilities, label_smoothing=smoothing
    )
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    if not smoothing:
        right = -np.log(probabilities[np.arange(8), labels])
        np.testing.assert_allclose(got, right, rtol=1e-5)


MIXED = np.array([[0.7, 0.3, 0.0], [0.0, 0.4, 0.6]], np.float32)
PROBABILITIES = np.array([[0.5, 0.4, 0.1], [0.2, 0.7, 0.1]], np.float32)


def test_a_mix_of_classes_is_a_distribution_and_right_by_its_largest_share():
    np.testing.assert_array_equal(accuracy(MIXED, PROBABILITIES), [1, 0])
    expected = -(MIXED * np.log(PROBABILITIES)).sum(1)
    np.testing.assert_allclose(cross_entropy(MIXED, PROBABILITIES), expected, rtol=1e-6)
    np.testing.assert_allclose(
        weighted_cross_entropy(0.0, None)(MIXED, PROBABILITIES), expected, rtol=1e-6
    )


def test_metrics_take_class_numbers_as_keras_own_do():
    labels = np.array([1, 1])
    np.testing.assert_array_equal(accuracy(labels, PROBABILITIES), [0, 1])
    own = keras.losses.sparse_categorical_crossentropy(labels, PROBABILITIES)
    np.testing.assert_allclose(cross_entropy(labels, PROBABILITIES), own, rtol=1e-6)


@pytest.mark.parametrize("labels", [np.array([0, 2]), MIXED])
def test_an_image_weighs_in_the_loss_what_its_classes_do(labels):
    weights = np.array([0.5, 1.0, 2.0], np.float32)
    plain = weighted_cross_entropy(0.1, None)(labels, PROBABILITIES)
    share = np.eye(3)[labels] if labels.ndim == 1 else labels
    got = weighted_cross_entropy(0.1, weights.tolist())(labels, PROBABILITIES)
    np.testing.assert_allclose(got, plain * (share @ weights), rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_clipped_gradient_has_the_norm_of_all_weights_together(small_network, name):
    recipe = Optimizer(name=name, clip_norm=0.5)
    optimizer = build_optimizer(recipe, small_network, steps_per_epoch=2, epochs=2)
    gradients = [keras.ops.ones(v.shape) for v in small_network.trainable_variables]
    clipped = optimizer._clip_gradients(gradients)
    norm = np.sqrt(sum(float(keras.ops.sum(g**2)) for g in clipped))
    assert norm == pytest.approx(0.5)


def test_variables_of_optimizer_and_metrics_exist_before_the_first_step(small_network):
    compile_model(small_network, Recipe(), steps_per_epoch=2)
    made = len(small_network.optimizer.variables), len(small_network.metrics_variables)
    data = (np.zeros((4, 4, 4, 1)), np.zeros(4))
    small_network.fit(*data, batch_size=2, verbose=0)
    assert made == (
        len(small_network.optimizer.variables),
        len(small_network.metrics_variables),
    )
    assert made[0] >= 6 and made[1] >= 6  # a momentum for each weight; sums and counts


def test_a_dtype_policy_is_put_back_also_after_an_error():
    before = keras.config.dtype_policy()
    with dtype_policy("mixed_bfloat16"):
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    assert keras.config.dtype_policy() == before
    with pytest.raises(ZeroDivisionError), dtype_policy("mixed_bfloat16"):
        raise ZeroDivisionError
    assert keras.config.dtype_policy() == before


@pytest.mark.parametrize(
    ("backend", "kind", "expected"),
    [
        ("tensorflow", "cpu", False),  # XLA makes it slower
        ("tensorflow", "gpu", "auto"),
        ("jax", "cpu", "auto"),
    ],
)
def test_xla_is_left_off_on_a_cpu_with_tensorflow(monkeypatch, backend, kind, expected):
    from keras_resnet18 import machine as precision

    monkeypatch.setattr(precision.keras.config, "backend", lambda: backend)
    monkeypatch.setattr(precision, "_accelerator", lambda backend: (kind, None))
    assert fastest_jit() == expected
