"""training/quantized.py: refused files are measured too, once, and counted."""

from __future__ import annotations

import shutil

import pytest
import quantized
from rows import read_rows

from keras_resnet18.exporters.compare import Comparison

REFUSED = "the export is another"


def test_each_kind_of_each_run_is_a_row_and_made_once(run, tmp_path, capsys, monkeypatch):
    runs = [shutil.copytree(run.path, tmp_path / "insects" / name) for name in ("seed0", "seed1")]
    rows = tmp_path / "rows.jsonl"
    command = [*map(str, runs), "--kinds", "tflite", "tflite-dynamic", f"--rows={rows}"]
    monkeypatch.setattr(Comparison, "fault", lambda _, limit, *gate: None if gate else REFUSED)
    quantized.main(command)
    found = read_rows(rows)
    assert [row["kind"] for row in found] == ["tflite", "tflite-dynamic"] * 2
    for row in found:
        assert row["network"] == "insects" and row["n"] == 9 + 12
        test, validation = (run.metrics[kind]["accuracy"] for kind in ("test", "validation"))
        assert row["model_accuracy"] == pytest.approx((12 * test + 9 * validation) / 21)
        assert row["accuracy"] == pytest.approx(row["model_accuracy"], abs=0.1)
    printed = capsys.readouterr().out
    assert printed.count(REFUSED) == 4
    assert "| insects, n = 21 | float32 |" in printed and "| 2 of 2 |" in printed

    monkeypatch.delattr(quantized, "exported")
    quantized.main(command)
    assert capsys.readouterr().out in printed
