"""What every exporter refuses, in one line, before anything is converted or written."""

from __future__ import annotations

import importlib.util

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from small import narrow_resnet18

from keras_resnet18 import (
    Preprocess,
    build_resnet18,
    export_onnx,
    export_saved_model,
    export_tflite,
    preprocess_input,
)
from keras_resnet18.classify.exported import TFLiteFile, open_exported
from keras_resnet18.errors import ExportError, InputError
from keras_resnet18.exporters import graph, saved_model
from keras_resnet18.spec import ClassifierSpec

IMAGES = np.full((4, 8, 8, 3), 200, np.uint8)
HAS_ONNX = importlib.util.find_spec("tf2onnx") is not None


@pytest.fixture
def refuses(tmp_path, monkeypatch):
    """`refuses(export, message, model, path, **arguments)`, leaving all files as they were."""
    for module, name in ((graph, "write_saved_model"), (saved_model, "_write_endpoints")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("converted"))

    def check(export, message, model, path="new/model", **arguments):
        if export is export_onnx and not HAS_ONNX:
            pytest.skip("needs the extra onnx")
        before = {file: file.is_file() and file.read_bytes() for file in tmp_path.rglob("*")}
        with pytest.raises(InputError, match=message) as error:
            export(model, tmp_path / path, **arguments)
        assert "\n" not in str(error.value)
        after = {file: file.is_file() and file.read_bytes() for file in tmp_path.rglob("*")}
        assert after == before

    return check


def with_head(head, *more, shape=(8, 8, 3), dtype=None):
    image = keras.Input(shape)
    x = layers.Conv2D(4, 3, dtype=dtype)(image)
    for layer in (*more, layers.GlobalAveragePooling2D(), head):
        x = layer(x)
    return keras.Model(image, x)


def classifier(*more, **arguments):
    return with_head(layers.Dense(3, "softmax", dtype="float32"), *more, **arguments)


def with_weight(value):
    model = classifier()
    kernel, bias = model.layers[-1].get_weights()
    kernel[0, 0] = value
    model.layers[-1].set_weights([kernel, bias])
    return model


EXPORTERS = pytest.mark.parametrize("export", [export_saved_model, export_tflite, export_onnx])


@EXPORTERS
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: with_head(layers.Dense(1, "sigmoid")), "build the model with classes=2"),
        (lambda: with_weight(np.nan), r"finite numbers.*Received: NaN or infinity in dense"),
        (
            lambda: build_resnet18(include_top=False, input_shape=(32, 32, 3), stem="small"),
            r"include_top=True. Received: .* output shape \(None, 4, 4, 512\)$",
        ),
        (lambda: keras.Sequential([layers.Dense(3)]), r"knows its .*Received: Sequential$"),
        (
            lambda: keras.Sequential([keras.Input((8,)), layers.Dense(3)]),
            r"one input, \(batch, height.*Received: input shape \(None, 8\)",
        ),
    ],
)
def test_a_model_that_is_not_a_trained_classifier_of_images(refuses, export, make, message):
    refuses(export, message, make())


@pytest.mark.parametrize("export", [export_tflite, export_onnx])
def test_a_model_for_images_of_any_size(refuses, export):
    message = r"images of one size.*Received: input shape \(None, None, None, 3\)$"
    refuses(export, message, classifier(shape=(None, None, 3)))


LABELS = list("abc")


@EXPORTERS
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": list("abcd")}, r"labels must be 3 names.*Received: 4, in the arguments$"),
        ({"labels": ["a", "b\n", "c"]}, r"one-line.*Received: 'b\\n'$"),
        ({"labels": ["a", "b", "\udcff"]}, r"labels must be .* of Unicode"),
        ({"spec": ClassifierSpec(LABELS, None), "labels": LABELS}, "give one of both"),
        ({"spec": LABELS}, "spec must be a ClassifierSpec. Received: list$"),
        (
            {"spec": ClassifierSpec(LABELS, Preprocess(size=(8, 9)))},
            r"that the model takes, 8×8×3\. Received: 8×9×3, in the arguments$",
        ),
        ({"check": IMAGES[:, :7]}, r"check needs images of .* Received: \(7, 8, 3\)$"),
        ({"check": IMAGES / 255}, r"check needs pixels of 0 to 255.*from 0\.784 to 0\.784$"),
        ({"check": "photos/"}, r"check must be a tf\.data\.Dataset or arrays.*Received: str$"),
    ],
    ids=str,
)
def test_arguments_that_cannot_be_used(refuses, export, tiny, arguments, message):
    refuses(export, message, tiny, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantize": "int16"}, r"None, 'float16', 'dynamic', 'int8'\. Received: quantize='int16'"),
        ({"quantize": "int8"}, r"needs calibration images.*Received: calibration=None$"),
        ({"quantize": "dynamic"}, r"images to be compared on: give check.*Received: neither$"),
        ({"min_agreement": 98}, r"from 0 to 1.*Received: min_agreement=98$"),
        (
            {"quantize": "int8", "calibration": IMAGES[:, :7]},
            r"\(8, 8, 3\).*Received: \(7, 8, 3\)$",
        ),
        (
            {"quantize": "int8", "calibration": np.repeat(IMAGES, 49, axis=0)},
            r"needs 200 calibration images or more\. Received: 196: give more, or take quant",
        ),
        ({"about": {"licence": "MIT"}}, r"about takes name, .*license\. Received: 'licence'$"),
        ({"about": {"version": 2}}, r"about needs text for its version\. Received: 2$"),
    ],
    ids=str,
)
def test_arguments_of_export_tflite_that_cannot_be_used(refuses, tiny, arguments, message):
    refuses(export_tflite, message, tiny, **arguments)


