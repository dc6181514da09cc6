"""export_tflite writes a file that runs on a phone and answers as the model does, or nothing."""

from __future__ import annotations

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
from small import build_colour_network

from keras_resnet18 import (
    AdaptiveAveragePooling2D,
    build_resnet18,
    conv_block,
    export_tflite,
)
from keras_resnet18.errors import ExportError, InputError
from keras_resnet18.exporters import convert, tflite
from keras_resnet18.tflite_file import Tensor, _tensor, contents


def probabilities_of(path: Path, images: np.ndarray) -> np.ndarray:
    """What the file gives by its signature, with nothing of ours between."""
    runner = Interpreter(str(path)).get_signature_runner("serving_default")
    return np.concatenate([runner(image=image[np.newaxis])["probabilities"] for image in images])


def weights_of(path: Path) -> list[Tensor]:
    """The kernels of all convolutions and of the dense layer, output channels first."""
    model = flatbuffer_utils.read_model(str(path))
    graph = model.subgraphs[0]
    kinds = (schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.FULLY_CONNECTED)
    return [
        _tensor(graph.tensors[operator.inputs[1]], -1, [])
        for operator in graph.operators
        if model.operatorCodes[operator.opcodeIndex].builtinCode in kinds
    ]


def weights_bytes(model: keras.Model) -> int:
    return 4 * model.count_params()


class TestFile:
    def test_takes_one_image_of_uint8_pixels_and_gives_float32_probabilities(self, any_file):
        interpreter = Interpreter(str(any_file.path))
        (image,) = interpreter.get_input_details()
        (probabilities,) = interpreter.get_output_details()
        assert (image["dtype"], image["shape"].tolist()) == (np.uint8, [1, 32, 32, 3])
        assert (probabilities["dtype"], probabilities["shape"].tolist()) == (np.float32, [1, 10])
        assert image["shape_signature"].tolist() == [1, 32, 32, 3]

    def test_names_its_input_and_its_output(self, any_file):
        assert Interpreter(str(any_file.path)).get_signature_list() == {
            "serving_default": {"inputs": ["image"], "outputs": ["probabilities"]}
        }

    def test_float32_file_has_the_networks_operators_and_no_others(self, float32_file):
        operators = dict(float32_file.report.operators)
        assert operators.pop("PAD") <= 5  # the converter turns some of them into SAME
        assert operators == {
            "ADD": 9,  # 8 shortcuts, and the normalisation's
            "CAST": 1,
            "CONV_2D": 20,
            "FULLY_CONNECTED": 1,
            "MEAN": 1,
            "MUL": 1,
            "SOFTMAX": 1,
        }

    def test_int8_file_computes_nothing_in_float_but_the_softmax(self, int8_file):
        operators = int8_file.report.operators
        counts = {name: operators[name] for name in ("CONV_2D", "FULLY_CONNECTED", "SOFTMAX")}
        assert counts == {"CONV_2D": 20, "FULLY_CONNECTED": 1, "SOFTMAX": 1}
        assert "CAST" not in operators and operators["DEQUANTIZE"] == 1
        floats = [
            detail["name"]
            for detail in Interpreter(str(int8_file.path)).get_tensor_details()
            if detail["dtype"] == np.float32
        ]
        assert len(floats) == 2, floats  # what goes into the softmax, and what comes out

    def test_float16_file_holds_its_weights_in_16_bits_and_computes_in_32(self, float16_file):
        operators = dict(float16_file.report.operators)
        # kernels, biases and the normalisation, to float32 before the first image
        assert operators.pop("DEQUANTIZE") == 2 * 3 + 2
        assert operators["CONV_2D"] == 2 and "QUANTIZE" not in operators
        types = [tensor.dtype for tensor in weights_of(float16_file.path)]
        assert types == ["float32"] * 3  # as they are computed with

    def test_int8_weights_have_a_scale_for_each_channel(self, int8_file, dynamic_file):
        for file in (int8_file, dynamic_file):
            large = [w for w in weights_of(file.path) if np.prod(w.shape) >= 1024]
            assert large  # the dynamic file's smaller ones stay float32
            for weights in large:
                assert weights.dtype == "int8"
                assert len(weights.scale) == weights.shape[0] > 1
                assert len(set(weights.scale)) > 1 and set(weights.zero_point) == {0}

    def test_dynamic_file_has_float_activations(self, dynamic_file):
        operators = dynamic_file.report.operators
        assert not {"QUANTIZE", "DEQUANTIZE"} & operators.keys()
        assert operators["CONV_2D"] == 2

    def test_int8_probabilities_are_finer_than_a_byte(self, int8_file, held_out):
        got = probabilities_of(int8_file.path, held_out[0][:20])
        np.testing.assert_allclose(got.sum(1), 1, atol=1e-5)
        assert (got > 0).all()
        assert (np.abs(got * 256 - np.rint(got * 256)) > 0.01).mean() > 0.5

    def test_carries_its_labels(self, any_file, labels):
        assert contents(any_file.path).labels == labels

    def test_is_as_small_as_its_weights(self, float32_file, float16_file, dynamic_file, int8_file):
        assert float32_file.report.size_bytes < 1.01 * weights_bytes(float32_file.model)
        assert int8_file.report.size_bytes < 0.26 * weights_bytes(int8_file.model)
        for file, part in ((float16_file, 1 / 2), (dynamic_file, 1 / 4)):
            rest = file.report.size_bytes - part * weights_bytes(file.model)
            assert rest < 10_000, file.report  # the graph and the metadata

    def test_of_a_mixed_float16_model_made_by_another_process_is_its_float32_twins_to_the_byte(
        self,
        small_classifier,
        held_out,
        labels,
        set_dtype_policy,
        tmp_path,
        request,
    ):
        exports = []
        for policy in ("float32", "mixed_float16"):
            if policy == "mixed_float16":
                request.getfixturevalue("converters_apart")
            set_dtype_policy(policy)
            model = build_colour_network()
            model.set_weights(small_classifier.get_weights())
            report = export_tflite(
                model, tmp_path / f"{policy}.tflite", labels=labels, check=held_out
            )
            assert report.comparison.agreement == 1
            exports.append(report.path.read_bytes())
        assert model.get_layer("stem_conv").compute_dtype == "float16"
        assert exports[0] == exports[1]

    def test_of_a_users_own_model_around_our_adaptive_pooling_gives_probabilities_of_its_logits(
        self, coloured_digits, tmp_path
    ):
        image = keras.Input((32, 32, 3))
        x = conv_block(keras.layers.RandomFlip("horizontal")(image), 8, name="block")
        x = keras.layers.Flatten()(AdaptiveAveragePooling2D((3, 2))(x))
        model = keras.Model(image, keras.layers.Dense(4)(x))
        report = export_tflite(model, tmp_path / "own.tflite")
        assert report.operators["CONV_2D"] == 3 and "CUSTOM" not in report.operators
        images = coloured_digits[0][:8]
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

    def test_shows_a_float32_file_to_be_the_model(self, float32_file):
        found = float32_file.report.comparison
        assert found.agreement == 1 and found.max_difference < 1e-5
        assert found.accuracy == found.model_accuracy > 0.95

    def test_shows_a_float16_file_to_be_the_model_to_two_digits(self, float16_file):
        found = float16_file.report.comparison
        assert found.agreement == 1 and 1e-5 < found.max_difference < 5e-3
        assert found.accuracy == found.model_accuracy

    def test_shows_a_dynamic_file_to_be_nearly_the_model(self, dynamic_file):
        found = dynamic_file.report.comparison
        assert found.agreement >= 0.98 and found.accuracy > 0.95
        assert 1e-3 < found.max_difference < 0.2

    def test_shows_an_int8_file_to_be_nearly_the_model(self, int8_file):
        found = int8_file.report.comparison
        assert found.agreement >= 0.98 and found.accuracy > 0.95
        assert 1e-3 < found.max_difference < 0.2

    def test_reads_as_one_line_with_every_figure(self, int8_file):
        line, found = str(int8_file.report), int8_file.report.comparison
        assert line.startswith(f"{int8_file.path}: tflite-int8, 11.32 MB, ")
        assert f"agreement {found.agreement:.2%}" in line and "n = 100" in line
        assert f"top-1 {found.accuracy:.2%} (model {found.model_accuracy:.2%})" in line
        assert "\n" not in line

    def test_says_that_accuracy_was_not_measured_where_no_labels_came(
        self, classifier, float32_file, held_out, convert_to, tmp_path
    ):
        convert_to(float32_file.converted)
        report = export_tflite(classifier, tmp_path / "a.tflite", check=held_out[0][:8])
        assert report.comparison.accuracy is None and report.comparison.n == 8
        assert "accuracy not measured" in str(report)

    def test_without_check_is_about_the_calibration_images(
        self, classifier, int8_file, training, convert_to, tmp_path, monkeypatch
    ):
        convert_to(int8_file.converted)
        monkeypatch.setattr(tflite, "CALIBRATION_IMAGES", 210)
        report = export_tflite(
            classifier,
            tmp_path / "a.tflite",
            quantize="int8",
            calibration=tf.data.Dataset.from_tensor_slices(training).repeat().batch(50),
        )
        assert report.comparison.n == 210 and report.comparison.accuracy > 0.95

    def test_without_any_images_is_about_noise(
        self, classifier, float32_file, convert_to, tmp_path
    ):
        convert_to(float32_file.converted)
        report = export_tflite(classifier, tmp_path / "a.tflite")
        assert report.comparison.n == 16 and report.comparison.max_difference < 1e-4


