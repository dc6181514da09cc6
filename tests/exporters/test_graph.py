"""The graph that is exported gives probabilities in float32; a converter that fails says why."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from keras_resnet18 import build_resnet18
from keras_resnet18.errors import ExportError
from keras_resnet18.exporters.graph import float32_twin, leaves, probabilities, run_converter


@pytest.mark.parametrize(
    "make",
    [
        lambda x: layers.Dense(3)(x),
        lambda x: layers.Activation("linear")(layers.Dense(3)(x)),
        lambda x: layers.Dense(3, activation="softmax")(x),
        lambda x: layers.Softmax()(layers.Dense(3)(x)),
        lambda x: layers.Activation("linear")(layers.Dense(3, activation="softmax")(x)),
    ],
    ids=["logits", "logits, cast", "softmax", "softmax layer", "softmax, cast"],
)
@pytest.mark.parametrize("nested", [False, True], ids=["", "inside another model"])
def test_probabilities_are_made_of_logits_and_left_as_they_are_otherwise(make, nested):
    image = keras.Input((4, 4, 1))
    model = keras.Model(image, make(layers.Flatten()(image)))
    if nested:
        model = keras.Sequential([keras.Input((4, 4, 1)), model])
    pixels = np.random.default_rng(0).integers(0, 4, (5, 4, 4, 1), dtype=np.uint8)
    raw = model.predict(pixels, verbose=0)
    sums_to_one = np.allclose(raw.sum(1), 1)
    expected = raw if sums_to_one else keras.ops.softmax(raw)
    np.testing.assert_allclose(probabilities(model, pixels), expected, atol=1e-6)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_float32_twin_computes_in_float32_down_to_nested_models(policy, set_dtype_policy):
    set_dtype_policy(policy)
    inner = build_resnet18(
        stem="small", input_shape=(8, 8, 3), include_top=False, pooling=(2, 1), name="inner"
    )
    image = keras.Input((8, 8, 3), dtype="uint8")
    x = layers.Flatten()(inner(layers.Rescaling(1.0)(image)))
    model = keras.Model(image, layers.Dense(3, activation="softmax")(x))
    twin = float32_twin(model)
    computing = [x for x in leaves(twin) if not isinstance(x, layers.InputLayer)]
    assert {layer.compute_dtype for layer in computing} == {"float32"}
    assert {weight.dtype for weight in twin.weights} == {"float32"}
    for mine, its in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(mine.astype("float32"), its)
    assert (twin is model) == (policy == "float32")


def test_a_lambda_under_mixed_precision_has_a_float32_copy():
    factor, image = 3, keras.Input((2,))
    arguments = {"arguments": {"plus": 1}, "name": "triple", "dtype": "mixed_float16"}
    triple = layers.Lambda(lambda x, plus: factor * x + plus, **arguments)
    twin = float32_twin(keras.Model(image, triple(image)))
    assert twin.get_layer("triple").compute_dtype == "float32"
    np.testing.assert_allclose(twin(np.float32([[2, 3]])), [[7, 10]])


# As TensorFlow logs them after the error, when the process ends
LOG = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
    "I0000 00:00:1795687563.698033   20073 cudart_stub.cc:31] Could not find cuda drivers on your "
    "machine, GPU will not be used.\n"
)
# From TensorFlow 2.21 and tf2onnx 1.17, given tf.math.igamma and tf.math.special.bessel_j0
CUSTOM = (
    "tensorflow.lite.python.convert_phase.ConverterError: <unknown>:0: error: 'tf.Igamma' op is "
    "neither a custom op nor a flex op\n<unknown>:0: error: failed while converting: 'main': \n"
    "Some ops in the model are custom ops, See instructions\nCustom ops: BesselJ0, Igamma\n"
    "Details:\n\ttf.BesselJ0(tensor<1x8x8x3xf32>) -> (tensor<1x8x8x3xf32>)\n"
)
SELECT = "Some ops are not supported by the native TFLite runtime\nTF Select ops: Erfinv, Igamma\n"
ONNX = "10:06:14,805 - ERROR - Unsupported ops: Counter({'BesselJ0': 1, 'Igamma': 2})\n"
NO_MEMORY = "failed: it was ended by SIGKILL, as when memory runs out: no message"
CHECK = "F0000 00:00:1795687563.698033   20073 flatbuffer.cc:12] Check failed: size < limit\n"


@pytest.mark.parametrize(
    ("stderr", "end", "message"),
    [
        (CUSTOM + LOG, "sys.exit(1)", "cannot convert BesselJ0, Igamma: build the model without"),
        (SELECT + LOG, "sys.exit(1)", "cannot convert Erfinv, Igamma: build the model without"),
        (ONNX, "output.touch()", "cannot convert BesselJ0, Igamma: build the model without"),
        (CHECK + LOG, "os.abort()", "failed: it was ended by SIGABRT: Check failed: size < limit"),
        (LOG, "os.kill(os.getpid(), 9)", NO_MEMORY),
        ("first line\nthe reason\n" + LOG, "sys.exit(3)", "failed: the reason (status 3)"),
        (LOG, "", "failed: no message (status 0)"),
    ],
)
def test_a_converter_that_fails_says_why_in_one_line(tmp_path, stderr, end, message):
    script, output = tmp_path / "convert.py", tmp_path / "output"
    script.write_text(
        f"import os, pathlib, sys\noutput = pathlib.Path({str(output)!r})\n"
        f"sys.stderr.write({stderr!r})\nsys.stderr.flush()\n{end}\n"
    )
    with pytest.raises(ExportError) as error:
        run_converter("it", [str(script)], output)
    assert str(error.value) == f"it {message}; nothing was written"
