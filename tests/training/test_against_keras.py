"""training/against_keras.py, with a network that is trained in no time."""

from __future__ import annotations

import against_keras
import pytest
from rows import read_rows
from small import build_tiny

import keras_resnet18
from keras_resnet18.errors import InputError


def epochs(*points):
    return [{"minutes": m, "validation_accuracy": a} for m, a in points]


def test_sooner_compares_the_times_to_the_first_best_epoch_of_the_other():
    keras = epochs((2, 0.5), (4, 0.8), (6, 0.8), (8, 0.7))
    assert against_keras.sooner(keras, epochs((1, 0.4), (2, 0.85), (3, 0.9))) == 2
    assert against_keras.sooner(keras, epochs((1, 0.4), (2, 0.79))) is None


def test_seeds_are_summed_up_and_one_that_never_gets_there_is_said():
    assert "2.50 ± 0.71 times as soon" in against_keras.sooner_in_words([2, 3])
    assert "does not reach" in against_keras.sooner_in_words([2, None])


def training(side, seed, *accuracies, epochs=2, test=True):
    same = {"side": side, "seed": seed, "images": 9, "epochs": epochs, "stem": "small"}
    rows = [
        {**same, "epoch": number, "minutes": number, "validation_accuracy": accuracy}
        for number, accuracy in enumerate(accuracies, 1)
    ]
    figures = {"test_accuracy": accuracies[-1], "flip_accuracy": 0.5, "n": 7, "precision": "x"}
    return rows + [{**same, "epoch": "test", **figures, **against_keras.machine()}] * test


def test_the_table_has_seeds_whose_sides_are_finished_without_first_attempts():
    aborted = training("keras", 0, 0.9, test=False)
    whole = training("keras", 0, 0.5, 0.6) + training("ours", 0, 0.6, 0.7)
    half = training("keras", 1, 0.1, 0.2)
    other = training("keras", 0, 0.3, epochs=1) + training("ours", 0, 0.4, epochs=1)
    printed = against_keras.text(aborted + whole + half)
    assert "| x | 60.00 % | 60.00 % | 50.00 % | 2.0 |" in printed and "seeds 0;" in printed
    assert "2.00 times as soon" in printed
    both = against_keras.text(whole + other)
    assert both.startswith(against_keras.text(whole)) and both.endswith(against_keras.text(other))
    with pytest.raises(InputError, match="of no seed both sides are finished"):
        against_keras.text(half)


@pytest.fixture
def both_sides_here(tiny_network, monkeypatch):
    """Trains a tiny network on both sides, in this process."""

    def build(*, include_preprocessing, **settings):
        return build_tiny(dropout=0.0, **settings)

    def run_side(arguments, side, seed):
        arguments = dict(vars(arguments), side=side)
        against_keras.train_side(against_keras.argparse.Namespace(**arguments), seed)

    monkeypatch.setattr(keras_resnet18, "build_resnet18", build)
    monkeypatch.setattr(against_keras, "run_side", run_side)


def test_both_sides_leave_rows_and_are_trained_once(both_sides_here, tmp_path, capsys, monkeypatch):
    out, figure = tmp_path / "out", tmp_path / "docs" / "figure.png"
    command = ["digits", "--images=256", "--epochs=2", f"--out={out}", f"--figure={figure}"]
    against_keras.main(command)
    rows = read_rows(out / "rows.jsonl")
    assert [(row["side"], row["epoch"]) for row in rows] == [
        (side, epoch) for side in ("keras", "ours") for epoch in (1, 2, "test")
    ]
    assert all(row["n"] == 172 for row in rows if row["epoch"] == "test")
    assert all(0 < a["minutes"] < b["minutes"] for a, b in (rows[0:2], rows[3:5]))
    ours = keras_resnet18.load_run(out / "ours-256-images-2-epochs-small_stride2-seed0")
    assert rows[-1]["test_accuracy"] == pytest.approx(ours.metrics["test"]["accuracy"])
    assert figure.stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "| ours, `small-images` |" in printed and "n = 172 test images" in printed

    monkeypatch.delattr(against_keras, "run_side")
    against_keras.main(command)
    assert capsys.readouterr().out in printed
