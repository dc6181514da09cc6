"""The folder that a training leaves: what is in it, and when it is taken for a run."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest

from keras_resnet18 import info, load_run, train
from keras_resnet18.errors import InputError
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.run import Run, open_model, run_of, save_model

FILES = {
    *("model.keras", "classifier.json", "recipe.toml", "metrics.json", "predictions.csv"),
    *("report.html", "README.md", "history.csv", "environment.json", "tensorboard"),
    *("curves.png", "confusion_matrix.png"),
}


@pytest.fixture
def copy(run, tmp_path) -> Run:
    """The trained run once more, to be changed."""
    return Run(Path(shutil.copytree(run.path, tmp_path / "copy")))


def test_a_training_leaves_these_files_and_no_others(run):
    assert {path.name for path in run.path.iterdir()} == FILES
    assert all(path.stat().st_size for path in run.path.iterdir())


def test_a_run_reads_back_what_its_training_was_given(run, images, quick_recipe):
    opened = load_run(run.path)
    assert opened.recipe == quick_recipe
    assert opened.spec.labels == ("ant", "bee", "蝉")
    assert "蝉" in opened.spec_file.read_text(encoding="utf-8")
    assert opened.preprocess.size == (16, 16)
    assert opened.source == str(images)
    assert opened.environment["precision"] == "float32"
    assert opened.environment["packages"]["keras"]
    assert opened.model.output_shape == (None, 3)


def test_a_model_file_is_the_network_alone_and_older_kerases_open_it(resnet18, tmp_path):
    save_model(resnet18, path := tmp_path / "model.keras")
    assert path.stat().st_size < 1.1 * 4 * resnet18.count_params()
    with zipfile.ZipFile(path) as archive:
        config = archive.read("config.json").decode()
    modules = set(re.findall(r'"module": "([^"]+)"', config))
    assert "keras.layers" in modules
    assert all(module.partition(".")[0] == "keras" for module in modules)
    assert not re.findall(r'"registered_name": "[^"]*>', config)  # Package>Layer
    # Kerases before 3.15 refuse these, whatever their value
    newer = "quantization_config|renorm|renorm_clipping|renorm_momentum|input_axes|optional"
    assert not re.findall(f'"({newer})"', config)
    assert not open_model(path).compiled


@pytest.mark.parametrize("opened", [load_run, lambda path: train(resume=path)])
@pytest.mark.parametrize("name", ["metrics_file", "model_file"])
def test_a_finished_run_that_lost_a_file_is_not_trained_again(copy, opened, name):
    (lost := getattr(copy, name)).unlink()
    left = {path: path.read_bytes() for path in copy.files if path.is_file()}
    with pytest.raises(InputError, match=rf"needs its {lost.name}.*overwrite=True") as error:
        opened(copy.path)
    assert "resume" not in str(error.value)
    assert {path: path.read_bytes() for path in copy.files if path.is_file()} == left


@pytest.mark.parametrize("name", ["spec_file", "metrics_file", "recipe_file"])
def test_a_file_that_windows_marked_as_utf8_reads_as_before(copy, name):
    before = READS[name](load_run(copy.path))
    file = getattr(copy, name)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert READS[name](load_run(copy.path)) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ("a", "b")}, "labels must be 3 names.*Received: 2"),
        ({"preprocess": Preprocess(size=(32, 24))}, "takes, 16×16×3. Received: 32×24×3"),
        ({"preprocess": None}, "needs its preprocessing"),
    ],
)
def test_a_specification_of_another_model_is_refused(copy, change, message):
    copy.write_text(copy.spec_file, dataclasses.replace(copy.spec, **change).to_json())
    with pytest.raises(InputError, match=rf"{message}.*classifier\.json"):
        load_run(copy.path).model  # noqa: B018


READS = {
    "spec_file": lambda run: run.spec,
    "metrics_file": lambda run: run.metrics,
    "environment_file": lambda run: run.source,
    "recipe_file": lambda run: run.recipe,
    "model_file": lambda run: run.model,
}


@pytest.mark.parametrize(
    ("name", "damage"),
    [(name, damage) for name in READS for damage in ("gone", "cut short", "not UTF-8")],
)
def test_a_damaged_file_of_a_run_is_one_line_that_names_it(copy, name, damage):
    file = getattr(copy, name)
    content = file.read_bytes()
    file.write_bytes({"cut short": content[:9], "not UTF-8": b"\xff\xfe{"}.get(damage, content))
    if damage == "gone":
        file.unlink()
    with pytest.raises(InputError) as error:
        READS[name](copy)
    assert file.name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.replace(content[2000:2010], bytes(10)),
        lambda _: b"no model",
        lambda _: b"PK\x05\x06" + bytes(18),
    ],
)
def test_a_damaged_model_is_one_line(copy, damage):
    copy.model_file.write_bytes(damage(copy.model_file.read_bytes()))
    with pytest.raises(InputError, match=r"^.*model\.keras is not a model that Keras opens.*$"):
        open_model(copy.model_file)


def test_somebodys_model_beside_their_metrics_is_not_a_run(copy):
    copy.recipe_file.unlink()
    assert not copy.finished and run_of(copy.model_file) is None
    with pytest.raises(InputError, match=r"with recipe\.toml in it"):
        load_run(copy.path)


def test_a_name_that_is_not_utf8_is_written_and_read_back(copy):
    name = os.fsdecode(b"/photos/\xff\xe9")
    copy.write_json(copy.environment_file, {"source": name, "cpu": "é"})
    assert copy.source == name
    copy.write_json(copy.environment_file, {"source": 3, "cpu": "é"})
    assert "é" in copy.environment_file.read_text(encoding="utf-8")
    with pytest.raises(InputError, match=r"environment\.json must be as `train` wrote"):
        _ = copy.source


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda metrics: metrics.pop("test"), "without 'test'"),
        (lambda metrics: metrics["test"].update(accuracy="high"), "with other values"),
    ],
)
def test_metrics_that_are_not_trains_are_one_line(copy, change, found):
    metrics = copy.metrics
    change(metrics)
    copy.write_json(copy.metrics_file, metrics)
    with pytest.raises(InputError, match=f"copy them from a backup.*Received: .*, {found}$"):
        info(copy.path)
