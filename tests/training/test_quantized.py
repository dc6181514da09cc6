"""training/quantized.py: files are made as `export` makes them, refused ones too, and counted."""

from __future__ import annotations

import shutil

import pytest
import quantized
from rows import read_rows

import keras_resnet18
from keras_resnet18.exporters import tflite
from keras_resnet18.exporters.compare import MIN_AGREEMENT, Comparison

REFUSED = "the export is another"


@pytest.fixture
def command(run, tmp_path):
    runs = [shutil.copytree(run.path, tmp_path / "insects" / name) for name in ("seed0", "seed1")]
    return [*map(str, runs), f"--rows={tmp_path / 'rows.jsonl'}", "--images=20"]


def test_each_kind_of_each_run_is_a_row_and_made_once(command, run, tmp_path, capsys, monkeypatch):
    export, given = keras_resnet18.export_tflite, []

    def export_tflite(*arguments, **options):
        names = ("calibration", "check", "validation")
        given.append([sum(1 for _ in options[name].unbatch()) for name in names])
        return export(*arguments, **options)

    def fault(comparison, limit, least=MIN_AGREEMENT):
        return REFUSED if least and limit is None else None

    monkeypatch.setattr(tflite, "MIN_CALIBRATION_IMAGES", 49)
    monkeypatch.setattr(keras_resnet18, "export_tflite", export_tflite)
    monkeypatch.setattr(Comparison, "fault", fault)
    quantized.main(command)
    rows = read_rows(tmp_path / "rows.jsonl")
    kinds = ["tflite", "tflite-dynamic", "tflite-int8"]
    assert [row["kind"] for row in rows] == kinds * 2 and given == [[49, 20, 9]] * 6
    for row in rows:
        assert (row["network"], row["n"], row["seed"]) == ("insects", 20, run.recipe.seed)
        test, validation = (run.metrics[kind]["accuracy"] for kind in ("test", "validation"))
        assert row["model_accuracy"] == pytest.approx((12 * test + 8 * validation) / 20, abs=0.06)
        assert row["accuracy"] == pytest.approx(row["model_accuracy"], abs=0.1)
    printed = capsys.readouterr().out
    assert printed.count(REFUSED) == 4
    assert "| insects, n = 20 | float32 |" in printed and printed.count("| 2 of 2 |") == 2

    monkeypatch.delattr(quantized, "exported")
    quantized.main(command)
    assert capsys.readouterr().out in printed


def test_what_cannot_be_made_is_said_and_left_out(command, capsys):
    quantized.main([*command, "--kinds", "tflite-int8"])
    said = capsys.readouterr().out
    assert said.count("tflite-int8, left out: quantize='int8' needs 200 calibration images") == 2
    assert said.endswith("no file was made\n")
