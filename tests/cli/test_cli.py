"""The command line as a person meets it: what it prints, what it refuses, and with which status."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from small import as_unfinished, draw_images

from keras_resnet18 import __version__, load_run, open_classifier, predict
from keras_resnet18.cli.export import print_exports
from keras_resnet18.errors import ExportError, InputError
from keras_resnet18.files import EXPORTS
from keras_resnet18.fit.resume import Checkpoints

TESTS = Path(__file__).parents[1]
LONG = 300 * "a"  # more bytes than a file's name may have


@pytest.fixture
def refused(command):
    """Asserts that a command ends in one line with these words, and a status that scripts see."""

    def run(message, *arguments):
        answer = command(*arguments, status=None)
        assert answer.status == 1, arguments
        assert re.search(message, answer.err)
        assert re.fullmatch("keras-resnet18: [^\n]+\n", answer.err)
        return answer

    return run


@pytest.fixture
def recipe_file(quick_recipe, tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "quick.toml"
    path.write_text(quick_recipe.to_toml())
    return path


def widest(printed):
    """The longest line's length; a path may be of any length, and is not broken."""
    return max(len(x) for x in printed.splitlines() if "/" not in x)


def rows_of(answer):
    return list(csv.DictReader(io.StringIO(answer.out)))


# train and check


def test_train_leaves_a_run_and_says_where(
    command, refused, images, recipe_file, tmp_path, tiny_network
):
    words = ("train", images, "--out", "my/run", "--recipe", recipe_file)
    options = ("--set", "optimizer.learning_rate=0.03", "--precision", "float32")
    answer = command(*words, "--epochs", 1, *options)
    assert "validation: val/ (9 images); test: test/ (12 images)" in answer.out
    assert re.search(r"epoch 1/1  loss \d", answer.out)
    assert answer.out.endswith("run: my/run\n")
    run = load_run(tmp_path / "my" / "run")
    assert (run.recipe.epochs, run.recipe.optimizer.learning_rate) == (1, 0.03)
    assert run.source == str(images)
    refused("my/run holds a run", *words)
    command(*words, "--epochs", 2, "--overwrite")
    assert load_run(tmp_path / "my" / "run").recipe.epochs == 2


def text_as_jpg(folder):
    draw_images(folder, {"ant": 20, "bee": 20})
    (folder / "bee" / "text.jpg").write_text("I am no image")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "digit"], r"did you mean digits\?"),
        (["--set", "epochs"], "key=value"),
        (["--epochs", "0"], "epochs must be 1 or more"),
        (["--data", "digits"], "--data goes with --resume"),
        (["--process", "1"], "go with --distributed"),
        (["--out", "thesis"], "not a run"),
        (["--out", "thesis", "--overwrite"], "not a run"),
        (["--out", "thesis/chapter1.txt/run"], "below the file"),
    ],
)
def test_what_train_refuses_leaves_all_as_it_was(refused, images, tmp_path, options, message):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    refused(message, "train", images, "--recipe", "digits", *options)
    assert sorted(tmp_path.rglob("*")) == before


def test_check_prints_findings_and_exits_1_where_one_spoils(command, refused, images, tmp_path):
    answer = command("check", images)
    assert re.search(r"^3 classes +\| 49 +\| 9 +\| 12", answer.out, re.MULTILINE)
    assert answer.out.endswith("70 images decoded: nothing would spoil a training\n")
    text_as_jpg(tmp_path / "data")
    answer = command("check", "data", "--json", "found.json", status=1)
    assert re.search(r"^spoils: bee/text\.jpg: unknown format$", answer.out, re.MULTILINE)
    assert answer.out.endswith("something would spoil a training\nfound.json\n")
    assert len(json.loads((tmp_path / "found.json").read_text())["findings"]) == 2
    refused("which is not there", "check", "nowhere")
    refused("exists and is not a file", "check", "data", "--json", "data")


# evaluate


def test_evaluate_measures_again_what_the_run_reports(command, run, exported, images):
    for model in (run.path, exported / "model.tflite"):
        for split, n in (("test", 12), ("validation", 9)):
            out = command("evaluate", model, "--split", split).out
            accuracy = run.metrics[split]["accuracy"]
            assert out.startswith(f"{split} accuracy {accuracy:.2%} (95 % interval ")
            assert f"n = {n}" in out
            assert re.search(r"^\d+\.\d\d ms an image \(median, batch 1\)$", out, re.MULTILINE)
    out = command("evaluate", run.path, "--data", images).out
    assert out.startswith("accuracy ") and "n = 70)" in out
    assert "49 of the 70 images are training images" in out


