"""The command line where it was not expected to run: closed streams, odd settings, odd names."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from keras_resnet18 import predict
from keras_resnet18.classify.exported import TFLiteFile
from keras_resnet18.cli import tables

ROOT = Path(__file__).parents[2]


def run_command(*arguments, redirect="", **environment):
    """Runs the command line as a shell does, and returns status, standard output and error."""
    words = [sys.executable, "-m", "keras_resnet18", *arguments]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirect}', "sh", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        check=False,
    )
    return done.returncode, done.stdout.decode("utf-8", "surrogateescape"), done.stderr.decode()


@pytest.mark.parametrize("arguments", [("info", "weights"), ("--help",)], ids=" ".join)
def test_a_full_disk_behind_standard_output_is_one_line(arguments):
    status, out, err = run_command(*arguments, redirect="> /dev/full")
    assert (status, out) == (1, "")
    assert err == "keras-resnet18: standard output cannot be written: No space left on device\n"


def test_a_closed_standard_output_is_one_line():
    status, _, err = run_command("info", "weights", redirect=">&-")
    assert status == 1 and err.count("\n") == 1
    assert err.startswith("keras-resnet18: standard output is closed")


@pytest.fixture(scope="module")
def keras_home(tmp_path_factory):
    """A user's settings for all of their programs, which are not ours."""
    home = tmp_path_factory.mktemp("home")
    settings = {"image_data_format": "channels_first", "floatx": "float16", "backend": "tensorflow"}
    (home / "keras.json").write_text(json.dumps(settings))
    return home


def test_predict_works_with_a_notebooks_plots_a_users_keras_and_no_standard_error(
    run, images, keras_home
):
    image = images / "test" / "bee" / "0.png"
    surroundings = {
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "KERAS_HOME": str(keras_home),
    }
    status, out, err = run_command("predict", run.path, image, redirect="2>&-", **surroundings)
    assert (status, err) == (0, "")
    (expected,) = predict(run, image)
    best = "  ".join(f"{name} {probability:.1%}" for name, probability in expected.top)
    assert out == f"{image}  {best}\n"


def test_a_backend_that_is_not_installed_is_one_line():
    status, out, err = run_command("info", KERAS_BACKEND="theano")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("keras-resnet18: Keras needs an installed backend")
    assert "theano" in err


def test_csv_keeps_a_files_name_that_is_not_utf8(exported, images, tmp_path):
    image = shutil.copy(images / "test" / "bee" / "0.png", tmp_path / os.fsdecode(b"\xff.png"))
    words = ("predict", exported / "model.tflite", tmp_path, "--csv")
    status, out, err = run_command(*words, PYTHONIOENCODING="ascii")
    assert (status, err) == (0, "")
    assert [row["file"] for row in csv.DictReader(io.StringIO(out))] == [str(image)]


@pytest.mark.parametrize("width", [80, 40])
def test_no_cell_of_a_table_is_cut(export_reports, width):
    printed = io.StringIO()
    console = Console(file=printed, width=width, highlight=False, markup=False, soft_wrap=True)
    tables.print_exports(console, export_reports)
    folded = "".join(printed.getvalue().split())
    assert "…" not in folded
    if width == 80:
        rows = printed.getvalue().splitlines()
        for report in export_reports:
            assert any(row.startswith(report.format) for row in rows)


def test_eight_threads_may_share_one_tflite_file(exported, images):
    from PIL import Image

    pixels = np.array(Image.open(images / "test" / "bee" / "0.png").convert("RGB"))[np.newaxis]
    file = TFLiteFile(exported / "model.tflite", threads=1)
    expected, wrong = file(pixels), []

    def answer():
        for _ in range(20):
            if not np.array_equal(file(pixels), expected):
                wrong.append(1)

    threads = [threading.Thread(target=answer) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
