"""Files are measured side by side: each by itself, on one thread and on all, with honest memory."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from PIL import Image
from small import as_unfinished

import keras_resnet18
from keras_resnet18.cli import app as cli
from keras_resnet18.cli import measure
from keras_resnet18.commands.benchmark import ROUNDS, SECONDS, benchmark, short_names
from keras_resnet18.errors import InputError
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.runtime import worker

QUICK = {"rounds": 1, "seconds": 0.01}


@pytest.fixture
def one_core(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(1), raising=False)


@pytest.fixture
def worked(monkeypatch):
    """Stands in for the processes: turn i takes i ms, every image is of class 0. What was asked.

    Its machine has four cores.
    """
    asked = []

    def work(file, threads, what):
        if what.endswith(".npy"):
            return [0] * 12
        asked.append((file.name, threads))
        figures = {"images": 10, "median_ms": len(asked), "p90_ms": 2 * len(asked)}
        return figures | {"images_per_second": 5, "peak_mib": len(asked), "runtime": "none"}

    monkeypatch.setattr(worker, "_work", work)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4), raising=False)
    return asked


@pytest.mark.parametrize(
    "file", ["model.keras", "export/saved_model", "export/model-int8.tflite", "export/model.onnx"]
)
def test_figures_of_every_kind_of_file_are_consistent(exported, one_core, tmp_path, file):
    path = tmp_path / Path(file).name  # where no run is, so that it need not answer test images
    path.symlink_to(exported.parent / file)
    (result,) = benchmark([path], **QUICK)
    (turn,) = result.rounds
    assert turn.images >= 10
    assert 0 < result.median_ms <= result.p90_ms
    assert 0 < result.images_per_second <= 2000 / result.median_ms  # half of them take longer
    files = path.rglob("*") if path.is_dir() else [path]
    assert result.size_bytes == sum(file.stat().st_size for file in files if file.is_file())
    assert (result.accuracy, result.n) == (None, 0)
    runtime = {".tflite": "LiteRT", ".onnx": "ONNX Runtime"}.get(path.suffix, "TensorFlow")
    assert re.fullmatch(rf"{runtime} [\d.]+", result.runtime)


def test_top_1_is_the_runs_own(run, exported, one_core):
    (result,) = benchmark([exported / "model.tflite"], **QUICK)
    assert (result.accuracy, result.n) == (run.metrics["test"]["accuracy"], 12)


def test_memory_is_the_files_own_and_not_that_of_who_measures(exported, one_core):
    (result,) = benchmark([exported / "model.tflite"], **QUICK)
    assert result.size_bytes / 2**20 < result.peak_mib < worker.peak_mib() / 2  # here is TensorFlow


def test_a_tflite_file_is_measured_without_tensorflow(exported, run_python):
    program = """
import sys
import numpy as np
from pathlib import Path
from keras_resnet18.runtime.worker import open_file
opened = open_file(Path(sys.argv[1]), 1)
assert opened.predict(np.zeros((1, *opened.shape), np.uint8)).shape == (1, 3)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
    imported = run_python(program, str(exported / "model.tflite")).split()
    assert "ai_edge_litert" in imported
    assert not {"tensorflow", "keras", "scipy", "matplotlib", "PIL"} & set(imported)


@pytest.fixture
def some_exports(exported, tmp_path):
    """A run with three exports."""
    run = tmp_path / "some"
    (run / "export").mkdir(parents=True)
    for file in exported.parent.iterdir():
        if file != exported:
            (run / file.name).symlink_to(file)
    for name in ("saved_model", "model.tflite", "model-int8.tflite", "labels.txt"):
        (run / "export" / name).symlink_to(exported / name)
    return run


