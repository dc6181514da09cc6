"""verify compares an exported file with its run: figures, faults, refusals, output."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import keras
import pytest
from ai_edge_litert.tools import flatbuffer_utils
from digit_exports import LABELS
from PIL import Image
from small import build_color_classifier, color_digits

from keras_resnet18 import export_saved_model
from keras_resnet18.errors import ExportError, InputError
from keras_resnet18.exporters.export import export
from keras_resnet18.exporters.verify import verify
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.run import Run, load_run
from keras_resnet18.spec import ClassifierSpec
from keras_resnet18.tflite_file import append_files

PARTS = {"train": slice(0, 300), "val": slice(300, 350), "test": slice(350, 450)}


@pytest.fixture(scope="module")
def color_run(digits, quick_recipe, tmp_path_factory):
    """A finished run on a folder of colored digits, made by hand in seconds."""
    images, labels = color_digits(digits, 450)
    folder, run = tmp_path_factory.mktemp("digits"), Run(tmp_path_factory.mktemp("runs") / "digits")
    for part, rows in PARTS.items():
        for name in LABELS:
            (folder / part / name).mkdir(parents=True)
        for i in range(rows.start, rows.stop):
            Image.fromarray(images[i]).save(folder / part / LABELS[labels[i]] / f"{i}.png")
    run.path.mkdir()
    build_color_classifier(images[:300], labels[:300]).save(run.model_file)
    run.write_text(run.recipe_file, quick_recipe.to_toml())
    spec = ClassifierSpec(tuple(LABELS), Preprocess(size=(32, 32), crop_ratio=1.0))
    run.write_text(run.spec_file, spec.to_json())
    run.write_json(run.environment_file, {"source": str(folder)})
    run.write_json(run.metrics_file, {})
    return load_run(run.path)


@pytest.fixture(scope="module")
def two_exports(color_run, tmp_path_factory):
    """The folders of two exports of the run, as float32 and int8, and as int8."""
    folders = [tmp_path_factory.mktemp("export") for _ in range(2)]
    for folder, formats in zip(folders, (["tflite", "tflite-int8"], "tflite-int8"), strict=True):
        export(color_run, formats, folder)
    return folders


@pytest.fixture
def file(two_exports, tmp_path):
    """A copy of the float32 file, under a name that does not tell what it is."""
    return shutil.copy(two_exports[0] / "model.tflite", tmp_path / "copy.tflite")


def figures(path):
    return json.loads(path.with_name(f"{path.name}.json").read_text(encoding="utf-8"))


def test_two_exports_of_a_run_are_the_same_bytes_and_figures(two_exports):
    a, b = (folder / "model-int8.tflite" for folder in two_exports)
    assert a.read_bytes() == b.read_bytes()
    assert figures(a) | {"latency_ms": 0} == figures(b) | {"latency_ms": 0}


def test_an_export_has_its_proof_beside_it(two_exports):
    path = two_exports[0] / "model-int8.tflite"
    found = figures(path)
    assert (found["file"], found["format"], found["passed"]) == (path.name, "tflite-int8", True)
    assert found["size_bytes"] == path.stat().st_size
    assert found["n"] == 150 and found["agreement"] >= 0.98
    assert found["agreement_interval"][0] < found["agreement"]
    assert found["accuracy"] >= 0.97 and found["model_accuracy"] == 1
    assert 0 < found["mean_difference"] < found["max_difference"] < 0.5
    assert found["operators"]["CONV_2D"] == 2
    assert found["latency_ms"] > 0 and found["threads"] >= 1
    assert "ai-edge-litert" in found["environment"]["packages"]


def test_a_file_is_proved_again_by_what_it_is_and_not_by_its_name(color_run, file, two_exports):
    report = verify(file, color_run.path)
    assert (report.format, report.fault) == ("tflite", None)
    expected = figures(two_exports[0] / "model.tflite") | {"latency_ms": 0, "file": file.name}
    assert figures(file) | {"latency_ms": 0} == expected
    assert verify(two_exports[1] / "model-int8.tflite", color_run.path).format == "tflite-int8"
    assert verify(file, color_run.path, split="validation").comparison.n == 50


def without_spec(path):
    flatbuffer_utils.write_model(flatbuffer_utils.read_model(str(path)), str(path))


def with_another(**change):
    """Puts another specification behind a model."""

    def put(path):
        without_spec(path)
        spec = ClassifierSpec(tuple(LABELS), Preprocess(size=(32, 32), crop_ratio=1.0))
        append_files(path, {"classifier.json": dataclasses.replace(spec, **change).to_json()})

    return put


swap_labels = with_another(labels=(LABELS[1], LABELS[0], *LABELS[2:]))


def cut_off_the_end(path):
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap_labels, "not the run's: label 0 is 'digit 1', not 'digit 0'"),
        (with_another(preprocess=Preprocess(size=(32, 32))), "crop_ratio=0.875"),
        (with_another(threshold=0.5), "the score threshold is 0.5, not None"),
        (without_spec, "it has no specification"),
        (cut_off_the_end, "its end is cut off"),
    ],
)
def test_another_specification_is_a_fault(color_run, file, change, message):
    change(file)
    report = verify(file, color_run.path)
    assert "its specification" in report.fault or "it has no specification" in report.fault
    assert message in report.fault
    assert report.comparison.agreement == 1
    assert figures(file)["passed"] is False and figures(file)["fault"] == report.fault


@pytest.mark.parametrize("name", ["classifier.json", "labels.txt"])
def test_a_class_renamed_beside_the_file_alone_is_a_fault(color_run, two_exports, tmp_path, name):
    folder = Path(shutil.copytree(two_exports[0], tmp_path / "export"))
    text = (folder / name).read_text(encoding="utf-8")
    (folder / name).write_text(text.replace("digit 3", "three"), encoding="utf-8")
    assert f"the {name} beside it" in verify(folder / "model.tflite", color_run.path).fault


def test_a_saved_model_that_prepares_images_in_another_way_is_a_fault(color_run, tmp_path):
    path = tmp_path / "model"
    preprocess = Preprocess(size=(32, 32), crop_ratio=0.5)
    spec = dataclasses.replace(color_run.spec, preprocess=preprocess)
    export_saved_model(color_run.model, path, spec=spec)
    fault = verify(path, color_run.path).fault
    assert "images are prepared by " in fault and "crop_ratio=0.5" in fault


def truncate(path):
    path.write_bytes(path.read_bytes()[:50_000])


def empty(path):
    model = flatbuffer_utils.read_model(str(path))
    model.subgraphs[0].operators = []
    flatbuffer_utils.write_model(model, str(path))


def need_flex(path):
    model = flatbuffer_utils.read_model(str(path))
    code = model.operatorCodes[model.subgraphs[0].operators[-1].opcodeIndex]
    code.builtinCode = code.deprecatedBuiltinCode = 32
    code.customCode = "FlexSoftmax"
    flatbuffer_utils.write_model(model, str(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (truncate, "cannot be run by LiteRT: "),
        (lambda path: path.write_bytes(b"no model"), "cannot be run by LiteRT"),
        (empty, "the empty graph has 0 convolutions, the model 2"),
        (need_flex, "cannot be run by LiteRT: .*"),
    ],
)
def test_a_file_that_cannot_be_run_is_told_and_its_proof_failed(color_run, file, change, message):
    change(file)
    with pytest.raises(ExportError, match=message) as error:
        verify(file, color_run.path)
    assert "\n" not in str(error.value)
    assert figures(file)["passed"] is False and figures(file)["fault"] == str(error.value)


@pytest.mark.parametrize(
    ("labels", "size", "message"),
    [
        ("ab", (32, 32), "must be 10 names.*Received: 2"),
        (LABELS, (16, 24), "32×32×3. Received: 16×24×3"),
    ],
)
def test_a_proof_survives_a_run_of_another_kind(color_run, file, tmp_path, labels, size, message):
    before = file.with_name(f"{file.name}.json")
    before.write_text('{"passed": true}')
    run = Run(shutil.copytree(color_run.path, tmp_path / "other"))
    run.write_text(run.spec_file, ClassifierSpec(tuple(labels), Preprocess(size=size)).to_json())
    image = keras.Input((*size, 3))
    outputs = keras.layers.Dense(len(labels))(keras.layers.GlobalAveragePooling2D()(image))
    keras.Model(image, outputs).save(run.model_file)
    message = rf"copy\.tflite is not .*{message}, in .*classifier\.json$"
    with pytest.raises(InputError, match=message):
        verify(file, run.path)
    assert before.read_text() == '{"passed": true}'


def test_what_cannot_be_compared_is_told(color_run, file, tmp_path):
    def refused(path, against, message):
        with pytest.raises(InputError, match=message) as error:
            verify(path, against)
        assert "\n" not in str(error.value)

    refused(color_run.path, file, "the file first, .* Received: .*, which is a run$")
    refused(tmp_path / "a.tflite", color_run.path, r"a\.tflite, which is not there$")
    refused(file, tmp_path / "nothing", "nothing, which is not there")
    refused(file, tmp_path, r"a folder that `train` left, with recipe\.toml in it")
    copy = Run(shutil.copytree(color_run.path, tmp_path / "unfinished"))
    copy.metrics_file.unlink()
    refused(file, copy.path, "an unfinished run")


# the command line


def test_a_file_that_passes_is_shown_in_80_columns(color_run, two_exports, command, monkeypatch):
    monkeypatch.chdir(two_exports[0])
    out = command("verify", "model-int8.tflite", color_run.path).out
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("file           model-int8.tflite, tflite-int8, 0.0")
    assert lines[-1].split() == ["verdict", "passed"]
    for words in ("top-1", "model's top-1", "same class", "difference", "latency", "operators"):
        assert any(line.startswith(words) for line in lines)
    assert "95 % interval" in out and "n = 150" in out and "CONV_2D×2" in out


def test_a_file_that_fails_is_shown_with_its_fault_and_status_1(color_run, file, command):
    swap_labels(file)
    words = ("verify", file, color_run.path, "--split", "validation")
    status, out, err = command(*words, status=None)
    assert status == 1
    assert out.splitlines()[-1].split() == ["verdict", "failed"] and "n = 50" in out
    said = f"keras-resnet18: {file} does not pass: its specification is not the run's: "
    assert err.startswith(said) and err.count("\n") == 1
