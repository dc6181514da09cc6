"""Moving average of the weights: what is validated and kept in the place of the last step's."""

from __future__ import annotations

from typing import Any

import keras

from keras_resnet18.fit.checkpoint import Arrays
from keras_resnet18.fit.history import History

# Steps between two updates at most. One of ResNet-18 takes as long as a tenth of a small step.
_MOST_STEPS = 32
_UPDATES_AN_EPOCH = 8


class MovingAverage(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Averages a network's weights over the steps, and puts the average in place for validation.

    BatchNorm's moving statistics are averaged as the weights are: Keras' own average leaves them
    those of the last step, which belong to other weights. Early on the average follows faster, at
    a decay of (1 + n) / (10 + n) after n updates, as `tf.train.ExponentialMovingAverage` does.

    Attributes:
        values: The average, in the order of `network.get_weights()`; empty before the first.
        updates: Number of updates since the phase began.

    Args:
        network: The network; what is fitted may be a part of it.
        history: Knows the steps that an earlier process took.
        decay: What one step leaves of the average, at least 0 and below 1; 0 is off.
    """

    def __init__(self, network: keras.Model, history: History, decay: float) -> None:
        super().__init__()
        self.values: Arrays = []
        self.updates = 0
        self._network = network
        self._history = history
        self._decay = decay
        self._every = 1
        self._trained: Arrays = []  # while the average is in their place

    def weights(self) -> Arrays:
        """What is validated: the average, or the network's weights where there is none."""
        return [array.copy() for array in self.values] or self._network.get_weights()

    def resume(self, values: Arrays, updates: int) -> None:
        """Goes on with the average of an earlier process; comes after `on_train_begin`."""
        self.values, self.updates = values, updates

    def put_back(self) -> None:
        """Gives the network the weights that it trains, where it has the average."""
        if self._trained:
            self.model  # noqa: B018  # under JAX it first takes the values from the trainer
            self._network.set_weights(self._trained)
            self._trained = []

    def on_train_begin(self, logs: Any = None) -> None:
        self.values, self.updates = [], 0
        self._every = max(1, min(_MOST_STEPS, self.params["steps"] // _UPDATES_AN_EPOCH))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._decay and batch >= self._history.first_step and (batch + 1) % self._every == 0:
            self._update()

    def on_test_begin(self, logs: Any = None) -> None:
        if self.values:
            self._trained = self._network.get_weights()
            self._network.set_weights(self.values)

    def on_test_end(self, logs: Any = None) -> None:
        self.put_back()

    def _update(self) -> None:
        self.model  # noqa: B018  # under JAX it brings the values from the trainer
        weights = self._network.get_weights()
        if not self.values:
            self.values = [array.copy() for array in weights]
            return
        self.updates += 1
        decay = min(self._decay**self._every, (1 + self.updates) / (10 + self.updates))
        for average, array in zip(self.values, weights, strict=True):
            average *= decay
            average += (1 - decay) * array
