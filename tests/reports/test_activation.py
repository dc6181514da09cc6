"""A class activation map is bright where what speaks for the class is."""

from __future__ import annotations

import numpy as np
import pytest
from small import build_tiny

from keras_resnet18.reports.report import activation_maps


@pytest.fixture(scope="module")
def network():
    """A network whose first map is the red of an image, and its second the blue."""
    import keras

    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(2, 1, use_bias=False)(image)
    pooled = keras.layers.GlobalAveragePooling2D(name="head_pool")(maps)
    answer = keras.layers.Dense(2, activation="softmax", name="predictions")(pooled)
    model = keras.Model(image, answer)
    model.layers[1].set_weights([np.array([[[[1, 0], [0, 0], [0, 1]]]], np.float32)])
    model.get_layer("predictions").set_weights([np.eye(2) * 2 - 1, np.zeros(2)])
    return model


def test_the_map_of_a_class_is_its_weights_times_the_last_maps(network):
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    pixels[:, 1, 2, 0] = 200  # red
    pixels[:, 6, 5, 2] = 100  # blue
    red, blue = activation_maps(network, pixels, np.array([0, 1]))
    assert np.argwhere(red).tolist() == [[1, 2]] and red[1, 2] == 1
    assert np.argwhere(blue).tolist() == [[6, 5]] and blue[6, 5] == 1


def test_where_nothing_speaks_for_a_class_the_map_is_empty(network):
    assert not activation_maps(network, np.zeros((1, 8, 8, 3), np.uint8), np.array([0])).any()


def test_another_head_has_no_map():
    model = build_tiny(input_shape=(8, 8, 3), classes=3, stem="small", dropout=0)
    assert activation_maps(model, np.zeros((1, 8, 8, 3), np.uint8), np.array([0])) is None
