"""A run's exports are compared with its model on images that it never trained on."""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from small import draw_images

from keras_resnet18 import evaluate, verify
from keras_resnet18.errors import ExportError, InputError
from keras_resnet18.exporters import export as export_module
from keras_resnet18.exporters.export import export
from keras_resnet18.files import EXPORTS
from keras_resnet18.images import read_image
from keras_resnet18.run import Run, load_run
from keras_resnet18.spec import ClassifierSpec


def test_every_format_is_written_with_its_specification(run, exported, export_reports):
    files = {EXPORTS[report.format].file for report in export_reports}
    assert files >= {"saved_model", "model.tflite", "model-int8.tflite", "model.onnx"}
    beside = {f"{name}.json" for name in files} | {"labels.txt", "classifier.json"}
    assert {path.name for path in exported.iterdir()} == files | beside
    assert ClassifierSpec.read(exported / "classifier.json") == run.spec
    assert (exported / "labels.txt").read_text(encoding="utf-8") == "ant\nbee\n蝉\n"
    for report in export_reports:
        assert report.path.parent == exported and report.path.exists()
        assert report.comparison.n == 10  # check_images, of 12 test images
        assert report.comparison.accuracy is not None


@pytest.fixture
def given(monkeypatch):
    """What the exporters were given, by the format, instead of minutes of conversion.

    A format's `failure` is raised; its report is its name.
    """
    given: dict[str, dict] = {name: {} for name in EXPORTS}
    formats = {EXPORTS[name].file: name for name in EXPORTS}

    def pretend(model, path, **arguments):
        name = formats[path.name]
        if "failure" in given[name]:
            raise given[name]["failure"]
        given[name] = arguments
        return name

    for name in ("export_tflite", "export_saved_model", "export_onnx"):
        monkeypatch.setattr(export_module, name, pretend)
    monkeypatch.setattr(export_module, "MIN_CALIBRATION_IMAGES", 49)
    return given


def test_formats_are_exported_when_it_is_called_each_once(run, given, tmp_path):
    assert export(run, ["tflite", "saved_model", "tflite"], tmp_path) == ["tflite", "saved_model"]
    assert given["tflite"]["spec"] == given["saved_model"]["spec"] == run.spec
    assert export(run, out=tmp_path) == list(EXPORTS)


def test_a_format_that_fails_does_not_stop_the_others(run, given, tmp_path):
    given["tflite"]["failure"] = ExportError("other answers")
    given["tflite-int8"]["failure"] = InputError("a broken image")
    given["onnx"]["failure"] = ExportError("other answers")
    message = "^tflite, onnx failed: other answers. tflite-int8 failed: a broken image$"
    with pytest.raises(ExportError, match=message) as error:
        export(run, out=tmp_path)
    assert error.value.reports == ["saved_model", "tflite-float16", "tflite-dynamic"]
    for name in ("tflite", "tflite-int8"):
        with pytest.raises(InputError) as error:
            export(run, name, tmp_path)
        assert error.value is given[name]["failure"]


def test_int8_is_calibrated_on_training_images_and_checked_on_others(run, images, given, tmp_path):
    export(run, "tflite-int8", tmp_path)
    for argument, splits, n in (
        ("calibration", ["train"], 49),
        ("check", ["test", "val"], 21),
        ("validation", ["val"], 9),
    ):
        batches = given["tflite-int8"][argument].as_numpy_iterator()
        found = np.concatenate([batch for batch, _ in batches])
        assert len(found) == n
        files = [path for split in splits for path in (images / split).rglob("*.png")]
        expected = {read_image(path).tobytes() for path in files}
        assert {image.tobytes() for image in found} == expected


def test_data_is_all_of_another_source_for_every_verb(run, images, tmp_path):
    new = str(draw_images(tmp_path / "new", {"bee": 7, "ant": 3}))  # no splits, not every class
    (report,) = export(run, "saved_model", tmp_path / "export", data=new)
    verified = functools.partial(verify, report.path, run)
    found = [report.comparison, verified(data=new).comparison, evaluate(report.path, data=new)]
    assert [one.n for one in found] == [10, 10, 10]
    assert found[0].accuracy == found[1].accuracy == found[2].accuracy > 0.5
    moved = shutil.copytree(images, tmp_path / "moved")  # the run's own, which keep their splits
    assert verified(data=str(moved)).comparison.n == 21
    with pytest.warns(UserWarning, match="49 of the 49 images are training images"):
        assert verified(data=str(images / "train")).comparison.n == 49


def test_another_source_calibrates_only_where_the_runs_own_is_gone(run, moved, given, tmp_path):
    def sizes():
        found = given["tflite-int8"]
        arguments = ("calibration", "validation", "check")
        return [sum(len(labels) for _, labels in found[name]) for name in arguments]

    new = str(draw_images(tmp_path / "new", {"ant": 30, "bee": 25}))
    export(run, "tflite-int8", tmp_path / "export", data=new)
    assert sizes() == [49, 9, 55]
    with pytest.warns(UserWarning, match="training images is not known"):
        export(moved, "tflite-int8", tmp_path / "export", data=new)
    assert sizes() == [55, 55, 55]


def test_a_limit_takes_images_of_all_classes(run, given, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "CALIBRATION_IMAGES", 20)
    export(run, "tflite", tmp_path, check_images=9)
    for argument, n in (("calibration", 20), ("check", 9)):
        batches = given["tflite"][argument].as_numpy_iterator()
        labels = np.concatenate([labels for _, labels in batches])
        assert len(labels) == n
        assert set(labels) == {0, 1, 2}


