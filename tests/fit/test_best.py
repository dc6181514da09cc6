"""The epoch that is kept is the one a person would choose, and it is on the disk at once."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_resnet18.fit import callbacks as best
from keras_resnet18.fit.callbacks import BestModel, History, best_in_words, best_row


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


def test_the_summary_says_what_the_loss_would_have_kept():
    assert best_in_words(rows((0.44, 0.7), (1.0, 0.9))) == (
        "kept epoch 2 of 2: validation accuracy 100.00%, the highest (the lowest validation loss "
        "was that of epoch 1, accuracy 44.00%)"
    )
    assert best_in_words(rows((0.44, 0.9), (1.0, 0.7))).endswith("and the lowest validation loss")


@pytest.fixture
def network():
    return keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, activation="softmax")])


def end_epochs(network, callback, history, accuracies):
    for epoch, accuracy in enumerate(accuracies):
        network.layers[-1].bias.assign([float(epoch + 1)] * 2)
        history.rows += rows(*[(0, 0)] * epoch, (accuracy, 1.0))[-1:]
        callback.on_epoch_end(epoch)


def bias(path):
    return float(keras.saving.load_model(path).layers[-1].bias.numpy()[0])


def test_each_new_best_is_written_at_once_and_others_are_not(network, tmp_path, monkeypatch):
    monkeypatch.setattr(best, "_EVERY", 0)
    monkeypatch.setattr(best, "_TIMES_ITS_COST", 0)
    path, history, on_disk = tmp_path / "model.keras", History(2, lambda rows: None), []
    callback = BestModel(network, history, path)
    for epoch, accuracy in enumerate((0.5, 0.7, 0.6)):
        network.layers[-1].bias.assign([float(epoch + 1)] * 2)
        history.rows += rows(*[(0, 0)] * epoch, (accuracy, 1.0))[-1:]
        callback.on_epoch_end(epoch)
        on_disk.append(bias(path))
        assert float(network.layers[-1].bias.numpy()[0]) == epoch + 1  # goes on with its own
    assert on_disk == [1, 2, 2]
    callback.put_in()
    assert float(network.layers[-1].bias.numpy()[0]) == 2


def test_epochs_of_seconds_write_the_first_best_and_the_last(network, tmp_path):
    path, history = tmp_path / "model.keras", History(2, lambda rows: None)
    callback = BestModel(network, history, path)
    end_epochs(network, callback, history, (0.5, 0.7, 0.6))
    assert bias(path) == 1
    callback.write()
    assert bias(path) == 2


def test_the_best_of_an_earlier_process_counts(network, tmp_path):
    path, history = tmp_path / "model.keras", History(2, lambda rows: None)
    history.resume(rows((0.9, 1.0)), 0, 0.0)
    callback = BestModel(network, history, path)
    callback.resume([np.zeros((1, 2), np.float32), np.full(2, 9, np.float32)])
    history.rows += rows((0, 0), (0.8, 1.0))[-1:]
    callback.on_epoch_end(1)
    assert bias(path) == 9