def test_a_run_means_its_model_and_its_exports_which_take_turns(exported, some_exports, worked):
    said = []
    results = benchmark([some_exports, exported / "model.tflite"], rounds=3, say=said.append)
    names = ["model.keras", "model-int8.tflite", "model.tflite", "saved_model"]
    turns = [(name, threads) for name in names for threads in (1, 4)]
    assert worked == turns * 3
    assert [(result.name, result.threads) for result in results] == turns
    first = results[0]
    assert [part.median_ms for part in first.rounds] == [1, 9, 17]
    assert (first.median_ms, first.p90_ms, first.peak_mib) == (9, 18, 17)
    assert said[0].startswith("4 files on 1 and 4 threads, 3 rounds of 2 s: about 3 min")
    assert said[-1] == "round 3/3  saved_model  4 threads  24 ms"


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["keras-resnet18", "benchmark", *map(str, arguments)])
    cli.main()
    return capsys.readouterr()


def test_the_command_prints_a_table_and_writes_json_and_an_image(
    some_exports, worked, tmp_path, monkeypatch, capsys
):
    outputs = tmp_path / "new" / "speed.json", tmp_path / "speed.png"
    options = ["--json", outputs[0], "--plot", outputs[1], "--rounds", 2]
    with pytest.raises(SystemExit) as end:
        command(monkeypatch, capsys, some_exports, *options)
    assert not end.value.code
    out, err = capsys.readouterr()
    assert err == ""
    *table, first, second = out.splitlines()
    assert (first, second) == tuple(map(str, outputs))
    assert max(len(line) for line in table if "|" in line) <= 80
    assert re.search(r"^model-int8.tflite +\| 4 +\| 8 .*\| 33.33%$", out, re.MULTILINE)
    written = json.loads(outputs[0].read_text())
    assert {"date", "environment", "seconds", "results"} == set(written)
    assert written["environment"]["threads"] == 4
    assert [part["median_ms"] for part in written["results"][1]["rounds"]] == [2, 10]
    assert written["results"][1]["n"] == 12
    with Image.open(outputs[1]) as image:
        assert image.format == "PNG"


def test_the_command_line_has_the_librarys_defaults():
    rounds, seconds = measure.benchmark.__defaults__[1:3]
    assert (rounds, seconds) == (ROUNDS, SECONDS)


def test_without_images_there_is_no_top_1_and_it_is_said_why(exported, worked, tmp_path):
    alone = Path(shutil.copy(exported / "model.tflite", tmp_path))
    assert {result.accuracy for result in benchmark([alone])} == {None}
    with pytest.raises(InputError, match="needs test images"):
        benchmark([alone], plot_file=tmp_path / "plot.png")

    copy = Path(shutil.copytree(exported.parent, tmp_path / "run"))
    facts = json.loads((copy / "environment.json").read_text())
    (copy / "environment.json").write_text(json.dumps(facts | {"source": "/moved/away"}))
    said = []
    assert {result.accuracy for result in benchmark([copy], say=said.append)} == {None}
    assert sum("top-1 is not measured" in line and "/moved/away" in line for line in said) == 1


def test_a_file_without_a_run_is_tested_on_the_images_that_are_named(
    exported, images, worked, tmp_path
):
    alone = Path(shutil.copy(exported / "model.tflite", tmp_path))
    results = benchmark([alone], data=str(images))
    assert {result.accuracy for result in results} == {1 / 3}  # `worked` says it is always an ant
    with pytest.raises(InputError, match="the classifier's classes"):
        benchmark([alone], data="digits")


@pytest.fixture
def own(tmp_path):
    """`own(side, classes)`: somebody's own model, in no run."""

    def save(side=16, classes=3):
        image = keras.Input((side, side, 3))
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(image))
        keras.Model(image, keras.layers.Dense(classes)(x)).save(tmp_path / "own.keras")
        return tmp_path / "own.keras"

    return save


def test_a_model_of_ones_own_is_tested_on_images_that_it_fits(own, images, one_core):
    with pytest.warns(UserWarning, match="does not say how images are prepared"):
        (result,) = benchmark([own()], data=str(images), **QUICK)
    assert 0 <= result.accuracy <= 1 and result.n == 12


