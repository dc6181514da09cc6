"""A run's exports are compared with its model on images that it never trained on."""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from keras_resnet18 import evaluate, export_onnx, verify
from keras_resnet18.cli.export import export as export_command
from keras_resnet18.errors import ExportError, InputError
from keras_resnet18.exporters import export as export_module
from keras_resnet18.exporters.compare import Comparison
from keras_resnet18.exporters.export import CHECK_IMAGES, export
from keras_resnet18.files import EXPORTS
from keras_resnet18.run import Run, load_run
from keras_resnet18.spec import ClassifierSpec


def test_every_format_is_written_with_labels_and_preprocessing(run, exported, export_reports):
    files = {EXPORTS[report.format].file for report in export_reports}
    assert files >= {"saved_model", "model.tflite", "model-int8.tflite", "model.onnx"}
    beside = {f"{name}.json" for name in files} | {"labels.txt", "classifier.json"}
    assert {path.name for path in exported.iterdir()} == files | beside
    assert ClassifierSpec.read(exported / "classifier.json") == run.spec
    assert (exported / "labels.txt").read_text(encoding="utf-8") == "ant\nbee\n蝉\n"


def test_every_report_tells_where_and_on_how_many_images(exported, export_reports):
    for report in export_reports:
        assert report.path.parent == exported
        assert report.path.exists()
        assert report.comparison.n == 10  # check_images, of 12 test images
        assert report.comparison.accuracy is not None


def test_an_onnx_file_made_again_by_another_process_is_the_same_bytes(
    run, exported, converters_apart, tmp_path
):
    path = tmp_path / "new" / "again.onnx"
    path.parent.mkdir()
    path.write_text("an old one")
    report = export_onnx(run.model, path, spec=run.spec)
    assert path.read_bytes() == (exported / "model.onnx").read_bytes()
    assert (report.comparison.n, report.comparison.accuracy) == (16, None)
    assert report.comparison.max_difference < 1e-5
    assert report.operators["Conv"] == 1 and report.size_bytes == path.stat().st_size
    assert {file.name for file in path.parent.iterdir()} == {"again.onnx", "again.onnx.json"}


class Given(BaseException):
    """Carries what `export_tflite` was given, instead of minutes of conversion."""


@pytest.fixture
def given(monkeypatch):
    def catch(model, path, **arguments):
        raise Given(arguments)

    monkeypatch.setattr("keras_resnet18.exporters.export.export_tflite", catch)
    monkeypatch.setattr(export_module, "MIN_CALIBRATION_IMAGES", 49)


def rows(folder):
    from keras_resnet18.images import read_image

    return {read_image(path).tobytes() for path in folder.rglob("*.png")}


def test_int8_is_calibrated_on_training_images_and_checked_on_test_images(
    run, images, given, tmp_path
):
    with pytest.raises(Given) as caught:
        next(export(run, ["tflite-int8"], tmp_path / "export"))
    (arguments,) = caught.value.args
    assert arguments["quantize"] == "int8"
    for argument, split, n in (("calibration", "train", 49), ("check", "test", 12)):
        batches = arguments[argument].as_numpy_iterator()
        given_images = np.concatenate([batch for batch, _ in batches])
        assert len(given_images) == n
        assert {image.tobytes() for image in given_images} == rows(images / split)


