"""export_tflite writes a file that runs on a phone and answers as the model does, or nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils
from small import build_color_classifier, build_color_network

from keras_resnet18 import AdaptiveAveragePooling2D, build_resnet18, conv_block, export_tflite
from keras_resnet18.errors import ExportError
from keras_resnet18.exporters import convert, graph, tflite
from keras_resnet18.exporters.graph import run_converter
from keras_resnet18.exporters.tflite import open_checked, with_packed_stem


def probabilities_of(path: Path, images: np.ndarray) -> np.ndarray:
    """What the file gives by its signature, with nothing of ours between."""
    runner = Interpreter(str(path)).get_signature_runner("serving_default")
    return np.concatenate([runner(image=image[np.newaxis])["probabilities"] for image in images])


def weights_of(path: Path) -> list:
    """The kernels of all convolutions and of the dense layer, output channels first."""
    model = flatbuffer_utils.read_model(str(path))
    graph = model.subgraphs[0]
    kinds = (schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.FULLY_CONNECTED)
    return [
        graph.tensors[operator.inputs[1]]
        for operator in graph.operators
        if model.operatorCodes[operator.opcodeIndex].builtinCode in kinds
    ]


class TestFile:
    def test_takes_one_image_of_uint8_pixels_and_gives_float32_probabilities(self, any_file):
        interpreter = Interpreter(str(any_file.path))
        (image,) = interpreter.get_input_details()
        (probabilities,) = interpreter.get_output_details()
        assert (image["dtype"], image["shape_signature"].tolist()) == (np.uint8, [1, 32, 32, 3])
        assert (probabilities["dtype"], probabilities["shape"].tolist()) == (np.float32, [1, 10])
        assert interpreter.get_signature_list() == {
            "serving_default": {"inputs": ["image"], "outputs": ["probabilities"]}
        }

    def test_float32_file_has_the_networks_operators_and_no_others(self, float32_file):
        operators = dict(float32_file.report.operators)
        assert operators.pop("PAD") <= 5  # the converter turns some of them into SAME
        assert operators == {
            "ADD": 9,  # 8 shortcuts, and the normalization's
            "CAST": 1,
            "CONV_2D": 20,
            "FULLY_CONNECTED": 1,
            "MEAN": 1,
            "MUL": 1,
            "SOFTMAX": 1,
        }

    def test_int8_file_computes_nothing_in_float_but_the_softmax(self, int8_file):
        operators = int8_file.report.operators
        # three pools: GPUs get the stride of a shortcut's 1×1 convolution from them
        expected = {"CONV_2D": 20, "FULLY_CONNECTED": 1, "MAX_POOL_2D": 3, "SOFTMAX": 1}
        assert {name: operators[name] for name in expected} == expected
        assert "CAST" not in operators and operators["DEQUANTIZE"] == 1
        details = Interpreter(str(int8_file.path)).get_tensor_details()
        floats = [detail["name"] for detail in details if detail["dtype"] == np.float32]
        assert len(floats) == 2, floats  # what goes into the softmax, and what comes out

    def test_float16_file_holds_its_weights_in_16_bits_and_computes_in_32(self, float16_file):
        operators = float16_file.report.operators
        # kernels, biases and the normalization, to float32 before the first image
        assert operators["DEQUANTIZE"] == 2 * 3 + 2
        assert operators["CONV_2D"] == 2 and "QUANTIZE" not in operators
        types = [tensor.type for tensor in weights_of(float16_file.path)]
        assert types == [schema.TensorType.FLOAT32] * 3  # as they are computed with

    @pytest.mark.parametrize("kind", ["dynamic", "int8"])
    def test_int8_weights_have_a_scale_for_each_channel(self, export_digits, kind):
        weights = weights_of(export_digits("small_classifier", kind).path)
        large = [w for w in weights if np.prod(w.shape) >= 1024]
        assert large  # the dynamic file's smaller ones stay float32
        for kernel in large:
            assert kernel.type == schema.TensorType.INT8
            assert len(set(kernel.quantization.scale)) > 1
            assert len(kernel.quantization.scale) == kernel.shape[0]
            assert set(kernel.quantization.zeroPoint) == {0}

    def test_is_as_small_as_its_weights(self, any_file):
        part = {"tflite": 1, "tflite-float16": 1 / 2}.get(any_file.report.format, 1 / 4)
        weights = 4 * part * any_file.model.count_params()
        rest = 12_000  # the graph, the metadata and the specification
        assert any_file.report.size_bytes < 1.06 * weights + rest

    def test_of_a_mixed_float16_model_is_its_float32_twins_to_the_byte(
        self, small_classifier, export_digits, labels, set_dtype_policy, tmp_path
    ):
        set_dtype_policy("mixed_float16")
        model = build_color_network()
        model.set_weights(small_classifier.get_weights())
        assert model.get_layer("stem_conv").compute_dtype == "float16"
        report = export_tflite(model, tmp_path / "mixed.tflite", labels=labels)
        assert report.comparison.agreement == 1
        expected = export_digits("small_classifier", None).path.read_bytes()
        assert report.path.read_bytes() == expected

    def test_of_a_users_model_with_our_pooling_gives_probabilities(self, colored_digits, tmp_path):
        image = keras.Input((32, 32, 3))
        x = conv_block(keras.layers.RandomFlip("horizontal")(image), 8, name="block")
        x = keras.layers.Flatten()(AdaptiveAveragePooling2D((3, 2))(x))
        model = keras.Model(image, keras.layers.Dense(4)(x))
        report = export_tflite(model, tmp_path / "own.tflite")
        assert report.operators["CONV_2D"] == 3
        images = colored_digits[0][:8]
        logits = model.predict(images, verbose=0)
        np.testing.assert_allclose(
            probabilities_of(report.path, images), keras.ops.softmax(logits), atol=1e-5
        )


class TestReport:
    def test_gives_what_a_plain_interpreter_finds(self, any_file, held_out):
        images, numbers = held_out
        got = probabilities_of(any_file.path, images)
        exact = any_file.model.predict(images, verbose=0)
        found = any_file.report.comparison
        assert found.n == 100
        assert found.agreement == np.mean(got.argmax(1) == exact.argmax(1))
        assert found.accuracy == np.mean(got.argmax(1) == numbers)
        assert found.model_accuracy == np.mean(exact.argmax(1) == numbers)
        assert found.max_difference == pytest.approx(abs(got - exact).max(), abs=1e-5)
        assert any_file.report.size_bytes == any_file.path.stat().st_size
        assert any_file.report.latency_ms > 0

    def test_shows_a_file_to_be_the_model_as_far_as_its_kind_can(self, any_file):
        agreement, least, most = {
            "tflite": (1, 0, 1e-5),
            "tflite-float16": (1, 1e-5, 5e-3),
            "tflite-dynamic": (0.98, 1e-3, 0.2),
            "tflite-int8": (0.98, 1e-3, 0.2),
        }[any_file.report.format]
        found = any_file.report.comparison
        assert found.agreement >= agreement and least <= found.max_difference < most
        assert found.accuracy > 0.9
        assert found.accuracy == found.model_accuracy or agreement < 1

    def test_without_check_is_about_the_calibration_images(
        self, small_file, training, convert_to, tmp_path, monkeypatch
    ):
        convert_to(small_file.converted)
        monkeypatch.setattr(tflite, "CALIBRATION_IMAGES", 210)
        quantize = "int8" if "int8" in small_file.report.format else None
        endless = tf.data.Dataset.from_tensor_slices(training).repeat().batch(50)
        report = export_tflite(
            small_file.model, tmp_path / "a.tflite", quantize=quantize, calibration=endless
        )
        assert (report.comparison.n, report.comparison.accuracy) == (210, None)
        assert "accuracy not measured" in str(report)


def swap_classes(model: keras.Model) -> keras.Model:
    return keras.Model(model.input, keras.ops.roll(model.output, 1, axis=1))


def shift_mean(model: keras.Model) -> keras.Model:
    image = keras.Input((32, 32, 3))
    return keras.Model(image, model(keras.layers.Rescaling(1.0, offset=40.0)(image)))


@pytest.fixture
def previous(tmp_path):
    """A file from an earlier export with its figures, alone in their folder."""
    path, figures = tmp_path / "digits.tflite", tmp_path / "digits.tflite.json"
    path.write_bytes(b"an earlier export")
    figures.write_text('{"passed": true}')
    yield path
    assert path.read_bytes() == b"an earlier export"
    assert figures.read_text() == '{"passed": true}'
    assert sorted(tmp_path.iterdir()) == [path, figures], "something was left behind"


class TestVerification:
    """Every test here also shows, by `previous`, that the file at the path stays as it was."""

    @pytest.mark.parametrize("other", [swap_classes, shift_mean])
    def test_refuses_a_file_of_another_network(
        self, small_file, other, held_out, training, convert_to, previous
    ):
        convert_to(small_file.converted)
        quantize = "int8" if "int8" in small_file.report.format else None
        options = {"calibration": training[0][:200], "check": held_out[0][:40]}
        with pytest.raises(ExportError, match="nothing was written"):
            export_tflite(other(small_file.model), previous, quantize=quantize, **options)

    def test_refuses_a_float32_file_by_its_probabilities_where_every_class_agrees(
        self, small_classifier, export_digits, held_out, convert_to, previous
    ):
        flatter = keras.models.clone_model(small_classifier)
        flatter.set_weights(small_classifier.get_weights())
        head = flatter.get_layer("predictions")
        head.set_weights([0.9 * weights for weights in head.get_weights()])
        convert_to(export_digits("small_classifier", None).converted)
        with pytest.raises(ExportError, match=r"differ from the model's by up to 0\.\d+.*0\.001"):
            export_tflite(flatter, previous, check=held_out[0][:20])

    def test_ctrl_c_ends_the_converter_too(self, tiny, previous, tmp_path_factory, monkeypatch):
        folder = tmp_path_factory.mktemp("converter")
        script, pid_file = folder / "convert.py", folder / "pid"
        script.write_text(
            "import os, signal, time, pathlib\n"
            "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
            f"pathlib.Path({str(folder / 'new')!r}).write_text(str(os.getpid()))\n"
            f"os.rename({str(folder / 'new')!r}, {str(pid_file)!r})\n"
            "time.sleep(60)\n"
        )
        monkeypatch.setattr(convert, "__file__", str(script))
        monkeypatch.setattr(graph, "run_converter", run_converter)

        def interrupt():
            while not pid_file.exists():
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            export_tflite(tiny, previous)
        assert time.monotonic() - began < 30
        with contextlib.suppress(ChildProcessError):  # the killed process was waited for
            _, status = os.waitpid(int(pid_file.read_text()), 0)
            assert os.WTERMSIG(status) == signal.SIGKILL


class TestGraph:
    @pytest.fixture
    def refused(self, export_digits, tmp_path):
        """`refused(message, change)`: the int8 file is, after `change(model, graph)`."""

        def check(message, change, file="path"):
            exported = export_digits("small_classifier", "int8")
            model = flatbuffer_utils.read_model(str(getattr(exported, file)))
            change(model, model.subgraphs[0])
            flatbuffer_utils.write_model(model, str(tmp_path / "edited.tflite"))
            with pytest.raises(ExportError, match=message):
                open_checked(tmp_path / "edited.tflite", exported.model)

        return check

    def test_with_a_convolution_too_few_is_refused(self, export_digits):
        image = keras.Input((32, 32, 3))
        exported = export_digits("small_classifier", "int8")
        larger = keras.Model(image, exported.model(keras.layers.Conv2D(3, 1)(image)))
        with pytest.raises(ExportError, match="has 2 convolutions, the model 3"):
            open_checked(exported.path, larger)

    def test_that_scales_its_pixels_is_refused(self, refused):
        def change(model, graph):
            graph.tensors[graph.inputs[0]].quantization.scale = [0.5]

        refused(r"of 0 to 255 as they are.*uint8, scale 0\.5", change)

    def test_that_gives_bytes_is_refused(self, refused):
        def change(model, graph):
            last = graph.operators.pop()  # DEQUANTIZE
            graph.outputs = list(last.inputs)
            model.signatureDefs[0].outputs[0].tensorIndex = int(last.inputs[0])

        refused(r"give float32 probabilities.*→ int8 \(1, 10\)", change, "converted")


class Times(keras.layers.Layer):
    """A user's layer that Keras cannot make again: its argument is not in its config."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, x):
        return x * self.factor