def test_evaluate_prints_each_class_and_writes_figures(command, refused, run, images, tmp_path):
    folder = tmp_path / "found"
    answer = command("evaluate", run.path, "--out", folder)
    assert answer.out.splitlines()[-1] == str(folder)
    rows = [line.split("|")[0].strip() for line in answer.out.splitlines() if "|" in line]
    assert rows == ["class", "ant", "bee", "蝉"]
    assert widest(answer.out) <= 80
    figures = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert figures.pop("latency_ms") > 0
    test = run.metrics["test"] | {"loss": pytest.approx(run.metrics["test"]["loss"], rel=1e-4)}
    about = {"model": str(run.path), "data": str(images), "split": "test", "trained_on": 0}
    assert figures == about | test
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    right = [row for row in rows if row["true class"] == row["predicted class"]]
    assert (len(rows), len(right)) == (12, round(12 * figures["accuracy"]))
    assert all((images / row["path"]).is_file() for row in rows)
    command("evaluate", run.path, "--out", folder)  # replaces its own files
    refused("is not replaced", "evaluate", run.path, "--out", run.path)


# predict


def test_predict_gives_a_row_for_each_file_in_the_order_given(command, run, images):
    files = [images / "test" / name / "1.png" for name in ("bee", "ant")]
    words = ("predict", run.path, *files, images / "test" / "蝉", "missing.png", "--top", 2)
    *rows, last = command(*words, status=1).out.splitlines()
    files += [images / "test" / "蝉" / f"{i}.png" for i in range(4)]
    assert [row.split("  ")[0] for row in rows] == list(map(str, files))
    assert all(re.fullmatch(r".*  \S+ \d+\.\d%  \S+ \d+\.\d%", row) for row in rows)
    assert re.match(r"missing\.png  .*No such file", last)


def test_predict_writes_csv_with_a_row_for_a_broken_file(command, run, exported, images, tmp_path):
    good = images / "test" / "bee" / "0.png"
    (text := tmp_path / "text.jpg").write_text("I am no image")
    for model in (run.path, exported / "model-int8.tflite"):
        files = (good, text, "missing.png", good)
        rows = rows_of(command("predict", model, *files, "--csv", "--top", 9, status=1))
        assert [row["file"] for row in rows] == list(map(str, files))
        assert [bool(row["error"]) for row in rows] == [False, True, True, False]
        assert [row["class_1"] for row in rows] == ["bee", "", "", "bee"]
        assert float(rows[0]["probability_1"]) >= float(rows[0]["probability_3"])
        assert None not in rows[1]  # no cell too many


def test_predict_says_not_sure_below_the_threshold(command, exported, images):
    words = ("predict", exported / "model.tflite", images / "test" / "bee" / "0.png")
    answer = command(*words, "--threshold", "1")
    assert re.search(r"  not sure \(best: bee \d+\.\d%\)$", answer.out.strip())
    for options, expected in (
        (["--threshold", 0], "false"),
        (["--threshold", 1], "true"),
        ([], ""),
    ):
        (row,) = rows_of(command(*words, "--csv", *options))
        assert (row["not_sure"], row["class_1"]) == (expected, "bee")
    answer = command(*words, "--threshold", "50", status=None)
    assert answer.status == 2 and "--threshold" in answer.err


def test_predict_runs_exported_files_without_tensorflow(run_python, exported, images):
    program = """
import sys
from keras_resnet18.cli import app as cli
images, *models = sys.argv[1:]
for model in models:
    sys.argv = ["keras-resnet18", "predict", model, images, "--top", "1"]
    try:
        cli.main()
    except SystemExit as end:
        assert end.code == 0
assert not {"tensorflow", "keras"} & set(sys.modules)
"""
    models = [exported / name for name in ("model.tflite", "model.onnx")]
    models = [str(path) for path in models if path.exists()]
    rows = run_python(program, str(images / "test"), *models).splitlines()
    assert len(rows) == 12 * len(models)
    assert [row.split("  ")[1].split()[0] for row in rows[4:8]] == ["bee"] * 4


def test_predict_takes_batches_and_each_file_keeps_its_answer(run, exported, images, tmp_path):
    good = sorted((images / "test").glob("*/*.png"))
    (text := tmp_path / "text.jpg").write_text("I am no image")
    files = [text, *good, text, *reversed(good), *[text] * 9]
    for model in (run, exported / "model.tflite"):
        rows = list(predict(model, files, top=1))
        assert [row.path for row in rows] == files
        assert [row.error is None for row in rows] == [path != text for path in files]
        classifier = open_classifier(model)
        expected = [
            classifier.answer(classifier.read(path)[np.newaxis], 1)[0].top[0]
            for path in files
            if path != text
        ]
        got = [row.top[0] for row in rows if row.top]
        assert [name for name, _ in got] == [name for name, _ in expected]
        assert [p for _, p in got] == pytest.approx([p for _, p in expected], abs=1e-5)