def test_a_format_is_exported_with_its_quantisation_and_the_runs_name(run, given, tmp_path):
    kinds = {name: name.partition("-")[2] or None for name in EXPORTS if name.startswith("tflite")}
    export(run, list(kinds), tmp_path, about={"author": "A. Lee"})
    for name, kind in kinds.items():
        assert given[name]["quantize"] == kind
        assert given[name]["about"] == {"name": run.path.name, "author": "A. Lee"}


def test_a_run_whose_name_is_not_utf8_gives_its_files_a_name_that_is(run, given, tmp_path):
    copy = shutil.copytree(run.path, tmp_path / os.fsdecode(b"caf\xe9"))
    export(copy, ["tflite"], tmp_path / "export")
    assert given["tflite"]["about"] == {"name": "caf?"}


def test_all_leaves_int8_out_for_few_training_images(run, given, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "MIN_CALIBRATION_IMAGES", 200)
    with pytest.raises(InputError, match=r"needs 200 training images or more.*Received: 49:"):
        export(run, ["tflite", "tflite-int8"], tmp_path)
    assert list(tmp_path.iterdir()) == []
    notes = []
    written = export(run, out=tmp_path, note=notes.append)
    assert set(written) == EXPORTS.keys() - {"tflite-int8"}
    (note,) = notes
    assert note.startswith("left out: tflite-int8 needs 200 training images or more")
    assert "Received: 49:" in note and "\n" not in note


def test_a_format_without_its_extra_is_refused_or_left_out(run, given, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_resnet18.classify.exported.ONNX_MODULES", ("tf2onnx_is_not_here",))
    message = r"pip install 'keras-resnet18\[onnx\]'. Received: no tf2onnx_is_not_here installed"
    for formats in (["onnx"], ["all", "onnx"]):
        with pytest.raises(InputError, match=message):
            export(run, formats, tmp_path)
    assert list(tmp_path.iterdir()) == []
    notes = []
    assert set(export(run, "all", tmp_path, note=notes.append)) == EXPORTS.keys() - {"onnx"}
    (note,) = notes
    assert note.startswith("left out: an .onnx file needs the extra onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"formats": "coreml"}, "one of saved_model, .*, onnx, all. Received: format='coreml'"),
        ({"formats": ["all", "coreml"]}, "Received: format='coreml'"),
        ({"formats": ["tflite"], "about": {"color": "red"}}, "about takes name, description"),
        ({"check_images": 0}, "check_images must be 1 or more"),
        ({"data": "digits"}, "must be of the classifier's classes"),
    ],
)
def test_what_cannot_be_exported_is_said_at_the_call(run, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        export(run, out=tmp_path / "export", **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["labels.txt", "classifier.json", "model.tflite"])
def test_somebody_elses_files_are_not_replaced(run, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="no export wrote"):
        export(run, ["tflite"], tmp_path)
    assert (tmp_path / name).read_text() == "mine"
    with pytest.raises(InputError, match="which is a file"):
        export(run, ["tflite"], tmp_path / name)


def test_a_broken_image_is_named(run, broken_images, tmp_path):
    warns = pytest.warns(UserWarning, match="48 of the 70 images are training images")
    with warns, pytest.raises(InputError, match=r"Received: .*bee/0\.png"):
        export(run, ["tflite"], tmp_path / "export", data=str(broken_images))


@pytest.fixture
def moved(run, tmp_path):
    """A copy of the run, whose images are no longer where they were."""
    copy = Run(Path(shutil.copytree(run.path, tmp_path / "moved")))
    copy.write_json(copy.environment_file, {**run.environment, "source": str(tmp_path / "gone")})
    return load_run(copy.path)


def test_without_its_images_a_run_offers_the_formats_that_need_none(moved, given, tmp_path):
    with pytest.raises(InputError, match=r"tflite-int8 need images; .*tflite-float16.*data="):
        export(moved, ["tflite-int8"], tmp_path / "export")
    said = []
    written = export(moved, "all", tmp_path / "export", note=said.append)
    assert written == ["saved_model", "tflite", "tflite-float16", "onnx"]
    assert any("have moved: give their place as data=" in line for line in said)
    said.clear()
    export(moved, ["tflite"], tmp_path / "export", note=said.append)
    assert len(said) == 1 and said[0].startswith("compared on noise, and not on test images: ")
    assert given["tflite"]["check"] is None


def test_a_split_that_changed_is_not_verified_on(run, exported, tmp_path):
    copy = Run(Path(shutil.copytree(run.path, tmp_path / "copy")))
    known = run.environment["images"]
    other = {**known, "validation": {"n": 9, "sha256": "of others"}}
    copy.write_json(copy.environment_file, {**run.environment, "images": other})
    file = shutil.copy(exported / "model.tflite", tmp_path)
    assert verify(file, copy, split="test").fault is None
    with pytest.raises(InputError, match=r"test and validation images of .* have changed"):
        verify(file, copy)


def test_without_its_images_evaluate_and_verify_name_the_option(moved, exported):
    for verb in (evaluate, functools.partial(verify, exported / "model.tflite")):
        with pytest.raises(InputError, match=r"have moved: give their place as data="):
            verb(moved)