def test_a_limit_takes_images_of_all_classes(digits, run, given, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_resnet18.exporters.export.CALIBRATION_IMAGES", 20)
    with pytest.raises(Given) as caught:
        next(export(run, ["tflite"], tmp_path / "export", check_images=9))
    (arguments,) = caught.value.args
    for argument, n in (("calibration", 20), ("check", 9)):
        labels = np.concatenate([labels for _, labels in arguments[argument].as_numpy_iterator()])
        assert len(labels) == n
        assert set(labels) == {0, 1, 2}


@pytest.mark.parametrize("name", ["float16", "dynamic", "int8"])
def test_a_format_is_exported_with_its_quantisation_and_the_runs_name(run, given, tmp_path, name):
    about = {"author": "A. Lee"}
    with pytest.raises(Given) as caught:
        next(export(run, [f"tflite-{name}"], tmp_path / "export", about=about))
    (arguments,) = caught.value.args
    assert arguments["quantize"] == name
    assert arguments["about"] == {"name": run.path.name, "author": "A. Lee"}


def test_a_run_whose_name_is_not_utf8_gives_its_files_a_name_that_is(run, given, tmp_path):
    copy = shutil.copytree(run.path, tmp_path / os.fsdecode(b"caf\xe9"))
    with pytest.raises(Given) as caught:
        next(export(copy, ["tflite"], tmp_path / "export"))
    (arguments,) = caught.value.args
    assert arguments["about"] == {"name": "caf?"}


def test_of_too_few_training_images_all_leaves_int8_out_and_says_so(run, tmp_path, monkeypatch):
    exported, notes = [], []

    def pretend(model, path, **arguments):
        exported.append(path.name)

    for name in ("export_tflite", "export_saved_model", "export_onnx"):
        monkeypatch.setattr(f"keras_resnet18.exporters.export.{name}", pretend)
    list(export(run, out=tmp_path, note=notes.append))
    assert "model-int8.tflite" not in exported and "model-dynamic.tflite" in exported
    (note,) = (note for note in notes if "int8" in note)
    assert note.startswith("left out: tflite-int8 needs 200 training images or more")
    assert "Received: 49:" in note and "\n" not in note


def test_int8_of_too_few_training_images_is_refused_at_the_call(run, tmp_path):
    with pytest.raises(InputError, match=r"needs 200 training images or more.*Received: 49:"):
        export(run, ["tflite", "tflite-int8"], tmp_path / "export")
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_is_wrong_is_not_written(run, tmp_path, monkeypatch):
    monkeypatch.setattr(Comparison, "fault", lambda *_: "the export gives other classes")
    with pytest.raises(ExportError, match="other classes"):
        list(export(run, ["saved_model"], tmp_path / "export"))
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"formats": ["coreml"]},
            "format must be one of saved_model, .*, onnx, all",
        ),
        ({"formats": "coreml"}, "Received: format='coreml'"),
        ({"formats": ["all", "coreml"]}, "Received: format='coreml'"),
        ({"formats": ["tflite"], "about": {"colour": "red"}}, "about takes name, description"),
        ({"check_images": 0}, "check_images must be 1 or more"),
        ({"data": "digits"}, "must have the classifier's classes"),
    ],
)
def test_what_cannot_be_exported_is_said_at_the_call(run, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        export(run, out=tmp_path / "export", **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def no_onnx(monkeypatch):
    """As where the extra is not installed."""
    monkeypatch.setattr("keras_resnet18.classify.exported.ONNX_MODULES", ("tf2onnx_is_not_here",))


def test_a_format_whose_extra_is_missing_is_refused_by_name_and_left_out_of_all(
    run, no_onnx, tmp_path, monkeypatch
):
    message = r"pip install 'keras-resnet18\[onnx\]'. Received: no tf2onnx_is_not_here installed"
    for formats in (["onnx"], ["all", "onnx"]):
        with pytest.raises(InputError, match=message):
            export(run, formats, tmp_path / "export")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(export_module, "MIN_CALIBRATION_IMAGES", 49)
    monkeypatch.setattr(
        "keras_resnet18.exporters.export._export", lambda run, formats, *rest: formats
    )
    said = []
    written = export(run, ["all"], tmp_path / "export", note=said.append)
    assert set(written) == EXPORTS.keys() - {"onnx"}
    assert [line.partition(": pip")[0] for line in said] == [
        "left out: an .onnx file needs the extra onnx"
    ]


@pytest.mark.parametrize("name", ["labels.txt", "classifier.json"])
def test_somebody_elses_files_are_not_replaced(run, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="no export left"):
        export(run, ["tflite"], tmp_path)
    assert (tmp_path / name).read_text() == "mine"
    with pytest.raises(InputError, match="which is a file"):
        export(run, ["tflite"], tmp_path / name)


def test_an_earlier_export_is_replaced(run, exported, given):
    with pytest.raises(Given):
        next(export(run, ["tflite"], exported))


def test_a_broken_image_is_named(run, broken_images, tmp_path):
    with pytest.raises(InputError, match=r"Received: .*bee/0\.png"):
        list(export(run, ["tflite"], tmp_path / "export", data=str(broken_images)))


def test_the_command_line_checks_on_as_many_images(run):
    assert export_command.__defaults__[-1] == CHECK_IMAGES
    assert load_run(run.path).export_folder == run.path / "export"


@pytest.fixture
def moved(run, tmp_path):
    """A copy of the run, whose images are no longer where they were."""
    copy = Run(Path(shutil.copytree(run.path, tmp_path / "moved")))
    copy.write_json(copy.environment_file, {**run.environment, "source": str(tmp_path / "gone")})
    return load_run(copy.path)


def test_without_its_images_a_run_offers_the_formats_that_need_none(moved, tmp_path):
    with pytest.raises(InputError, match=r"tflite-int8 need images; .*tflite-float16.*--data"):
        export(moved, ["tflite-int8"], tmp_path / "export")
    said = []
    export(moved, ["all"], tmp_path / "export", note=said.append)
    assert any("have moved: give their place with --data" in line for line in said)
    said.clear()
    (report,) = export(moved, ["tflite"], tmp_path / "export", note=said.append)
    assert len(said) == 1 and said[0].startswith("compared on noise, and not on test images: ")
    assert report.comparison.accuracy is None and report.comparison.n == 16


def test_a_split_that_changed_is_not_verified_on(run, exported, tmp_path):
    copy = Run(Path(shutil.copytree(run.path, tmp_path / "copy")))
    known = run.environment["images"]
    other = {**known, "validation": {"n": 9, "sha256": "of others"}}
    copy.write_json(copy.environment_file, {**run.environment, "images": other})
    file = shutil.copy(exported / "model.tflite", tmp_path)
    assert verify(file, copy).fault is None
    with pytest.raises(InputError, match=r"the validation images of .* have changed"):
        verify(file, copy, split="validation")


def test_without_its_images_evaluate_and_verify_name_the_option(moved, exported):
    for verb in (evaluate, functools.partial(verify, exported / "model.tflite")):
        with pytest.raises(InputError, match=r"have moved: give their place with --data"):
            verb(moved)