# export


def test_export_prints_a_table_and_where_everything_lies(command, run, tmp_path):
    answer = command("export", run.path, "--format", "saved_model", "--out", "ship")
    assert re.search(r"^saved_model +\| 0\.2\d\d +\|", answer.out, re.MULTILINE)
    assert max(map(len, answer.out.splitlines())) <= 80
    assert answer.out.splitlines()[-1] == "ship/saved_model"
    names = {path.name for path in (tmp_path / "ship").iterdir()}
    assert names == {"saved_model", "saved_model.json", "labels.txt", "classifier.json"}


def test_a_refused_format_does_not_hide_what_is_written(refused, run, export_reports, monkeypatch):
    def first_alone(*arguments, **options):
        raise ExportError("tflite failed: other answers", export_reports[:1])

    monkeypatch.setattr("keras_resnet18.exporters.export.export", first_alone)
    answer = refused("tflite failed: other answers", "export", run.path)
    assert answer.out.splitlines()[-1] == str(export_reports[0].path)


@pytest.mark.parametrize("width", [80, 40])
def test_no_cell_of_a_table_is_cut(export_reports, width):
    comparison = dataclasses.replace(export_reports[0].comparison, n=10_000, agreement=1.0)
    widest = {"size_bytes": 44_700_000, "latency_ms": 0.123, "comparison": comparison}
    reports = [dataclasses.replace(export_reports[0], format=name, **widest) for name in EXPORTS]
    printed = io.StringIO()
    console = Console(file=printed, width=width, highlight=False, markup=False, soft_wrap=True)
    print_exports(console, reports)
    assert "…" not in printed.getvalue()
    table = printed.getvalue().partition(f"\n{export_reports[0].path}")[0]
    assert max(map(len, table.splitlines())) <= width
    if width == 80:
        assert table.splitlines()[1].startswith("format         | MB   | image | images |")
        assert [row.split()[0] for row in table.splitlines()[3:]] == [*EXPORTS]


def test_export_refuses_what_it_cannot_write(refused, run, tmp_path):
    (tmp_path / "file").touch()
    refused("not there", "export", "nothing")
    refused("--about takes KEY=TEXT", "export", run.path, "--about", "A. Lee")
    refused("below the file", "export", run.path, "--out", "file/export")
    assert not run.export_folder.exists()


# info


def test_info_tells_what_the_machine_has(command):
    answer = command("info")
    assert all(word in answer.out for word in (__version__, "tensorflow", "device", "precision"))


def test_info_tells_what_a_run_and_its_files_are(command, run, exported):
    accuracy = f"{run.metrics['test']['accuracy']:.2%}"
    labels = "3: ant, bee, 蝉"
    shapes = "image uint8 any×any×any×3 → probabilities float32 any×3"
    for file, words in {
        run.path: (accuracy, "n = 12", labels, str(run.source), "quick", "4,955"),
        run.model_file: ("4,955",),
        exported / "model.onnx": ("uint8 batch×16×16×3", "Conv×1", labels, " MB"),
        exported / "saved_model": (shapes, labels),
    }.items():
        out = command("info", file).out
        assert all(word in " ".join(out.split()) for word in words), out
        assert "ReadVariableOp" not in out and "PartitionedCall" not in out
        if file != run.model_file:
            assert widest(out.partition("\n\n")[0]) <= 80


def test_info_tells_all_that_a_tflite_file_says_in_80_columns(command, exported):
    out = command("info", exported / "model-int8.tflite").out
    for row in (
        r"input +image, uint8 1×16×16×3, scale 1, zero point 0",
        r"operators +.*\bCONV_2D×1,",
        r"score threshold +-",
        r"preprocessing +size \(16, 16\), crop_ratio ",
    ):
        assert re.search(f"^{row}", out, re.MULTILINE), row
    assert widest(out) <= 80


def test_info_weights_lists_the_catalogue_unless_it_is_a_path(command, refused, tmp_path):
    (tmp_path / "weights").mkdir()
    answer = command("info", "weights")
    assert answer.out.splitlines()[0].split()[:2] == ["name", "network"]
    assert "imagenet is resnet18.a1_in1k" in answer.out
    refused("a run is a folder", "info", "./weights")


