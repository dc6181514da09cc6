"""The best epoch is kept and is on the disk at once; progress reads well on any output."""

from __future__ import annotations

import io
import re

import keras
import numpy as np
import pytest
from rich.console import Console

from keras_resnet18.fit import callbacks
from keras_resnet18.fit.callbacks import BestModel, History, ProgressLine, best_in_words, best_row


def rows(*figures):
    return [
        {"epoch": i + 1, "validation_accuracy": accuracy, "validation_loss": loss}
        for i, (accuracy, loss) in enumerate(figures)
    ]


@pytest.mark.parametrize(
    ("figures", "epoch"),
    [
        ([(0.44, 0.7), (1.0, 0.9)], 2),  # right but less sure: the loss alone would keep the first
        ([(0.9, 0.3), (0.9, 0.2), (0.8, 0.1)], 2),
        ([(0.9, 0.2), (0.9, 0.2)], 1),
        ([(0.9, np.nan), (0.9, np.inf), (0.9, 5.0)], 3),
        ([(0.1, np.nan), (0.1, np.inf)], 1),
    ],
)
def test_the_highest_accuracy_is_kept_and_the_lowest_loss_of_several(figures, epoch):
    assert best_row(rows(*figures))["epoch"] == epoch


def test_the_summary_says_which_epoch_is_kept():
    line = "kept epoch 2 of 2: validation accuracy 100.00%, the highest"
    assert best_in_words(rows((0.44, 0.7), (1.0, 0.9))) == line


def bias(model):
    return float(model.layers[-1].bias.numpy()[0])


@pytest.mark.parametrize(
    ("every", "on_disk"), [(0, [1, 2, 2]), (60, [1, 1, 1])], ids=["at once", "once a minute"]
)
def test_a_new_best_epoch_is_written_and_training_goes_on(tmp_path, monkeypatch, every, on_disk):
    monkeypatch.setattr(callbacks, "_EVERY", every)
    monkeypatch.setattr(callbacks, "_TIMES_ITS_COST", 0)
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    history, written = History(2, lambda rows: None), []
    best = BestModel(network, history, tmp_path / "model.keras")
    for epoch in range(3):
        network.layers[-1].bias.assign([epoch + 1.0] * 2)
        history.rows = rows((0.5, 1), (0.7, 1), (0.6, 1))[: epoch + 1]
        best.on_epoch_end(epoch)
        assert bias(network) == epoch + 1
        written.append(bias(keras.saving.load_model(tmp_path / "model.keras")))
    assert written == on_disk
    best.write()
    best.put_in()
    assert bias(keras.saving.load_model(tmp_path / "model.keras")) == bias(network) == 2


def fit(console, epochs=2):
    """Train a line on four points, and return the rows after each write."""
    written = []
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, activation="softmax")])
    cross_entropy = keras.metrics.SparseCategoricalCrossentropy(name="cross_entropy")
    metrics = ["accuracy", cross_entropy]
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=metrics, jit_compile=False)
    history = History(2, lambda rows: written.append([dict(row) for row in rows]))
    progress = ProgressLine(console, history, epochs=epochs)
    data = (np.zeros((4, 1)), np.array([0, 1, 0, 1]))
    options = {"batch_size": 2, "epochs": epochs, "validation_data": data, "verbose": 0}
    model.fit(*data, callbacks=[history, progress], **options)
    return written


def test_a_file_gets_one_plain_line_an_epoch_and_the_history_a_row():
    file = io.StringIO()
    written = fit(Console(file=file))
    assert [[row["epoch"] for row in rows] for rows in written] == [[1], [1, 2]]
    assert set(written[-1][0]) == {
        *("epoch", "steps", "loss", "accuracy", "validation_loss", "validation_accuracy"),
        *("learning_rate", "images_per_second"),
    }
    lines = file.getvalue().splitlines()
    assert len(lines) == 2
    assert re.fullmatch(
        r"epoch 2/2  loss \d\.\d{3}  accuracy \d+\.\d%  validation \d+\.\d%  "
        r"[\d,]+ images/s  0:00 left",
        lines[1],
    )
    assert file.getvalue().isascii() and "\x1b" not in file.getvalue()


def test_a_file_gets_lines_within_an_epoch_that_takes_long(monkeypatch):
    monkeypatch.setattr(callbacks, "_SILENCE", 0)
    file = io.StringIO()
    fit(Console(file=file))
    starts = [line.partition("  loss")[0] for line in file.getvalue().splitlines()]
    assert starts == [
        *("epoch 1/2  step 1/2", "epoch 1/2  step 2/2", "epoch 1/2"),
        *("epoch 2/2  step 1/2", "epoch 2/2  step 2/2", "epoch 2/2"),
    ]
    assert all(line.endswith(" left") for line in file.getvalue().splitlines())


def test_a_terminal_without_unicode_gets_a_bar_of_ascii():
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    fit(Console(file=file, force_terminal=True, width=100))
    assert b"left" in raw.getvalue()
    assert b"epoch 2/2" in raw.getvalue()