def swap_classes(model: keras.Model) -> keras.Model:
    return keras.Model(model.input, keras.ops.roll(model.output, 1, axis=1))


def shift_mean(model: keras.Model) -> keras.Model:
    image = keras.Input((32, 32, 3))
    return keras.Model(image, model(keras.layers.Rescaling(1.0, offset=40.0)(image)))


def swap_channels(model: keras.Model) -> keras.Model:
    image = keras.Input((32, 32, 3))
    return keras.Model(image, model(image[..., ::-1]))


@pytest.fixture
def previous(tmp_path):
    """A file from an earlier export, alone in its folder."""
    path = tmp_path / "digits.tflite"
    path.write_bytes(b"an earlier export")
    yield path
    assert path.read_bytes() == b"an earlier export"
    assert list(tmp_path.iterdir()) == [path], "something was left behind"


class TestVerification:
    """Every test here also shows, by `previous`, that the file at the path stays as it was."""

    @pytest.mark.parametrize("other", [swap_classes, shift_mean, swap_channels])
    def test_refuses_a_file_of_another_network(
        self, small_file, other, held_out, training, convert_to, previous
    ):
        convert_to(small_file.converted)
        quantize = "int8" if "int8" in small_file.report.format else None
        with pytest.raises(ExportError, match="nothing was written"):
            export_tflite(
                other(small_file.model),
                previous,
                quantize=quantize,
                calibration=training[0][:200],
                check=held_out[0][:40],
            )

    def test_refuses_a_float32_file_by_its_probabilities_where_every_class_agrees(
        self, classifier, float32_file, held_out, convert_to, previous
    ):
        flatter = keras.models.clone_model(classifier)
        flatter.set_weights(classifier.get_weights())
        head = flatter.get_layer("predictions")
        head.set_weights([0.9 * weights for weights in head.get_weights()])
        convert_to(float32_file.converted)
        with pytest.raises(ExportError, match=r"differ from the model's by up to 0\.\d+.*0\.001"):
            export_tflite(flatter, previous, check=held_out[0][:20])

    def test_refuses_a_graph_without_operators(
        self, small_file, training, convert_to, tmp_path_factory, previous
    ):
        model = flatbuffer_utils.read_model(str(small_file.converted))
        model.subgraphs[0].operators = []
        empty = tmp_path_factory.mktemp("empty") / "empty.tflite"
        flatbuffer_utils.write_model(model, str(empty))
        convert_to(empty)
        quantize = "int8" if "int8" in small_file.report.format else None
        with pytest.raises(ExportError, match=r"has 0 convolutions, the model 2\b"):
            export_tflite(
                small_file.model, previous, quantize=quantize, calibration=training[0][:200]
            )

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

        def interrupt():
            while not pid_file.exists():
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            export_tflite(tiny, previous)
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid_file.read_text()), 0)