class TestPackedStem:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_gives_the_same_maps_and_the_same_answers(self, channels):
        images = np.random.default_rng(0).uniform(0, 1, (2, 64, 48, channels)).astype("float32")
        body = build_resnet18(
            input_shape=(64, 48, channels), classes=5, include_preprocessing=False
        )
        model = keras.Model(body.input, Times(2.0)(body.output))
        before = [value.copy() for value in model.get_weights()]
        packed = with_packed_stem(model)
        maps, exact = (
            keras.Model(x.inputs[0], x.get_layer("stem_conv").output)(images).numpy()
            for x in (packed, model)
        )
        assert maps.shape == exact.shape == (2, 32, 24, 64)
        np.testing.assert_allclose(maps, exact, atol=1e-5 * abs(exact).max())
        np.testing.assert_allclose(packed(images), model(images), atol=1e-5)
        assert packed.get_layer("stem_conv").kernel.shape == (4, 4, 4 * channels, 64)
        assert packed.layers[-1] is model.layers[-1]  # as all but the stem's
        for value, old in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(value, old)

    @pytest.mark.parametrize(
        "arguments",
        [
            {"input_shape": (65, 64, 3)},
            {"input_shape": (64, 64, 3), "variant": "d"},
            {"input_shape": (32, 32, 3), "stem": "small_stride2"},
        ],
    )
    def test_leaves_another_stem_as_it_is(self, arguments):
        model = build_resnet18(classes=5, **arguments)
        assert with_packed_stem(model) is model

    @pytest.mark.parametrize("kind", ["dynamic", "int8"])
    def test_is_in_a_quantized_file_with_the_same_classes(self, kind, training, held_out, tmp_path):
        report = export_tflite(
            build_color_classifier(*training, kernel_size=7),
            tmp_path / "model.tflite",
            quantize=kind,
            calibration=training[0][:200],
            check=held_out,
        )
        assert report.operators["SPACE_TO_DEPTH"] == 1
        assert report.comparison.agreement >= 0.98
