"""The average of the weights is that of all of them, BatchNorm's statistics too."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet18.fit.average import MovingAverage
from keras_resnet18.fit.fit import compile_model, fit_model
from keras_resnet18.fit.history import History
from keras_resnet18.recipe.recipe import Optimizer, Recipe

DECAY = 0.6


class Watch(keras.callbacks.Callback):
    """Keeps the weights after every step, and at the end of validation."""

    def __init__(self):
        super().__init__()
        self.steps, self.validated = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(self.model.get_weights())

    def on_test_batch_end(self, batch, logs=None):
        self.validated.append(self.model.get_weights())


def trained(decay, digits, steps=5, epochs=2):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(4, 3, strides=4),
            keras.layers.BatchNormalization(momentum=0.5),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    recipe = Recipe(epochs=epochs, optimizer=Optimizer(warmup_epochs=0))
    compile_model(model, recipe, steps_per_epoch=steps)
    history, watch = History(8, lambda rows: None), Watch()
    average = MovingAverage(model, history, decay)
    images, labels = digits
    batches = tf.data.Dataset.from_tensor_slices((images[:88], labels[:88])).batch(8)
    fit_model(
        model,
        batches.take(10).repeat(),
        batches.skip(10),
        steps_per_epoch=steps,
        epochs=(0, epochs),
        callbacks=[history, average, watch],
    )
    return model, average, watch


def test_it_is_the_formulas_and_is_validated_while_training_goes_on_with_its_own(digits):
    model, average, watch = trained(DECAY, digits)
    expected = [array.astype(np.float64) for array in watch.steps[0]]
    for n, weights in enumerate(watch.steps[1:], 1):
        decay = min(DECAY, (1 + n) / (10 + n))
        expected = [decay * a + (1 - decay) * b for a, b in zip(expected, weights, strict=True)]
    for mine, wanted in zip(average.weights(), expected, strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-5, atol=1e-7)
    for validated, mine in zip(watch.validated[-1], average.weights(), strict=True):
        np.testing.assert_array_equal(validated, mine)
    for now, last in zip(model.get_weights(), watch.steps[-1], strict=True):
        np.testing.assert_array_equal(now, last)


def test_it_changes_no_step_of_the_training(digits):
    (model, _, _), (plain, off, _) = trained(DECAY, digits), trained(0.0, digits)
    for mine, other in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)
    assert off.values == []
    for mine, other in zip(off.weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_its_batch_norm_normalises_what_its_own_weights_give(digits):
    """As near to the statistics of the averaged weights as training's own are to training's."""
    model, average, _ = trained(0.8, digits, steps=10, epochs=1)
    inner = keras.Model(model.inputs, model.layers[1].output)
    images = digits[0][:80]
    own = np.std(inner.predict_on_batch(images), axis=(0, 1, 2))
    own_error = abs(model.layers[2].moving_variance.numpy() / own**2 - 1).max()
    last = model.get_weights()
    model.set_weights(average.weights())
    got = np.std(inner.predict_on_batch(images), axis=(0, 1, 2))
    error = abs(model.layers[2].moving_variance.numpy() / got**2 - 1).max()
    assert error < max(0.5, 2 * own_error)
    assert not np.array_equal(average.weights()[3], last[3])


@pytest.mark.parametrize(("steps", "updates"), [(5, 9), (10, 9)])
def test_it_is_updated_some_times_an_epoch(digits, steps, updates):
    average = trained(DECAY, digits, steps=steps, epochs=10 // steps)[1]
    assert average.updates == updates
