"""training/label_errors.py, on some of the digits and a folder of drawings."""

from __future__ import annotations

import csv
from types import SimpleNamespace

import label_errors
import pytest
from PIL import Image
from rows import read_rows


def label(image, label, suggested):
    return SimpleNamespace(image=image, label=label, suggested=suggested)


def test_figures_count_wrong_labels_among_the_least_probable_and_the_contradicted():
    rows = [("a", "x", "y"), ("b", "y", "x"), ("c", "y", "x"), ("d", "x", "x"), ("e", "y", "y")]
    found = SimpleNamespace(labels=[label(*row) for row in rows], accuracy=0.4)
    true = {"a": "y", "b": "y", "c": "x", "d": "y", "e": "y"}  # a, c and d are wrong
    figures = label_errors.figures(found, true)
    assert (figures["n"], figures["wrong"], figures["confirmed"]) == (5, 3, 0.4)
    assert figures["found"] == figures["recall"] == figures["precision"] == pytest.approx(2 / 3)


def test_labels_are_made_wrong_trained_on_and_measured_once(tmp_path, tiny_network, capsys):
    words = ["digits", "--images=200", "--recipe=digits", "--set=epochs=1", "--fraction=0.1"]
    label_errors.main([*words, f"--out={tmp_path}"])
    with (tmp_path / "images.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sum(row["label"] != row["true"] for row in rows) == 20 and len(rows) == 200
    assert Image.open(tmp_path / rows[0]["path"]).size == (8, 8)
    (row,) = read_rows(tmp_path / "rows.jsonl")
    assert (row["n"], row["wrong"]) == (200, 20) and 0 <= row["found"] <= 1
    printed = capsys.readouterr().out
    assert f"| 200 | 20 | {row['found']:.1%} (" in printed
    label_errors.main([*words, f"--out={tmp_path}"])
    assert read_rows(tmp_path / "rows.jsonl") == [row]


def test_copies_are_made_found_and_listed(images, tmp_path, capsys):
    label_errors.main([str(images), "--copies", "--images=5", f"--out={tmp_path}"])
    (row,) = read_rows(tmp_path / "rows.jsonl")
    assert row["n"] == 5 and row["pairs"] == [] and set(label_errors.COPIES) <= set(row)
    assert "0 pairs of photos look the same" in capsys.readouterr().out
