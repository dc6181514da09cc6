"""Figures of each class, also of one that was never tested or never predicted."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import balanced_accuracy_score

from keras_resnet18.classify.accuracy import balanced_accuracy, interval, majority, per_class
from keras_resnet18.classify.table import print_classes

LABELS = np.array([0] * 6 + [1] * 3 + [2])
PREDICTIONS = np.array([0] * 5 + [1] + [1] * 2 + [0] + [0])


@pytest.fixture(scope="module")
def figures():
    return per_class(LABELS, PREDICTIONS, ("ok", "dent", "scratch", "rust"))


def test_each_class_has_its_figures(figures):
    ok, dent, scratch, rust = figures
    assert (ok.n, ok.recall, ok.precision) == (6, 5 / 6, 5 / 7)
    assert ok.f1 == pytest.approx(2 * 5 / (2 * 5 + 2 + 1))
    assert ok.recall_interval == interval(5, 6)
    assert (dent.n, dent.recall, dent.precision) == (3, 2 / 3, 2 / 3)
    assert (scratch.n, scratch.recall, scratch.precision, scratch.f1) == (1, 0.0, None, 0.0)
    assert (rust.n, rust.recall, rust.recall_interval, rust.f1) == (0, None, None, None)


def test_balanced_accuracy_is_sklearns(figures):
    expected = balanced_accuracy_score(LABELS, PREDICTIONS)
    assert balanced_accuracy(figures) == pytest.approx(expected)
    assert majority(figures) == ("ok", 0.6)


def printed(figures):
    text = io.StringIO()
    # as the command line has it on no terminal
    print_classes(
        Console(file=text, soft_wrap=True, width=80, markup=False), figures, "metrics.json"
    )
    return text.getvalue()


def test_the_table_has_a_row_a_class(figures):
    rows = [[cell.strip() for cell in line.split("|")] for line in printed(figures).splitlines()]
    assert rows[0] == ["class", "images", "recall", "95 % interval", "precision", "F1"]
    assert rows[2][:3] == ["ok", "6", "83.3%"]
    assert rows[5] == ["rust", "0", "-", "-", "-", "-"]
    assert len(rows) == 6


def test_of_a_thousand_classes_the_table_has_the_worst_and_says_so():
    labels = np.arange(1000)
    wrong = np.where(labels < 2, 999, labels)
    lines = printed(per_class(labels, wrong, [f"class {i}" for i in labels])).splitlines()
    assert len(lines) == 2 + 5 + 1
    assert lines[2].startswith("class 0 ") and lines[3].startswith("class 1 ")
    assert lines[-1] == "the 5 of 1,000 classes with the lowest F1; all are in metrics.json"


def test_a_long_name_is_folded_at_80_columns_and_whole():
    name = "a class whose name is longer than any column " * 4
    text = printed(per_class(LABELS, PREDICTIONS, ("ok", name, "蝉", "[red]")))
    assert max(map(len, text.splitlines())) <= 80
    assert "".join(line.split("|")[0] for line in text.splitlines()).count("column") == 4
    assert "[red]" in text
