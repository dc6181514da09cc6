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
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small import as_unfinished, draw_images

from keras_resnet18 import __version__, load_run, open_classifier, predict
from keras_resnet18.cli import app as cli
from keras_resnet18.errors import ExportError, InputError

TESTS = Path(__file__).parents[1]
LONG = 300 * "a"  # more bytes than a file's name may have


@dataclasses.dataclass
class Answer:
    """What a command gave."""

    status: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs a command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["keras-resnet18", *map(str, arguments)])
        capsys.readouterr()
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = end.code or 0
        return Answer(status, *capsys.readouterr())

    return run


@pytest.fixture
def recipe_file(quick_recipe, tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "quick.toml"
    path.write_text(quick_recipe.to_toml())
    return path


# train


def test_train_leaves_a_run_and_says_where(command, images, recipe_file, tmp_path, tiny_network):
    answer = command(
        "train", images, "--out", "my/run", "--recipe", recipe_file, "--epochs", 1,
        "--set", "optimizer.learning_rate=0.03", "--precision", "float32",
    )  # fmt: skip
    assert (answer.status, answer.err) == (0, "")
    assert "validation: val/ (9 images); test: test/ (12 images)" in answer.out
    assert re.search(r"epoch 1/1  loss \d", answer.out)
    assert answer.out.endswith("everything lies in my/run\n")
    run = load_run(tmp_path / "my" / "run")
    assert run.recipe.epochs == 1
    assert run.recipe.optimizer.learning_rate == 0.03
    assert run.source == str(images)

    again = command("train", images, "--out", "my/run", "--recipe", recipe_file)
    assert_refused(again, "my/run holds a run")
    again = command(
        "train", images, "--out", "my/run", "--recipe", recipe_file, "--epochs", 2, "--overwrite"
    )
    assert again.status == 0
    assert load_run(tmp_path / "my" / "run").recipe.epochs == 2


def assert_refused(answer, message):
    """One line that says it, and a status that scripts see."""
    assert answer.status == 1
    assert message in answer.err
    assert answer.err.startswith("keras-resnet18: ")
    assert answer.err.count("\n") == 1
    assert "Traceback" not in answer.err


def no_classes(folder):
    folder.mkdir()


def one_class(folder):
    draw_images(folder, {"ant": 20})


def text_as_jpg(folder):
    draw_images(folder, {"ant": 20, "bee": 20})
    (folder / "bee" / "text.jpg").write_text("I am no image")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (None, "which is not there"),
        (no_classes, "one folder for each class"),
        (one_class, "two classes or more"),
        (text_as_jpg, "bee/text.jpg"),
        (Path.touch, "which is a file"),
    ],
)
def test_images_that_cannot_be_used_leave_nothing(command, tmp_path, make, message):
    if make:
        make(tmp_path / "data")
    assert_refused(command("train", "data", "--recipe", "digits", "--out", "run"), message)
    assert not (tmp_path / "run").exists()


