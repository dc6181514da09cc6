"""The rearranged stem computes what the paper's computes, and no other stem is touched."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from small import build_colour_classifier

from keras_resnet18 import build_resnet18, export_tflite
from keras_resnet18.exporters.tflite import with_packed_stem


@pytest.fixture(scope="module")
def small_images():
    return np.random.default_rng(0).uniform(0, 255, (2, 64, 48, 3)).astype("float32")


def stem_of(model):
    return keras.Model(model.inputs[0], model.get_layer("stem_conv").output)


def test_gives_the_same_maps_and_the_same_answers(small_images):
    model = build_resnet18(input_shape=(64, 48, 3), classes=5)
    before = [value.copy() for value in model.get_weights()]
    packed = with_packed_stem(model)
    maps, exact = (stem_of(x)(small_images).numpy() for x in (packed, model))
    assert maps.shape == exact.shape == (2, 32, 24, 64)
    np.testing.assert_allclose(maps, exact, atol=1e-5 * abs(exact).max())
    np.testing.assert_allclose(packed(small_images), model(small_images), atol=1e-5)
    assert packed.get_layer("stem_conv").kernel.shape == (4, 4, 12, 64)
    for value, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)


def test_takes_other_channels(small_images):
    model = build_resnet18(input_shape=(64, 48, 1), classes=5, include_preprocessing=False)
    grey = small_images[..., :1] / 255
    np.testing.assert_allclose(with_packed_stem(model)(grey), model(grey), atol=1e-5)


class Times(keras.layers.Layer):
    """A user's layer that Keras cannot make again: its argument is not in its config."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, x):
        return x * self.factor


@pytest.mark.parametrize("layer", [keras.layers.Lambda(lambda x: 1 - x), Times(object())], ids=str)
def test_all_other_layers_are_the_models_own(small_images, layer):
    layer.factor = 2.0
    body = build_resnet18(input_shape=(64, 48, 3), classes=5)
    model = keras.Model(body.input, layer(body.output))
    packed = with_packed_stem(model)
    assert packed.layers[-1] is layer
    assert packed.get_layer("stem_conv") is not model.get_layer("stem_conv")
    np.testing.assert_allclose(packed(small_images), model(small_images), atol=1e-5)


def test_a_stem_with_something_in_it_is_left_as_it_is():
    image = keras.Input((64, 64, 3))
    x = keras.layers.ZeroPadding2D(3, name="stem_conv_pad")(image)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Conv2D(8, 7, strides=2, name="stem_conv")(x)
    model = keras.Model(image, x)
    assert with_packed_stem(model) is model


@pytest.mark.parametrize(
    "arguments",
    [
        {"input_shape": (65, 64, 3)},
        {"input_shape": (64, 65, 3)},
        {"input_shape": (None, None, 3)},
        {"input_shape": (64, 64, 3), "variant": "d"},
        {"input_shape": (32, 32, 3), "stem": "small"},
        {"input_shape": (32, 32, 3), "stem": "small_stride2"},
    ],
    ids=str,
)
def test_leaves_another_stem_as_it_is(arguments):
    model = build_resnet18(classes=5, **arguments)
    assert with_packed_stem(model) is model


@pytest.mark.parametrize("kind", ["dynamic", "int8"])
def test_a_quantized_file_has_it_and_gives_the_models_classes(kind, training, held_out, tmp_path):
    report = export_tflite(
        build_colour_classifier(*training, kernel_size=7),
        tmp_path / "model.tflite",
        quantize=kind,
        calibration=training[0][:200],
        check=held_out,
    )
    assert report.operators["SPACE_TO_DEPTH"] == 1
    assert report.comparison.agreement >= 0.98
