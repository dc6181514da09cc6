"""Plots are drawn whatever the classes are called and however the training went."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from PIL import Image

from keras_resnet18.reports import plots
from keras_resnet18.reports.plots import plot_confusion, plot_curves


def drawn(path):
    """The image is there, and shows something."""
    with Image.open(path) as image:
        return image.format == "PNG" and np.asarray(image.convert("L")).std() > 5


@pytest.mark.parametrize(
    ("losses", "head_epochs"), [([1], 0), (range(40, 0, -1), 0), ([5, 3, 2], 2), ([np.nan, 1], 0)]
)
def test_curves_are_drawn(tmp_path, losses, head_epochs):
    keys = ("loss", "accuracy", "validation_loss", "validation_accuracy")
    rows = [{"epoch": i, **dict.fromkeys(keys, loss)} for i, loss in enumerate(losses, 1)]
    plot_curves(rows, 1, tmp_path / "curves.png", head_epochs=head_epochs)
    assert drawn(tmp_path / "curves.png")


@pytest.mark.parametrize(
    ("losses", "title"),
    [
        ((102.0, 28.0), "loss (validation up to 102)"),  # all are far above the training's
        ((90.0, 0.9, 0.8), "loss (validation up to 90)"),  # BatchNorm's first epoch
        ((1.2, 0.9), "loss"),
    ],
)
def test_half_of_the_validation_losses_are_seen_and_the_others_said(losses, title):
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    rows = [
        {"epoch": i + 1, "loss": 1 / (i + 1), "validation_loss": loss}
        for i, loss in enumerate(losses)
    ]
    plots._draw_curve(axes, rows, "loss", 1, 0)
    assert axes.get_title() == title
    assert sorted(losses)[(len(losses) - 1) // 2] < axes.get_ylim()[1]


@pytest.mark.parametrize(
    "classes",
    [
        ("$^$", "50 %"),  # no formula
        ("蝉", "größe"),  # no letters of the font
        tuple(f"a class of a long name, number {i}" for i in range(20)),
        tuple(map(str, range(100))),
    ],
)
def test_a_confusion_matrix_is_drawn_without_a_word(tmp_path, classes):
    labels = np.arange(len(classes))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_confusion(labels, labels[::-1], classes, tmp_path / "matrix.png")
    assert drawn(tmp_path / "matrix.png")