def test_check_prints_counts_and_findings_and_exits_1_where_something_spoils(
    command, images, tmp_path
):
    answer = command("check", images)
    assert answer.status == 0
    assert re.search(r"^ant +\| 17 +\| 3 +\| 4", answer.out, re.MULTILINE)
    assert answer.out.endswith("70 images decoded: nothing would spoil a training\n")
    text_as_jpg(tmp_path / "data")
    answer = command("check", "data", "--json", "found.json")
    assert answer.status == 1
    assert re.search(r"^spoils: bee/text\.jpg: unknown format$", answer.out, re.MULTILINE)
    assert answer.out.endswith("something would spoil a training\nfound.json\n")
    assert len(json.loads((tmp_path / "found.json").read_text())["findings"]) == 2
    assert_refused(command("check", "nowhere"), "which is not there")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "digit"], "did you mean digits?"),
        (["--recipe", "digits", "--set", "epoch=3"], "did you mean epochs?"),
        (["--recipe", "digits", "--set", "epochs"], "key=value"),
        (["--recipe", "digits", "--epochs", "0"], "epochs must be 1 or more"),
        (["--recipe", "digits", "--precision", "float16"], "precision must be one of auto"),
    ],
)
def test_a_recipe_that_cannot_be_used_leaves_nothing(command, tmp_path, options, message):
    assert_refused(command("train", "digits", "--out", "run", *options), message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_a_place_that_is_taken_stays_as_it_is(command, tmp_path, overwrite):
    (tmp_path / "thesis").mkdir()
    chapter = tmp_path / "thesis" / "chapter1.txt"
    chapter.write_text("mine")
    for out, message in (("thesis", "not a run"), ("thesis/chapter1.txt/run", "below the file")):
        answer = command("train", "digits", "--recipe", "digits", "--out", out, *overwrite)
        assert_refused(answer, message)
    assert chapter.read_text() == "mine"


# evaluate


def test_evaluate_measures_again_what_the_run_reports(command, run, exported, images):
    for model in (run.path, exported / "model.tflite"):
        for split, n in (("test", 12), ("validation", 9)):
            answer = command("evaluate", model, "--split", split)
            accuracy = run.metrics[split]["accuracy"]
            assert answer.out.startswith(f"{split} accuracy {accuracy:.2%} (95 % interval ")
            assert f"n = {n}" in answer.out
            assert re.search(r"^\d+\.\d\d ms an image \(median\), \d+ threads$", answer.out, re.M)
            assert (answer.status, answer.err) == (0, "")
    answer = command("evaluate", run.path, "--data", images)
    assert answer.out.startswith("accuracy ") and "n = 70)" in answer.out
    assert "49 of the 70 images are training images" in answer.out


def test_evaluate_prints_each_class_and_writes_what_it_found(command, run, images, tmp_path):
    folder = tmp_path / "found"
    answer = command("evaluate", run.path, "--out", folder)
    assert (answer.status, answer.err) == (0, "")
    assert answer.out.splitlines()[-1] == str(folder)
    rows = [line.split("|")[0].strip() for line in answer.out.splitlines() if "|" in line]
    assert rows == ["class", "ant", "bee", "蝉"]
    assert widest(answer.out) <= 80
    figures = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    test = run.metrics["test"] | {"loss": pytest.approx(run.metrics["test"]["loss"], rel=1e-4)}
    about = {"model": str(run.path), "data": str(images), "split": "test", "trained_on": 0}
    latency = {"latency_ms": pytest.approx(figures["latency_ms"])}
    assert figures == about | latency | test and figures["latency_ms"] > 0
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    right = [row for row in rows if row["true class"] == row["predicted class"]]
    assert len(right) == round(12 * figures["accuracy"])
    assert all((images / row["path"]).is_file() for row in rows)
    assert command("evaluate", run.path, "--out", folder).status == 0  # its own files
    assert_refused(command("evaluate", run.path, "--out", run.path), "is not replaced")


def test_evaluate_refuses_what_it_cannot_measure(command, run, broken_images):
    assert_refused(command("evaluate", run.path, "--data", "digits"), "the classifier's classes")
    assert_refused(command("evaluate", run.path, "--data", broken_images), "test/bee/0.png")
    assert_refused(command("evaluate", "nothing"), "not there")


# predict


def test_predict_gives_a_row_for_each_file_in_the_order_given(command, run, images):
    files = [images / "test" / name / "1.png" for name in ("bee", "ant")]
    answer = command("predict", run.path, *files, images / "test" / "蝉", "--top", 2)
    rows = answer.out.splitlines()
    files += [images / "test" / "蝉" / f"{i}.png" for i in range(4)]
    assert [row.split("  ")[0] for row in rows] == list(map(str, files))
    assert all(re.fullmatch(r".*  \S+ \d+\.\d%  \S+ \d+\.\d%", row) for row in rows)
    assert (answer.status, answer.err) == (0, "")


def test_predict_writes_csv_with_a_row_for_a_broken_file(command, run, exported, images, tmp_path):
    good = images / "test" / "bee" / "0.png"
    text = tmp_path / "text.jpg"
    text.write_text("I am no image")
    for model in (run.path, exported / "model-int8.tflite"):
        answer = command("predict", model, good, text, "missing.png", good, "--csv", "--top", 9)
        assert answer.status == 1
        assert answer.err == ""
        rows = list(csv.DictReader(io.StringIO(answer.out)))
        assert [row["file"] for row in rows] == [str(good), str(text), "missing.png", str(good)]
        assert [bool(row["error"]) for row in rows] == [False, True, True, False]
        assert rows[0]["class_1"] == "bee"
        assert float(rows[0]["probability_1"]) >= float(rows[0]["probability_3"])
        assert rows[1]["class_1"] == ""
        assert None not in rows[1]  # no cell too many


def test_predict_says_what_is_wrong_with_a_broken_file_and_goes_on(command, run, images):
    answer = command("predict", run.path, "missing.png", images / "test" / "bee" / "0.png")
    first, second = answer.out.splitlines()
    assert first.startswith("missing.png  ")
    assert "No such file" in first
    assert "bee" in second
    assert answer.status == 1


def test_predict_says_not_sure_below_the_threshold(command, exported, images):
    model, image = exported / "model.tflite", images / "test" / "bee" / "0.png"
    answer = command("predict", model, image, "--threshold", "1")
    assert re.search(r"  not sure \(best: bee \d+\.\d%\)$", answer.out.strip())
    assert answer.status == 0
    for threshold, expected in (("0", "false"), ("1", "true"), (None, "")):
        options = [] if threshold is None else ["--threshold", threshold]
        (row,) = csv.DictReader(
            io.StringIO(command("predict", model, image, "--csv", *options).out)
        )
        assert (row["not_sure"], row["class_1"]) == (expected, "bee")
    refused = command("predict", model, image, "--threshold", "50")
    assert refused.status == 2 and "--threshold" in refused.err


def test_predict_runs_exported_files_without_tensorflow(run_python, exported, images):
    program = """
import sys
import keras_resnet18 as kr
from keras_resnet18.cli import app as cli
images, *models = sys.argv[1:]
for model in models:
    (first, *_) = kr.predict(model, images, top=1)
    sys.argv = ["keras-resnet18", "predict", model, images, "--top", "1"]
    try:
        cli.main()
    except SystemExit as end:
        assert end.code == 0
    assert first.error is None
assert not {"tensorflow", "keras"} & set(sys.modules)
"""
    models = [
        path for path in (exported / "model.tflite", exported / "model.onnx") if path.exists()
    ]
    rows = run_python(program, str(images / "test"), *map(str, models)).splitlines()
    assert len(rows) == 12 * len(models)
    assert [row.split("  ")[1].split()[0] for row in rows[4:8]] == ["bee"] * 4


def test_predict_takes_many_files_in_batches_and_keeps_each_with_its_own_answer(
    run, exported, images, tmp_path
):
    good = sorted((images / "test").glob("*/*.png"))
    text = tmp_path / "text.jpg"
    text.write_text("I am no image")
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


def test_predict_refuses_a_model_that_is_none(command, images, tmp_path):
    image = images / "test" / "bee" / "0.png"
    (tmp_path / "model.tflite").write_text("no model")
    for model, message in (
        ("model.tflite", "cannot be run"),
        (image, "a run's folder, a .tflite file"),
        (images, "a run is a folder"),
    ):
        assert_refused(command("predict", model, image), message)


# export


def test_export_prints_a_table_and_where_everything_lies(command, run, tmp_path):
    answer = command("export", run.path, "--format", "saved_model", "--out", "ship")
    assert (answer.status, answer.err) == (0, "")
    assert re.search(r"^saved_model +\| 0\.2\d\d +\|", answer.out, re.MULTILINE)
    assert max(map(len, answer.out.splitlines())) <= 80
    assert answer.out.splitlines()[-1] == "ship/saved_model"
    names = {path.name for path in (tmp_path / "ship").iterdir()}
    assert names == {"saved_model", "saved_model.json", "labels.txt", "classifier.json"}


def test_what_is_written_is_shown_when_a_later_format_is_refused(
    command, run, export_reports, monkeypatch
):
    def first_alone(*arguments, **options):
        yield export_reports[0]
        raise ExportError("tflite: other answers")

    monkeypatch.setattr("keras_resnet18.exporters.export.export", first_alone)
    answer = command("export", run.path)
    assert answer.out.splitlines()[-1] == str(export_reports[0].path)
    assert_refused(answer, "tflite: other answers")


def test_export_refuses_what_it_cannot_write(command, run, tmp_path):
    (tmp_path / "file").touch()
    assert_refused(command("export", run.path, "--format", "coreml"), "format must be one of")
    assert_refused(command("export", "nothing"), "not there")
    assert_refused(command("export", run.path, "--about", "A. Lee"), "--about takes KEY=TEXT")
    answer = command("export", run.path, "--format", "tflite-int8", "--out", "ship")
    assert_refused(answer, "needs 200 training images or more")
    answer = command("export", run.path, "--format", "saved_model", "--out", "file/export")
    assert_refused(answer, "below the file")
    assert not run.export_folder.exists()


# info


def test_info_tells_what_the_machine_has(command):
    answer = command("info")
    for word in (__version__, "tensorflow", "device", "precision"):
        assert word in answer.out
    assert (answer.status, answer.err) == (0, "")


def widest(printed):
    """The longest line's length; a path may be of any length, and is not broken."""
    return max(len(x) for x in printed.splitlines() if "/" not in x)


def test_info_tells_what_a_run_and_its_files_are(command, run, exported):
    answer = command("info", run.path)
    accuracy = f"{run.metrics['test']['accuracy']:.2%}"
    for word in (accuracy, "n = 12", "3: ant, bee, 蝉", str(run.source), "quick", "4,955"):
        assert word in answer.out
    assert "4,955" in command("info", run.model_file).out
    onnx = command("info", exported / "model.onnx")
    for word in ("uint8 batch×16×16×3", "Conv 1", "3: ant, bee, 蝉", " MB"):
        assert word in onnx.out
    served = command("info", exported / "saved_model")
    shapes = "image uint8 any×any×any×3 → probabilities float32 any×3"
    for word in (shapes, "Conv2D 1,", "Softmax 1", "3: ant, bee, 蝉"):
        assert word in " ".join(served.out.split())
    assert "ReadVariableOp" not in served.out and "PartitionedCall" not in served.out
    for out in (answer.out, onnx.out, served.out):
        assert widest(out.partition("\n\n")[0]) <= 80


def test_info_tells_all_that_a_tflite_file_says_in_80_columns(command, exported):
    answer = command("info", exported / "model-int8.tflite")
    said = answer.out[answer.out.index("\n") :]  # the path may be of any length
    for row in (
        r"input +image, uint8 1×16×16×3, scale 1, zero point 0",
        r"output +probabilities, float32 1×3",
        r"operators +.*\bCONV_2D 1,",
        r"labels +3: ant, bee, 蝉",
        r"name +insects",
        r"description +Image classifier of 3 classes",
        r"version +[0-9a-f]{12}",
        r"author +not said",
        r"license +not said",
        r"normalization +mean 0, standard deviation 1",
        r"metadata +for parsers from 1\.0\.0 on",
    ):
        assert re.search(f"^{row}", said, re.MULTILINE), row
    assert widest(answer.out) <= 80
    assert (answer.status, answer.err) == (0, "")


def test_info_weights_lists_the_catalogue_and_a_folder_of_that_name_has_a_path(command, tmp_path):
    (tmp_path / "weights").mkdir()
    answer = command("info", "weights")
    assert (answer.status, answer.err) == (0, "")
    assert answer.out.splitlines()[0].split()[:2] == ["name", "network"]
    assert "imagenet is resnet18.a1_in1k" in answer.out
    assert_refused(command("info", "./weights"), "a run is a folder")


@pytest.mark.parametrize("name", ["model.keras", "model.tflite", "notes.txt"])
def test_info_refuses_a_file_that_is_no_model(command, tmp_path, name):
    (tmp_path / name).write_text("no model")
    assert_refused(command("info", name), name)


def test_an_unfinished_run_is_said_to_be_one(command, run, tmp_path):
    copy = as_unfinished(Path(shutil.copytree(run.path, tmp_path / "copy")))
    for words in (["info", copy], ["evaluate", copy], ["predict", copy, "a.png"], ["export", copy]):
        assert_refused(command(*words), "unfinished run")


# all


@pytest.mark.parametrize(
    "words",
    [["train", ""], ["train", "digits", "--out", ""], ["predict", "", "a.png"], ["info", ""]],
)
def test_an_empty_word_is_not_the_current_folder(command, words):
    assert_refused(command(*words), "empty")


@pytest.mark.parametrize(
    "words", [["info", LONG], ["predict", LONG, "a.png"], ["train", "digits", "--out", LONG]]
)
def test_a_path_that_is_too_long_is_one_line(command, words):
    assert_refused(command(*words), "too long")


@pytest.fixture
def latin1(run, exported, images, tmp_path):
    """A folder whose name is not UTF-8, with a run, its exports and an image in it."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "run").symlink_to(run.path)
    for name in ("saved_model", "model.tflite", "model.onnx"):
        (folder / name).symlink_to(exported / name)
    shutil.copy(images / "test" / "bee" / "0.png", folder / os.fsdecode(b"\xff.png"))
    return folder


def test_names_that_are_not_utf8_work_where_the_runtime_opens_them(command, latin1, images):
    for words in (
        ["predict", latin1 / "model.tflite", latin1],
        ["info", latin1 / "run"],
        ["info", latin1 / "model.tflite"],
        ["evaluate", latin1 / "run"],
        ["evaluate", latin1 / "model.tflite", "--data", images],
    ):
        answer = command(*words)
        assert (answer.status, answer.err) == (0, ""), words


def test_names_that_are_not_utf8_are_refused_where_no_runtime_opens_them(
    command, run, exported, latin1, images, recipe_file
):
    before = sorted(latin1.iterdir())
    for words in (
        ["predict", latin1 / "saved_model", latin1],
        ["info", latin1 / "model.onnx"],
        ["train", images, "--recipe", recipe_file, "--out", latin1 / "new"],
        ["export", run.path, "--format", "saved_model", "--out", latin1 / "new"],
    ):
        assert_refused(command(*words), "path in UTF-8")
    assert sorted(latin1.iterdir()) == before


def test_help_and_the_catalogue_name_everything_and_import_no_framework(run_python):
    program = """
import sys
from keras_resnet18.cli import app as cli
helps = [[name, "--help"] for name in sys.argv[1:]]
for arguments in (["--help"], *helps, ["info", "weights"]):
    sys.argv = ["keras-resnet18", *arguments]
    try:
        cli.main()
    except SystemExit as end:
        assert end.code == 0
heavy = {"tensorflow", "keras", "numpy", "PIL", "sklearn", "matplotlib", "ai_edge_litert"}
heavy |= {"huggingface_hub"}
assert not heavy & {name.partition(".")[0] for name in sys.modules}, heavy & set(sys.modules)
"""
    names = (
        "train",
        "evaluate",
        "predict",
        "export",
        "verify",
        "report",
        "demo",
        "info",
    )
    printed = run_python(program, *names)
    for name in names:
        assert f"keras-resnet18 {name}" in printed
    assert "..." not in printed.partition("Commands:")[2].partition("Usage:")[0]  # none is cut
    assert "resnet18.tv_in1k" in printed


def test_the_version_is_printed(command):
    answer = command("--version")
    assert (answer.status, answer.out) == (0, f"keras-resnet18 {__version__}\n")


@pytest.mark.parametrize("error", [ValueError("of TensorFlow"), InputError("no answer")])
def test_ctrl_c_is_one_line_also_where_tensorflow_makes_another_error_of_it(
    command, monkeypatch, error
):
    def measured(*arguments, **options):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        except KeyboardInterrupt:
            raise error from None

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("keras_resnet18.classify.evaluate.evaluate", measured)
    answer = command("evaluate", "run")
    assert (answer.status, answer.err) == (130, "keras-resnet18: interrupted\n")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_bug_keeps_its_traceback(monkeypatch, command):
    monkeypatch.setattr("keras_resnet18.machine.start_keras", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command("info")


def test_predict_is_readable_where_only_ascii_is_known(exported, images):
    command = [sys.executable, "-m", "keras_resnet18", "predict", exported / "model.tflite"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    del environment["TF_CPP_MIN_LOG_LEVEL"]  # conftest's: a user has not set it
    done = subprocess.run(
        [*command, images / "test" / "蝉" / "0.png"],
        env={**environment, "PYTHONPATH": str(TESTS.parent)},
        capture_output=True,
        check=False,
    )
    assert done.stderr.decode() == ""  # none of TensorFlow's and LiteRT's greetings either
    row = done.stdout.decode("ascii")
    assert re.fullmatch(r".*/test/\?/0\.png  ((ant|bee|\?) \d+\.\d%(  |\n)){3}", row)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("number", "status", "message"),
    [(signal.SIGINT, 130, "keras-resnet18: interrupted\n"), (signal.SIGTERM, 143, "")],
)
def test_a_signal_ends_a_training_with_the_command_that_goes_on(
    images, recipe_file, tmp_path, number, status, message
):
    program = """
import sys
from small import build_tiny
from keras_resnet18 import machine
from keras_resnet18.cli import app as cli

def start_keras(start=machine.start_keras):
    start()
    from keras_resnet18.fit import network
    from keras_resnet18.fit import train as trainer
    network.BUILDERS["resnet18"] = build_tiny

machine.start_keras = start_keras
cli.main()
"""
    words = ["train", images, "--out", tmp_path / "run", "--recipe", recipe_file]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, words), "--epochs", "100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [TESTS, TESTS.parent]))},
    )
    printed = b""
    for line in process.stdout:
        printed += line
        if line.startswith(b"epoch "):
            process.send_signal(number)
            break
    rest, err = process.communicate(timeout=60)
    assert err.decode() == message
    assert process.returncode == status
    assert f"go on with keras-resnet18 train --resume {tmp_path / 'run'};" in rest.decode()
    assert not re.search(rb"[\x00-\x09\x0b-\x1f]", printed + rest)  # no control characters
    with pytest.raises(InputError, match="unfinished run"):
        load_run(tmp_path / "run")