IMAGES = np.full((4, 8, 8, 3), 200, np.uint8)


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"labels": ["a", "b"]}, r"labels must be 3 names.*Received: 2$"),
            ({"labels": "abc"}, r"labels must be 3 names.*Received: one string$"),
            ({"labels": ["a", "", "c"]}, r"non-empty.*Received: ''$"),
            ({"labels": ["a", "b\n", "c"]}, r"one-line.*Received: 'b\\n'$"),
            ({"labels": [1, 2, 3]}, r"strings.*Received: 1$"),
            (
                {"quantize": "int16"},
                r"None, 'float16', 'dynamic', 'int8'\. Received: quantize='int16'$",
            ),
            ({"quantize": "int8"}, r"needs calibration images.*Received: calibration=None$"),
            ({"quantize": "dynamic"}, r"images to be compared on: give check.*Received: neither$"),
            ({"min_agreement": 98}, r"from 0 to 1.*Received: min_agreement=98$"),
            ({"min_agreement": float("nan")}, r"from 0 to 1.*Received: min_agreement=nan$"),
            ({"quantize": "int8", "calibration": IMAGES[:0]}, r"calibration needs at least one"),
            (
                {"quantize": "int8", "calibration": IMAGES[:, :7]},
                r"calibration needs .*\(8, 8, 3\).*Received: \(7, 8, 3\)$",
            ),
            (
                {"quantize": "int8", "calibration": np.repeat(IMAGES, 49, axis=0)},
                r"needs 200 calibration images or more\. Received: 196: give more, or take quant",
            ),
            ({"about": {"licence": "MIT"}}, r"about takes name, .*license\. Received: 'licence'$"),
            ({"about": {"author": " "}}, r"about needs text for its author\. Received: ' '$"),
            ({"about": {"version": 2}}, r"about needs text for its version\. Received: 2$"),
            ({"about": {"name": "\udcff"}}, r"about needs text for its name"),
            ({"labels": ["a", "b", "\udcff"]}, r"labels must be .* of Unicode"),
            ({"check": IMAGES[:0]}, r"check needs at least one image. Received: none$"),
            ({"check": IMAGES / 255}, r"check needs pixels of 0 to 255.*from 0\.784 to 0\.784$"),
            ({"check": IMAGES - 128.0 * 2}, r"not normalised ones.*from -56 to -56$"),
            ({"check": "photos/"}, r"check must be a tf\.data\.Dataset or arrays.*Received: str$"),
        ],
    )
    def test_that_cannot_be_used_are_told_before_any_conversion(
        self, tiny, tmp_path, monkeypatch, arguments, message
    ):
        monkeypatch.setattr(tflite, "_convert", lambda *_: pytest.fail("converted"))
        with pytest.raises(InputError, match=message):
            export_tflite(tiny, tmp_path / "new" / "a.tflite", **arguments)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("model", "message"),
        [
            (
                lambda: build_resnet18(include_top=False, input_shape=(32, 32, 3), stem="small"),
                r"include_top=True. Received: output shape \(None, 4, 4, 512\)$",
            ),
            (
                lambda: build_resnet18(input_shape=(None, None, 3)),
                r"images of one size.*Received: input shape \(None, None, None, 3\)$",
            ),
            (
                lambda: keras.Sequential([keras.layers.Dense(3)]),
                r"knows its .*Received: Sequential$",
            ),
            (lambda: "model.keras", r"functional or Sequential keras\.Model.*Received: str$"),
            (
                lambda: keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)]),
                r"one input, \(batch, height.*Received: input shape \(None, 8\)",
            ),
        ],
        ids=["features", "any size", "not built", "a path", "no image"],
    )
    def test_a_model_of_no_use_is_told_why(self, model, message, tmp_path):
        with pytest.raises(InputError, match=message):
            export_tflite(model(), tmp_path / "a.tflite")
        assert not list(tmp_path.iterdir())

    def test_a_folder_is_not_replaced_by_a_file(self, tiny, tmp_path):
        with pytest.raises(InputError, match="exists and is not a file"):
            export_tflite(tiny, tmp_path)

    def test_a_path_below_a_file_is_none(self, tiny, tmp_path):
        (tmp_path / "file").write_text("mine")
        with pytest.raises(InputError, match=r"Received: \S+, below the file \S+file$"):
            export_tflite(tiny, tmp_path / "file" / "sub" / "a.tflite")
        assert (tmp_path / "file").read_text() == "mine"

    def test_a_file_is_replaced_and_its_new_folder_made(
        self, classifier, float32_file, convert_to, tmp_path
    ):
        convert_to(float32_file.converted)
        path = tmp_path / "new" / "folder" / "a.tflite"
        export_tflite(classifier, str(path))
        assert contents(path).labels == [str(number) for number in range(10)]
        export_tflite(classifier, path, labels=list("abcdefghij"))
        assert contents(path).labels == list("abcdefghij")
        assert {file.name for file in path.parent.iterdir()} == {"a.tflite", "a.tflite.json"}
