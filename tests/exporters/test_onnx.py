"""export_onnx writes a file that ONNX Runtime runs, answering as the model does."""

from __future__ import annotations

import importlib.util

import pytest

from keras_resnet18 import export_onnx
from keras_resnet18.classify.exported import OnnxFile, open_exported
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


def test_is_a_valid_graph_of_opset_18_that_does_not_tell_where_it_was_made(onnx_file):
    onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
    onnx.checker.check_model(onnx_file.path, full_check=True)
    model = onnx.load(onnx_file.path)
    assert {x.domain: x.version for x in model.opset_import}[""] == 18
    assert (model.doc_string, model.graph.doc_string) == ("", "")


@needs_onnx
def test_that_differs_is_refused_the_old_stays(onnx_file, small_classifier, tmp_path, monkeypatch):
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


@pytest.mark.parametrize("name", ["model.h5", "missing.onnx", "folder"])
def test_what_is_no_export_is_refused(tmp_path, name):
    (tmp_path / "model.h5").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"a \.tflite file, an \.onnx file or a SavedModel"):
        open_exported(tmp_path / name)