# all


def test_an_unfinished_run_is_said_to_be_one(refused, run, tmp_path):
    copy = as_unfinished(Path(shutil.copytree(run.path, tmp_path / "copy")))
    for words in (["info", copy], ["evaluate", copy], ["predict", copy, "a.png"], ["export", copy]):
        refused("unfinished run", *words)


URL = "https://example.org/cats/a.jpg"
NOT_READ = f"URLs are not read: download it, .* Received: {URL}\n"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("empty", ["train", ""]),  # as a path it would be the current folder
        ("empty", ["train", "digits", "--out", ""]),
        ("too long", ["predict", LONG, "a.png"]),
        ("too long", ["train", "digits", "--out", LONG]),
        (NOT_READ, ["predict", "run", URL]),
        (NOT_READ, ["evaluate", "run", f"--data={URL}"]),
        (NOT_READ, ["train", "digits", "--weights", URL]),
        (NOT_READ, ["verify", URL, "run"]),
        ("nothing, which is not there", ["export", "nothing", "--about", f"license={URL}"]),
    ],
)
def test_what_cannot_be_a_path_is_one_line(refused, message, words):
    refused(message, *words)


def test_names_not_in_utf8_work_or_are_told(command, refused, run, exported, images, tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copytree(images / "test" / "bee", folder / "bee")
    for name in ("saved_model", "model.tflite", "model.onnx"):
        (folder / name).symlink_to(exported / name)
    command("predict", folder / "model.tflite", folder / "bee")
    command("info", folder / "model.tflite")
    before = sorted(folder.iterdir())
    for words in (
        ["predict", folder / "saved_model", folder / "bee"],
        ["info", folder / "model.onnx"],
        ["train", images, "--recipe", "digits", "--out", folder / "new"],
        ["export", run.path, "--format", "saved_model", "--out", folder / "new"],
    ):
        refused("path in UTF-8", *words)
    assert sorted(folder.iterdir()) == before


def test_help_names_every_verb_and_imports_no_framework(run_python):
    program = """
import sys
from keras_resnet18.cli import app as cli
for arguments in (["--help"], *([name, "--help"] for name in sys.argv[1:])):
    sys.argv = ["keras-resnet18", *arguments]
    try:
        cli.main()
    except SystemExit as end:
        assert end.code == 0
heavy = {"tensorflow", "keras", "numpy", "PIL", "sklearn", "matplotlib", "ai_edge_litert"}
heavy |= {"huggingface_hub", "jinja2"}
assert not heavy & {name.partition(".")[0] for name in sys.modules}, heavy & set(sys.modules)
"""
    names = ["check", "train", "evaluate", "predict", "export", "verify", "report", "info", "demo"]
    printed = run_python(program, *names)
    commands = printed.partition("Commands:")[2].partition("Usage:")[0]
    assert re.findall(r"^  (\w+)  ", commands, re.MULTILINE) == names
    assert "..." not in commands  # none is cut
    assert all(f"keras-resnet18 {name}" in printed for name in names)


@pytest.mark.parametrize("error", [ValueError("of TensorFlow"), InputError("no answer")])
def test_ctrl_c_is_one_line_even_as_another_error_of_tensorflow(command, monkeypatch, error):
    def measured(*arguments, **options):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        except KeyboardInterrupt:
            raise error from None

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("keras_resnet18.classify.evaluate.evaluate", measured)
    answer = command("evaluate", "run", status=None)
    assert (answer.status, answer.err) == (130, "keras-resnet18: interrupted\n")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_bug_keeps_its_traceback(monkeypatch, command):
    monkeypatch.setattr("keras_resnet18.machine.start_keras", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command("info")


def test_ctrl_c_ends_a_training_with_the_command_that_goes_on(
    command, images, recipe_file, tmp_path, tiny_network, monkeypatch
):
    end = Checkpoints.on_train_batch_end

    def interrupt(self, batch, logs=None):
        if (self._epoch, batch) == (1, 0):
            os.kill(os.getpid(), signal.SIGINT)
        end(self, batch, logs)

    monkeypatch.setattr(Checkpoints, "on_train_batch_end", interrupt)
    words = ("train", images, "--out", "my/run", "--recipe", recipe_file)
    answer = command(*words, status=None)
    assert (answer.status, answer.err) == (130, "keras-resnet18: interrupted\n")
    assert "go on with keras-resnet18 train --resume my/run;" in answer.out
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", answer.out)  # no control characters
    with pytest.raises(InputError, match="unfinished run"):
        load_run(tmp_path / "my" / "run")