@EXPORTERS
def test_a_path_where_something_else_is(refuses, export, tiny, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("mine")
    refuses(export, r"Received: \S+, below the file \S+file$", tiny, "file/sub/model")
    for text in ("mine", "[1]", '{"name": "mine"}'):
        (tmp_path / "other.json").write_text(text)
        refuses(export, "is not the report of an export", tiny, "other")
    taken = ["file", "folder"] if export is export_saved_model else ["folder"]
    for path in taken:
        refuses(export, "exists and is not a (file|SavedModel)", tiny, path)


def test_a_missing_extra_is_named(tiny, tmp_path, monkeypatch):
    modules = ("numpy", "onnx_is_not_here")
    monkeypatch.setattr("keras_resnet18.classify.exported.ONNX_MODULES", modules)
    message = r"pip install 'keras-resnet18\[onnx\]'. Received: no onnx_is_not_here installed$"
    (path := tmp_path / "a.onnx").write_bytes(b"")
    for call in (lambda path: export_onnx(tiny, path), open_exported):
        with pytest.raises(InputError, match=message):
            call(path)
    assert path.read_bytes() == b""


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    options = {"input_shape": (16, 16, 3), "classes": 3, "stem": "small_stride2"}
    with pytest.MonkeyPatch.context() as patch:
        narrow_resnet18(patch)
        return build_resnet18(include_preprocessing=False, **options)


class TestNetworkWithoutItsNormalization:
    @EXPORTERS
    def test_is_refused_with_the_two_ways_out(self, network, export, tmp_path):
        for options in ({}, {"labels": ["a", "b", "c"]}):
            with pytest.raises(InputError, match=r"include_preprocessing=True.*or pass spec="):
                export(network, tmp_path / "model.x", **options)
        assert not list(tmp_path.iterdir())

    def test_is_exported_behind_the_normalization_of_a_specification(self, network, tmp_path):
        preprocess = Preprocess(size=(16, 16), mean=(0.5,) * 3, std=(0.25,) * 3)
        spec = ClassifierSpec(("a", "b", "c"), preprocess)
        export_tflite(network, tmp_path / "a.tflite", spec=spec)
        pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
        expected = network.predict((pixels / 255 - 0.5) / 0.25, verbose=0)
        np.testing.assert_allclose(TFLiteFile(tmp_path / "a.tflite")(pixels), expected, atol=1e-4)

    @pytest.mark.parametrize(
        "before",
        [
            lambda x: x,
            layers.RandomFlip(),
            layers.Resizing(16, 16),
            lambda x: keras.ops.cast(layers.Activation("linear")(x), "float32"),
            keras.Sequential([layers.RandomFlip(), layers.RandomBrightness(0.1)]),
        ],
        ids=["nothing", "flip", "resize", "cast", "augmentation"],
    )
    def test_is_found_inside_and_behind_layers_that_do_not_normalize(
        self, network, tmp_path, before
    ):
        pixels = keras.Input((16, 16, 3))
        options = {"stem": "small_stride2", "include_preprocessing": False, "classes": 3}
        for model in (
            keras.Model(pixels, network(before(pixels))),
            keras.Sequential(
                [keras.Input((16, 16, 3)), keras.Model(pixels, before(pixels)), network]
            ),
            build_resnet18(input_tensor=before(pixels), **options),
        ):
            with pytest.raises(InputError, match=r"or pass spec="):
                export_tflite(model, tmp_path / "a.tflite")

    def test_is_exported_behind_a_normalization_of_its_users(self, network, tmp_path):
        pixels = keras.Input((16, 16, 3))
        model = keras.Model(pixels, network(preprocess_input(pixels)))
        assert export_tflite(model, tmp_path / "a.tflite").comparison.agreement == 1


@EXPORTERS
@pytest.mark.parametrize("by", ["TensorFlow", "the converter"])
def test_a_full_disk_is_one_line_and_leaves_nothing(tiny, tmp_path, monkeypatch, export, by):
    message = "/a/b.tempstate; No space left on device"

    def full(*arguments, **options):
        if by == "TensorFlow":
            raise tf.errors.ResourceExhaustedError(None, None, message)
        raise ExportError(f"tf2onnx failed: {message}")

    monkeypatch.setattr(graph, "write_saved_model", full)
    monkeypatch.setattr(saved_model, "_write_endpoints", full)
    with pytest.raises(InputError, match=r"model\.x cannot be written: no space left") as error:
        export(tiny, tmp_path / "model.x")
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())