def test_a_preprocess_json_beside_it_counts(own, images, worked, tmp_path):
    path = own(side=None)
    with pytest.raises(
        InputError,
        match=r"put a preprocess.json beside it. Received: .*own.keras, which takes any size",
    ):
        benchmark([path], data=str(images))
    (tmp_path / "preprocess.json").write_text(json.dumps(Preprocess(size=(20, 20)).to_dict()))
    assert {result.n for result in benchmark([path], data=str(images))} == {12}


def test_images_that_a_model_of_ones_own_does_not_fit_are_told(own, images, worked):
    with pytest.raises(
        InputError, match=r"in 3 classes\. Received: .*own\.keras, .* to \(None, 7\)"
    ):
        benchmark([own(classes=7)], data=str(images))
    assert not worked


def test_a_run_without_exports_is_measured_alone_and_export_is_named(run, worked):
    said = []
    assert {result.name for result in benchmark([run.path], say=said.append)} == {"model.keras"}
    assert f"first `export {run.path}`" in said[0]


def test_a_name_is_the_shortest_end_that_no_other_path_has():
    paths = ["a/model.keras", "a/export/model.tflite", "b/export/model.tflite"]
    assert short_names(list(map(Path, paths))) == [
        "model.keras",
        "a/export/model.tflite",
        "b/export/model.tflite",
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "not there"),
        ("nothing.tflite", "not there"),
        ("notes.txt", r"a \.tflite file, an \.onnx file, a \.keras file or a SavedModel"),
        ("folder", "a run is a folder that `train` left"),
        ("broken.tflite", r"broken\.tflite cannot be"),
    ],
)
def test_what_cannot_be_measured_is_said(tmp_path, name, message):
    (tmp_path / "folder").mkdir()
    for file in ("notes.txt", "broken.tflite"):
        (tmp_path / file).write_text("no model")
    with pytest.raises(InputError, match=message):
        benchmark([tmp_path / name], json_file=tmp_path / "out" / "speed.json", **QUICK)
    assert not (tmp_path / "out").exists()


def test_an_unfinished_run_is_said_to_be_one(run, tmp_path):
    copy = as_unfinished(Path(shutil.copytree(run.path, tmp_path / "copy")))
    with pytest.raises(InputError, match="unfinished run"):
        benchmark([copy])


def test_one_path_need_not_be_in_a_list(tmp_path):
    for path in (tmp_path / "gone.tflite", str(tmp_path / "gone.tflite")):
        with pytest.raises(InputError, match=r"gone\.tflite, which is not there"):
            benchmark(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"json_file": "notes.txt/speed.json"}, "below the file"),
        ({"plot_file": "notes.txt/speed.png"}, "below the file"),
        ({"plot_file": "speed.pdf"}, r"must end in \.png"),
        ({"json_file": "folder.json"}, "is not a file"),
        ({"rounds": 0}, "rounds must be 1 or more"),
        ({"seconds": 0.0}, "seconds must be more than 0"),
    ],
)
def test_what_cannot_be_written_is_said_before_anything_is_measured(
    exported, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(worker, "_work", None)
    Path("notes.txt").touch()
    Path("folder.json").mkdir()
    with pytest.raises(InputError, match=message):
        benchmark([exported / "model.tflite"], **arguments)
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "folder.json"}


def test_a_file_is_measured_by_this_package_installed_or_not(exported, monkeypatch):
    paths = []

    def run(command, *, env, **options):
        paths.extend(env["PYTHONPATH"].split(os.pathsep))
        return subprocess.CompletedProcess(command, 1, "", "stopped")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(InputError, match=r"model\.tflite cannot be measured: stopped"):
        benchmark([exported / "model.tflite"], **QUICK)
    assert Path(paths[0]) == Path(keras_resnet18.__file__).parents[1]


def test_ctrl_c_ends_it_in_one_line_and_writes_nothing(exported, tmp_path):
    words = [exported / "model.tflite", "--seconds", "60", "--json", tmp_path / "speed.json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "keras_resnet18", "benchmark", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(tmp_path)},
    )
    for line in process.stdout:
        if b"rounds of" in line:
            process.send_signal(signal.SIGINT)
            break
    _, err = process.communicate(timeout=60)
    assert err.decode() == "keras-resnet18: interrupted\n"
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []
