"""What resuming relies on in Keras, which its documentation does not promise."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet18.fit.callbacks import BestModel, EarlyEnd, History
from keras_resnet18.fit.phases import compile_model, fit_model
from keras_resnet18.fit.resume import Checkpoints, load_checkpoint
from keras_resnet18.fit.signals import Stop
from keras_resnet18.recipe import Optimizer, Recipe

ROOT = Path(__file__).parents[2]
STEPS = 5


def build():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dropout(0.3), keras.layers.Dense(2, activation="softmax")]
    model = keras.Sequential([keras.Input((2,)), *layers])
    recipe = Recipe(epochs=1, optimizer=Optimizer(learning_rate=0.1, warmup_epochs=0))
    compile_model(model, recipe, steps_per_epoch=STEPS)
    return model


def batches(first_step=0):
    """Batch g of an endless dataset is a function of g, and each taken one is counted."""
    taken = []

    def batch(g):
        taken.append(int(g))
        return np.full((4, 2), g, np.float32) / STEPS

    def example(g):
        inputs = tf.ensure_shape(tf.numpy_function(batch, [g], tf.float32), (4, 2))
        return inputs, tf.stack([g % 2, (g + 1) % 2, g % 2, 1])

    return tf.data.Dataset.range(first_step, 2**40).map(example), taken


def fit(model, folder, stop, start=None, first_step=0):
    history = History(4, lambda rows: None)
    best = BestModel(model, history, Path(folder) / "model.keras")
    ending = EarlyEnd(Recipe(), history, STEPS)
    checkpoints = Checkpoints(
        Path(folder), model, history, best, ending, settings={}, stop=stop, start=start
    )
    if start is not None:
        history.resume(start.rows, start.step, start.seconds)
        assert checkpoints.restore(model) == (start.epoch, start.step)
    training, taken = batches(first_step)
    validation = batches()[0].take(1)
    callbacks = [history, best, ending, checkpoints]
    fit_model(
        model, training, validation, steps_per_epoch=STEPS, epochs=(0, 1), callbacks=callbacks
    )
    return history, taken, best


class Interrupt(Stop):
    """A request to end that comes in one of the steps."""

    def __init__(self, step):
        super().__init__()
        self.asked, self.step = 0, step

    def obey(self):
        self.asked += 1
        if self.asked == self.step:
            raise KeyboardInterrupt


def test_fit_takes_exactly_the_steps_that_are_left(tmp_path, monkeypatch):
    """`fit` calls `model.train_function`, which exists when training begins, once a step.

    If a new Keras fails here, `Checkpoints._skip_steps` needs another way to skip.
    """
    monkeypatch.setattr("keras_resnet18.fit.resume.EVERY", 0)
    monkeypatch.setattr("keras_resnet18.fit.resume.TIMES_ITS_COST", 0)
    whole = build()
    history, _, best = fit(whole, tmp_path / "whole", Stop())
    rows, kept = history.rows, best.weights
    stopped = build()
    try:
        fit(stopped, tmp_path / "stopped", Interrupt(2))
    except KeyboardInterrupt:
        start = load_checkpoint(tmp_path / "stopped", print)
    assert start is not None and (start.epoch, start.step) == (0, 2)
    resumed = build()
    history, taken, best = fit(resumed, tmp_path / "stopped", Stop(), start, first_step=2)
    assert taken[0] == 2
    assert int(resumed.optimizer.iterations.numpy()) == STEPS
    ours, theirs = [*resumed.get_weights(), *best.weights], [*whole.get_weights(), *kept]
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, other)
    for ours, theirs in zip(history.rows, rows, strict=True):
        del ours["images_per_second"], theirs["images_per_second"]
        assert ours == theirs


@pytest.mark.skipif(keras.config.backend() == "jax", reason="it is what this test runs")
def test_under_jax_too_where_the_trainer_has_the_state(run_python):
    run_python(
        "import pytest, sys; sys.exit(pytest.main(sys.argv[1:]))",
        *(
            "-q",
            "-n",
            "0",
            "-p",
            "no:cacheprovider",
            "-c",
            ROOT / "pyproject.toml",
            "-k",
            "exactly",
            __file__,
        ),
        KERAS_BACKEND="jax",
        JAX_PLATFORMS="cpu",
        JAX_DISABLE_MOST_OPTIMIZATIONS="1",  # compiling is most of what it costs
    )
