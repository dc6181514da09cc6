"""`info` of a folder lists its runs, whatever state they are in."""

from __future__ import annotations

import os
import shutil

import pytest
from small import as_unfinished

from keras_resnet18 import info
from keras_resnet18.errors import InputError
from keras_resnet18.run import Run


@pytest.fixture
def folder(run, tmp_path):
    """An old run, a newer one whose metrics are damaged, an unfinished one, and other folders."""
    for age, name in enumerate(("unfinished", "damaged", "old")):
        copy = Run(tmp_path / name)
        shutil.copytree(run.path, copy.path, ignore=shutil.ignore_patterns("model.keras"))
        copy.model_file.touch()  # is not opened
        for path in copy.path.iterdir():
            os.utime(path, (1_600_000_000 - age * 86_400,) * 2)
    Run(tmp_path / "damaged").metrics_file.write_text("{}")
    as_unfinished(tmp_path / "unfinished")
    Run(tmp_path / "old").replacement.path.mkdir()
    (tmp_path / "notes").mkdir()
    return tmp_path


def test_runs_are_listed_the_newest_first_in_80_columns(folder, run):
    lines = info(folder).splitlines()
    assert max(map(len, lines)) <= 80
    rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    first_lines = [row for row in rows[3:] if row[0]]
    assert [row[0] for row in first_lines] == ["damaged", "unfinished", "old"]
    damaged, unfinished, old = first_lines
    assert damaged[4].startswith("damaged")
    assert unfinished[3:] == ["3 of 3", "unfinished", "2020-09-13"]
    assert old[3:5] == ["3", f"{run.metrics['test']['accuracy']:.2%}"]
    assert "n = 12" in info(folder) and "quick" in info(folder)
    assert "is to replace it" in " ".join("".join(row[4]) for row in rows[-4:])


def test_a_run_that_lost_its_metrics_is_not_called_unfinished(folder):
    Run(folder / "old").metrics_file.unlink()
    assert "damaged: no" in info(folder)


def test_a_run_that_is_to_be_replaced_says_how_to_go_on(run, tmp_path):
    copy = Run(shutil.copytree(run.path, tmp_path / "copy"))
    copy.replacement.path.mkdir()
    said = "".join(info(copy.path).split())  # the lines are wrapped
    assert f"unfinished training: go on with {copy.resume_command}".replace(" ", "") in said


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(InputError, match="a run is a folder"):
        info(tmp_path)
