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
    head_recipe,
    weighted_cross_entropy,
)
from keras_resnet18.recipe import Finetune, Optimizer, Recipe


@pytest.fixture
def network():
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


def test_the_rate_rises_linearly_and_falls_along_a_cosine(network):
    rate = rates(Optimizer(learning_rate=0.8, warmup_epochs=2), network, 4, epochs=10)
    np.testing.assert_allclose(rate[:9], 0.1 * np.arange(9), rtol=1e-6)
    fallen = 0.4 * (1 + np.cos(np.pi * np.arange(33) / 32))
    np.testing.assert_allclose(rate[8:], fallen, atol=1e-6)


def test_without_a_warm_up_the_rate_is_highest_at_once(network):
    rate = rates(Optimizer(learning_rate=0.8, warmup_epochs=0), network, 5, 2)
    assert rate[0] == pytest.approx(0.8)
    assert rate == sorted(rate, reverse=True)
    assert rate[-1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("steps", "epochs"), [(1, 1), (3, 2)])
def test_a_warm_up_longer_than_the_training_leaves_a_schedule(network, steps, epochs):
    rate = rates(Optimizer(learning_rate=0.8, warmup_epochs=100), network, steps, epochs)
    assert all(0 <= value <= 0.8 + 1e-6 for value in rate)
    assert max(rate) > 0


@pytest.mark.parametrize(
    ("values", "kind", "settings"),
    [
        ({"momentum": 0.7}, "SGD", {"momentum": 0.7, "nesterov": True}),
        ({"momentum": 0.0}, "SGD", {"nesterov": False}),
        ({"name": "adamw"}, "AdamW", {}),
    ],
)
def test_the_optimizer_is_the_recipes_and_decays_kernels_alone(network, values, kind, settings):
    recipe = Optimizer(learning_rate=0.1, weight_decay=0.5, warmup_epochs=0, **values)
    optimizer = build_optimizer(recipe, network, steps_per_epoch=10, epochs=1)
    assert type(optimizer) is getattr(keras.optimizers, kind)
    assert {name: getattr(optimizer, name) for name in settings} == settings
    variables = network.trainable_variables
    for variable in variables:
        variable.assign(np.ones(variable.shape))
    optimizer.apply([keras.ops.zeros_like(v) for v in variables], variables)
    for variable in variables:
        expected = 0.95 if len(variable.shape) > 1 else 1.0  # 1 - rate * decay
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_clipped_gradient_has_the_norm_of_all_weights_together(network, name):
    recipe = Optimizer(name=name, clip_norm=0.5)
    optimizer = build_optimizer(recipe, network, steps_per_epoch=2, epochs=2)
    gradients = [keras.ops.ones(v.shape) for v in network.trainable_variables]
    clipped = optimizer._clip_gradients(gradients)
    norm = np.sqrt(sum(float(keras.ops.sum(g**2)) for g in clipped))
    assert norm == pytest.approx(0.5)


def test_the_heads_recipe_is_the_trainings_but_for_its_optimizer():
    recipe = Recipe(epochs=9, seed=3, optimizer=Optimizer(label_smoothing=0.2, clip_norm=1.0))
    head = head_recipe(recipe, Finetune(head_epochs=4, head_learning_rate=0.1))
    assert (head.epochs, head.seed, head.batch_size) == (4, 3, recipe.batch_size)
    assert head.optimizer == Optimizer("adamw", 0.1, 0.9, 0.0, 0, label_smoothing=0.2)


MIXED = np.array([[0.7, 0.3, 0.0], [0.0, 0.4, 0.6]], np.float32)
PROBABILITIES = np.array([[0.5, 0.4, 0.1], [0.2, 0.7, 0.1]], np.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_keras_own_with_class_numbers_for_labels(smoothing):
    labels = np.array([1, 2])
    got = weighted_cross_entropy(smoothing, None)(labels, PROBABILITIES)
    targets = np.eye(3, dtype=np.float32)[labels]
    expected = keras.losses.categorical_crossentropy(
        targets, PROBABILITIES, label_smoothing=smoothing
    )
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    if not smoothing:
        np.testing.assert_allclose(got, -np.log([0.4, 0.1]), rtol=1e-5)


def test_a_mix_of_classes_is_a_distribution_and_right_by_its_largest_share():
    np.testing.assert_array_equal(accuracy(MIXED, PROBABILITIES), [1, 0])
    expected = -(MIXED * np.log(PROBABILITIES)).sum(1)
    for loss in (cross_entropy, weighted_cross_entropy(0.0, None)):
        np.testing.assert_allclose(loss(MIXED, PROBABILITIES), expected, rtol=1e-6)


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


def test_variables_of_optimizer_and_metrics_exist_before_the_first_step(network):
    compile_model(network, Recipe(), steps_per_epoch=2)

    def made():
        return len(network.optimizer.variables), len(network.metrics_variables)

    before = made()
    network.fit(np.zeros((4, 4, 4, 1)), np.zeros(4), batch_size=2, verbose=0)
    assert made() == before
    assert before[0] >= 6 and before[1] >= 6  # a momentum for each weight; sums and counts
