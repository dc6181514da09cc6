"""export_onnx writes a file that ONNX Runtime runs, answering as the model does."""

from __future__ import annotations

import importlib.util

import keras
import numpy as np
import pytest

from keras_resnet18 import export_onnx
from keras_resnet18.classify.exported import OnnxFile, onnx_op_histogram, open_exported
from keras_resnet18.errors import ExportError, InputError
from keras_resnet18.exporters import onnx as onnx_export

needs_onnx = pytest.mark.skipif(
    importlib.util.find_spec("tf2onnx") is None, reason="needs the extra onnx"
)


def test_reports_that_it_gives_the_models_answers(onnx_file):
    proof = onnx_file.comparison
    assert (proof.n, proof.agreement) == (100, 1.0)
    assert proof.accuracy == proof.model_accuracy > 0.9
    assert proof.max_difference < 1e-5
    assert onnx_file.operators["Conv"] == 2
    assert str(onnx_file).startswith(f"{onnx_file.path}: onnx, 0.")


def test_takes_pixels_of_any_batch_and_knows_its_labels(
    onnx_file, small_classifier, coloured_digits, labels
):
    file = open_exported(onnx_file.path, threads=1)
    assert (file.image_shape, file.classes, file.spec.labels) == ((32, 32, 3), 10, tuple(labels))
    expected = small_classifier.predict(coloured_digits[0][:3], verbose=0)
    np.testing.assert_allclose(file(coloured_digits[0][:3]), expected, atol=1e-5)
    np.testing.assert_allclose(file(coloured_digits[0][:1]), expected[:1], atol=1e-5)


def test_is_a_valid_graph_of_opset_18_that_does_not_tell_where_it_was_made(onnx_file):
    onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
    onnx.checker.check_model(onnx_file.path, full_check=True)
    model = onnx.load(onnx_file.path)
    assert {x.domain: x.version for x in model.opset_import}[""] == 18
    assert (model.doc_string, model.graph.doc_string) == ("", "")


@needs_onnx
def test_that_differs_from_the_model_is_refused_and_the_old_one_stays(
    onnx_file, small_classifier, tmp_path, monkeypatch
):
    import onnx

    path = tmp_path / "model.onnx"
    path.write_bytes(b"the old one")

    def convert_wrongly(model, path):
        wrong = onnx.load(onnx_file.path)
        for weights in wrong.graph.initializer:
            if weights.data_type == onnx.TensorProto.FLOAT and len(weights.dims) == 1:
                weights.raw_data = bytes(len(weights.raw_data))
        onnx.save(wrong, path)

    monkeypatch.setattr(onnx_export, "_convert", convert_wrongly)
    with pytest.raises(ExportError, match=r"differ from the model's by up to .* on 16 images"):
        export_onnx(small_classifier, path)
    assert path.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [path]


@needs_onnx
def test_a_file_that_is_no_classifier_of_ours_is_refused(tmp_path):
    from onnx import TensorProto, helper, save

    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(InputError, match="cannot be run by ONNX Runtime") as error:
        OnnxFile(broken)
    assert "\n" not in str(error.value)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "negation", [x], [y])
    opsets = [helper.make_opsetid("", 18)]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "other.onnx")
    with pytest.raises(InputError, match=r"one input, image, uint8 .* Received: .*'x'"):
        OnnxFile(tmp_path / "other.onnx")


class TestArguments:
    def test_a_missing_extra_is_named(self, tiny, tmp_path, monkeypatch):
        modules = ("numpy", "onnx_is_not_here")
        monkeypatch.setattr("keras_resnet18.classify.exported.ONNX_MODULES", modules)
        message = r"pip install 'keras-resnet18\[onnx\]'. Received: no onnx_is_not_here installed$"
        (tmp_path / "a.onnx").write_bytes(b"")
        for call in (
            lambda: export_onnx(tiny, tmp_path / "b.onnx"),
            lambda: open_exported(tmp_path / "a.onnx"),
            lambda: onnx_op_histogram(tmp_path / "a.onnx"),
        ):
            with pytest.raises(InputError, match=message):
                call()
        assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]

    @needs_onnx
    def test_labels_must_be_as_many_as_classes(self, tiny, tmp_path):
        with pytest.raises(
            InputError, match=r"labels must be 3 names.*Received: 4, in the arguments$"
        ):
            export_onnx(tiny, tmp_path / "a.onnx", labels=list("abcd"))
        assert not list(tmp_path.iterdir())

    @needs_onnx
    def test_a_path_below_a_file_is_none(self, tiny, tmp_path):
        (tmp_path / "file").write_text("mine")
        with pytest.raises(InputError, match=r"below the file \S+file$"):
            export_onnx(tiny, tmp_path / "file" / "model.onnx")

    @needs_onnx
    def test_a_folder_is_not_replaced(self, tiny, tmp_path):
        with pytest.raises(InputError, match="exists and is not a file"):
            export_onnx(tiny, tmp_path)

    @needs_onnx
    def test_a_model_for_any_size_is_refused(self, tmp_path):
        image = keras.Input((None, None, 3))
        pooled = keras.layers.GlobalAveragePooling2D()(image)
        model = keras.Model(image, keras.layers.Dense(2, activation="softmax")(pooled))
        with pytest.raises(InputError, match="images of one size"):
            export_onnx(model, tmp_path / "a.onnx")

    @needs_onnx
    def test_images_of_another_size_are_refused_before_any_conversion(self, tiny, tmp_path):
        images = np.zeros((4, 16, 16, 3), np.uint8)
        with pytest.raises(InputError, match=r"check needs images of .* Received: \(16, 16, 3\)"):
            export_onnx(tiny, tmp_path / "a.onnx", check=images)
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["model.h5", "missing.onnx", "folder"])
def test_what_is_no_export_is_refused(tmp_path, name):
    (tmp_path / "model.h5").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"a \.tflite file, an \.onnx file or a SavedModel"):
        open_exported(tmp_path / name)
