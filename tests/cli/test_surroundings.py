"""The command line where it was not expected to run: closed streams, odd settings, odd names."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from keras_resnet18 import predict

ROOT = Path(__file__).parents[2]


def run_command(*arguments, redirect="", **environment):
    """Runs the command line as a shell does, and returns status, standard output and error."""
    words = [sys.executable, "-m", "keras_resnet18", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    del environment["TF_CPP_MIN_LOG_LEVEL"]  # conftest's: a user has not set it
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirect}', "sh", *words],
        env=environment,
        capture_output=True,
        check=False,
    )
    return done.returncode, done.stdout.decode("utf-8", "surrogateescape"), done.stderr.decode()


def test_predict_works_where_streams_are_closed(exported, images):
    words = ("predict", exported / "model.tflite", images / "test" / "bee" / "0.png")
    assert run_command(*words, redirect="<&- >&- 2>&-") == (0, "", "")


def test_predict_works_with_a_notebooks_plots_and_a_users_keras(run, images, tmp_path):
    settings = {"image_data_format": "channels_first", "floatx": "float16", "backend": "tensorflow"}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    surroundings = {
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "KERAS_HOME": str(tmp_path),
    }
    image = images / "test" / "bee" / "0.png"
    status, out, err = run_command("predict", run.path, image, **surroundings)
    assert (status, err) == (0, "")
    (expected,) = predict(run, image)
    assert out.startswith(f"{image}  bee {expected.top[0][1]:.1%}  ")


def test_a_backend_that_is_not_installed_is_one_line():
    status, out, err = run_command("info", KERAS_BACKEND="theano")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("keras-resnet18: Keras needs an installed backend")
    assert "theano" in err


def test_predict_is_readable_where_only_ascii_is_known(exported, images, tmp_path):
    image = images / "test" / "蝉" / "0.png"
    words = ("predict", exported / "model.tflite", image)
    status, out, err = run_command(*words, PYTHONIOENCODING="ascii")
    assert (status, err) == (0, "")  # without TensorFlow's and LiteRT's greetings
    assert re.fullmatch(r".*/test/\?/0\.png  ((ant|bee|\?) \d+\.\d%(  |\n)){3}", out)


def test_csv_keeps_a_files_name_that_is_not_utf8(exported, images, tmp_path):
    image = shutil.copy(images / "test" / "bee" / "0.png", tmp_path / os.fsdecode(b"\xff.png"))
    words = ("predict", exported / "model.tflite", tmp_path, "--csv")
    status, out, err = run_command(*words, PYTHONIOENCODING="ascii")
    assert (status, err) == (0, "")
    assert [row["file"] for row in csv.DictReader(io.StringIO(out))] == [str(image)]
