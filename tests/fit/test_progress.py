"""What is said of a training reads well on a terminal, in a file, and without Unicode."""

from __future__ import annotations

import io
import re

import keras
import numpy as np
from rich.console import Console

from keras_resnet18.fit.callbacks import History, ProgressLine


def fit(console, epochs=2):
    """Trains a line on four points; returns the rows after each write."""
    written = []
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, activation="softmax")])
    cross_entropy = keras.metrics.SparseCategoricalCrossentropy(name="cross_entropy")
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy", cross_entropy])
    history = History(2, lambda rows: written.append([dict(row) for row in rows]))
    progress = ProgressLine(console, history, epochs=epochs)
    data = (np.zeros((4, 1)), np.array([0, 1, 0, 1]))
    model.fit(
        *data,
        batch_size=2,
        epochs=epochs,
        validation_data=data,
        verbose=0,
        callbacks=[history, progress],
    )
    return written


def test_rows_are_written_after_every_epoch():
    written = fit(Console(quiet=True))
    assert [[row["epoch"] for row in rows] for rows in written] == [[1], [1, 2]]
    assert set(written[-1][0]) == {
        "epoch",
        "loss",
        "accuracy",
        "steps",
        "validation_loss",
        "validation_accuracy",
        "learning_rate",
        "images_per_second",
    }


def test_a_file_gets_one_plain_line_an_epoch():
    file = io.StringIO()
    fit(Console(file=file))
    lines = file.getvalue().splitlines()
    assert len(lines) == 2
    assert re.fullmatch(
        r"epoch 2/2  loss \d\.\d{3}  accuracy \d+\.\d%  validation \d+\.\d%  "
        r"[\d,]+ images/s  0:00 left",
        lines[1],
    )
    assert file.getvalue().isascii()
    assert "\x1b" not in file.getvalue()


def test_a_file_gets_lines_within_an_epoch_that_takes_long(monkeypatch):
    monkeypatch.setattr("keras_resnet18.fit.callbacks._SILENCE", 0)
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
