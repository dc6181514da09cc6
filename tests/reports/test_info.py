"""`info` of a folder lists its runs, whatever state they are in."""

from __future__ import annotations

import os
import shutil

import pytest
from small import as_unfinished

from keras_resnet18 import info
from keras_resnet18.run import Run


@pytest.fixture
def folder(run, tmp_path):
    """Runs in every state, the newest first, and another folder."""
    for age, name in enumerate(("lost", "unfinished", "damaged", "old")):
        copy = Run(tmp_path / name)
        shutil.copytree(run.path, copy.path, ignore=shutil.ignore_patterns("model.keras"))
        copy.model_file.touch()  # is not opened
        for path in copy.path.iterdir():
            os.utime(path, (1_600_000_000 - age * 86_400,) * 2)
    Run(tmp_path / "lost").metrics_file.unlink()
    as_unfinished(tmp_path / "unfinished")
    metrics_file = Run(tmp_path / "damaged").metrics_file
    metrics_file.write_text("{}")
    os.utime(metrics_file, (1_500_000_000,) * 2)
    Run(tmp_path / "old").replacement.path.mkdir()
    (tmp_path / "notes").mkdir()
    return tmp_path


def test_runs_are_listed_the_newest_first_in_80_columns(folder, run):
    lines = info(folder).splitlines()
    assert max(map(len, lines)) <= 80
    first = 1 + next(i for i, line in enumerate(lines) if line.startswith("--"))
    rows: list[list[str]] = []
    for line in lines[first:]:
        cells = [cell.strip() for cell in line.split("|")]
        if cells[0]:
            rows.append(cells)
        else:  # a row that goes on
            rows[-1] = [f"{a} {b}".strip() for a, b in zip(rows[-1], cells, strict=True)]
    lost, unfinished, old, damaged = rows
    assert lost[4] == "damaged: no metrics.json" and lost[5] == "2020-09-13"
    assert unfinished[3:5] == ["3 of 3", "unfinished"] and "quick" in unfinished[2]
    assert old[3] == "3" and old[4].startswith(f"{run.metrics['test']['accuracy']:.2%} ")
    assert old[4].endswith("n = 12 an unfinished training is to replace it")
    assert damaged[0] == "damaged" and damaged[4].startswith("damaged: see `info`")


def test_a_run_that_is_to_be_replaced_says_how_to_go_on(run, tmp_path):
    copy = Run(shutil.copytree(run.path, tmp_path / "copy"))
    copy.replacement.path.mkdir()
    said = "".join(info(copy.path).split())  # the lines are wrapped
    assert f"unfinished training: go on with train(resume='{copy.path}')".replace(" ", "") in said
