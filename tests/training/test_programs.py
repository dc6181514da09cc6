"""What is given wrongly to a program of training/ costs it one line, and no traceback."""

from __future__ import annotations

import against_keras
import antialias
import degradation
import kill_and_resume
import label_errors
import pytest
import rejection
import robustness
import transfer


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (degradation.main, ["FOLDER", "--epochs=0"]),
        (transfer.main, ["FOLDER", "--pretraining-epochs=-1"]),
        (kill_and_resume.main, ["FOLDER", "--kills=0"]),
        (robustness.main, ["RUN", "--images=many"]),
    ],
)
def test_numbers_of_things_are_1_or_more(main, arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "must be 1 or more. Received: " in capsys.readouterr().err


def test_what_a_program_cannot_use_is_a_line(run, images, tmp_path):
    (tmp_path / "file").touch()
    for main, arguments, message in (
        (degradation.main, [tmp_path], "SOURCE must be tfds:cifar10"),
        (transfer.main, [tmp_path], ".*Missing or empty: .*train/airplane"),
        (kill_and_resume.main, [tmp_path / "file" / "kills"], "the folder cannot be made"),
        (against_keras.main, ["none", "--side=keras", f"--out={tmp_path}"], "images must be"),
        (antialias.main, [images], "the photos must be JPEG files"),
        (robustness.main, [tmp_path], "a run is a folder"),
        (label_errors.main, ["digits", "--copies"], "near copies are made of files"),
        (label_errors.main, ["digits", "--fraction=1"], "labels are made wrong of files"),
        (rejection.main, ["--run", run.path, "--foreign=digits"], "--foreign takes NAME=SOURCE"),
        (
            rejection.main,
            ["--run", run.path, "--foreign=x=/none", f"--rows={tmp_path / 'rows'}"],
            "images must be a folder",
        ),
    ):
        with pytest.raises(SystemExit, match=f"^error: {message}[^\n]*$"):
            main(list(map(str, arguments)))
