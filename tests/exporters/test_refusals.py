"""What every exporter refuses, in one line, before anything is converted."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from keras_resnet18 import export_onnx, export_saved_model, export_tflite
from keras_resnet18.errors import InputError
from keras_resnet18.exporters.graph import float32_twin

EXPORTERS = [export_saved_model, export_tflite, export_onnx]


def model_with(*more, dtype=None):
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, dtype=dtype)(image)
    for layer in more:
        x = layer(x)
    x = layers.Flatten()(x)
    return keras.Model(image, layers.Dense(3, "softmax", dtype="float32")(x))


@pytest.mark.parametrize("export", EXPORTERS)
@pytest.mark.parametrize("activation", [None, "sigmoid", "softmax"])
def test_a_classifier_of_one_output_is_refused(export, activation, tmp_path):
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, layers.Dense(1, activation)(layers.Flatten()(image)))
    with pytest.raises(InputError, match="build the model with classes=2"):
        export(model, tmp_path / "model", labels=["yes"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("export", EXPORTERS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(export, value, tmp_path):
    model = model_with()
    kernel, bias = model.layers[-1].get_weights()
    kernel[0, 0] = value
    model.layers[-1].set_weights([kernel, bias])
    with pytest.raises(InputError, match=r"finite numbers.*Received: NaN or infinity in dense"):
        export(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


class WithoutConfig(layers.Layer):
    """A user's layer that Keras cannot make again: its argument is not in its config."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, x):
        return x * self.factor


@pytest.mark.parametrize("export", EXPORTERS)
def test_a_layer_that_has_no_float32_copy_is_named(export, tmp_path):
    model = model_with(WithoutConfig(2.0), dtype="mixed_float16")
    with pytest.raises(InputError, match=r"float32 copy.* Received: WithoutConfig 'without_conf"):
        export(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_lambda_under_mixed_precision_has_a_float32_copy():
    factor = 3
    triple = layers.Lambda(lambda x, plus: factor * x + plus, arguments={"plus": 1}, name="triple")
    twin = float32_twin(model_with(triple, dtype="mixed_float16"))
    assert twin.get_layer("triple").compute_dtype == "float32"
    np.testing.assert_allclose(twin.get_layer("triple")(np.float32([2])), [7])


def test_weights_of_noise_are_compared_without_images(tmp_path):
    report = export_saved_model(model_with(), tmp_path / "model")
    assert report.comparison.n == 16 and np.isfinite(report.comparison.max_difference)
