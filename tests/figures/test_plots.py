"""Plots are drawn whatever the classes are called and however the training went."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text
from PIL import Image

from keras_resnet18.figures import plots
from keras_resnet18.figures.plots import (
    benchmark_figure,
    plot_benchmark,
    plot_confusion,
    plot_curves,
)


def drawn(path):
    """The image is there, and shows something."""
    with Image.open(path) as image:
        return image.format == "PNG" and np.asarray(image.convert("L")).std() > 5


@pytest.mark.parametrize(("epochs", "head_epochs"), [(1, 0), (40, 0), (5, 3)])
def test_curves_are_drawn(tmp_path, epochs, head_epochs):
    keys = ("loss", "accuracy", "validation_loss", "validation_accuracy")
    rows = [{"epoch": i + 1, **dict.fromkeys(keys, 1 / (i + 1))} for i in range(epochs)]
    plot_curves(rows, 1, tmp_path / "curves.png", head_epochs=head_epochs)
    assert drawn(tmp_path / "curves.png")


def test_curves_of_a_training_that_diverged_are_drawn(tmp_path):
    row = {"loss": np.nan, "accuracy": 0.1, "validation_loss": np.inf, "validation_accuracy": 0.1}
    plot_curves([{"epoch": 1, **row}], 1, tmp_path / "curves.png")
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


NAMES = [f"{name}.tflite" for name in ("model", "model-float16", "model-dynamic", "model-int8")]


def measured(accuracies, names=NAMES):
    return [
        {
            "name": name,
            "threads": threads,
            "median_ms": (20 + i) / threads,
            "accuracy": accuracy,
            "n": 172,
        }
        for i, (name, accuracy) in enumerate(zip(names, accuracies, strict=True))
        for threads in (1, 4)
    ]


@pytest.mark.parametrize(
    ("accuracies", "names"),
    [
        ([0.9884] * 4, NAMES),  # as good as one another, which is common
        ([0.9884, 0.9884, 0.2, 0.98], NAMES),
        ([0.5] * 20, [f"a run of a long name/export/model-{i}$.tflite" for i in range(20)]),
        ([1.0], ["model.keras"]),
    ],
)
def test_no_name_in_the_image_of_a_benchmark_covers_another_or_leaves_it(accuracies, names):
    figure = benchmark_figure(measured(accuracies, names))
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert {text.get_text() for text in axes.texts} == set(names)
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # an annotation's has its line
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert all(box.x0 > axes.bbox.x1 and box.x1 <= figure.bbox.x1 for box in boxes)


def test_each_file_has_a_point_for_each_number_of_threads(tmp_path):
    rows = [*measured([0.9, 0.8], NAMES[:2]), *measured([None], NAMES[2:3])]
    plot_benchmark(rows, tmp_path / "benchmark.png")
    assert drawn(tmp_path / "benchmark.png")
    figure = benchmark_figure(rows[:4])
    (axes,) = figure.axes
    points = {
        (line.get_xdata()[0], line.get_ydata()[0]): to_hex(line.get_markerfacecolor())
        for line in axes.lines
        if line.get_marker() == "o" and len(line.get_xdata())
    }
    assert set(points) == {(row["median_ms"], row["accuracy"]) for row in rows[:4]}
    assert [points[20.0, 0.9], points[21.0, 0.8]] == ["#ffffff"] * 2  # one thread
    assert "#ffffff" not in {points[5.0, 0.9], points[5.25, 0.8]}
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["1 thread", "4 threads"]
