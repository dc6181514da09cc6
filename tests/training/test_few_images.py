"""training/few_images.py: both ways leave a row, and a row is not measured twice."""

from __future__ import annotations

from pathlib import Path

import few_images
import pytest
from rows import read_rows
from small import draw_images, train_quickly


def test_both_ways_are_measured_on_what_was_not_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_quickly(monkeypatch)
    photos = draw_images(tmp_path / "photos", {"ant": 34, "bee": 31})
    rows = tmp_path / "rows.jsonl"
    arguments = [str(photos), "--images", "20", "--folds", "2", "--rows", str(rows), "--seeds"]
    settings = [
        f"--set={x}"
        for x in ("epochs=1", "image_size=16", "precision=float32", "network.stem=small_stride2")
    ]
    few_images.main([*arguments, "1", *settings])
    one, folds = read_rows(rows)
    assert folds["n"] == 40 and one["n"] < 20 and one["others_n"] == folds["others_n"] == 25
    assert "| one split |" in (printed := capsys.readouterr().out) and " of 1 |" in printed

    before = rows.read_text()
    few_images.main([*arguments, "1", *settings])
    assert rows.read_text() == before
    with pytest.raises(SystemExit, match="every class needs more images than are drawn"):
        few_images.main([str(photos), "--images", "31", "--rows", str(rows)])
