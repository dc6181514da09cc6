"""Plots of a run: loss and accuracy by epoch, confusion matrix, reliability diagram."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from sklearn.metrics import ConfusionMatrixDisplay

from keras_resnet18.classify.calibration import Reliability

_NAMED_CLASSES = 40  # whose names fit beside a confusion matrix
_NUMBERED_CLASSES = 15  # whose counts fit into its cells


def plot_curves(
    rows: Sequence[Mapping[str, Any]], best_epoch: int, path: Path, *, head_epochs: int = 0
) -> None:
    """Draw loss and accuracy by epoch as a .png file, and mark the epoch that was kept.

    The first `head_epochs`, which trained the classifier alone, have a gray background.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        _draw_curve(axes, rows, name, best_epoch, head_epochs)
    figure.axes[1].legend()
    figure.savefig(path, dpi=120)


def curve_svg(
    rows: Sequence[Mapping[str, Any]], name: str, best_epoch: int, *, head_epochs: int = 0
) -> bytes:
    """Draw `"loss"` or `"accuracy"` by epoch as an SVG narrow enough for a phone."""
    figure = Figure(figsize=(4.2, 3.2), layout="constrained")
    axes = figure.subplots()
    _draw_curve(axes, rows, name, best_epoch, head_epochs)
    axes.legend(fontsize="small")
    return _svg(figure)


def reliability_svg(curves: Mapping[str, Reliability]) -> bytes:
    """Draw accuracy by the probability of the predicted class as an SVG."""
    figure = Figure(figsize=(4.2, 4.9), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", linestyle=":", label="calibrated")
    for i, (name, one) in enumerate(curves.items()):
        filled = one.n > 0
        x, y, size = one.probability[filled], one.accuracy[filled], one.n[filled] / one.n.sum()
        axes.plot(x, y, color=f"C{i}", lw=1)
        axes.scatter(x, y, s=12 + 200 * size, color=f"C{i}", alpha=0.8, label=name)
    axes.set_xlabel("probability of the predicted class")
    axes.set_ylabel("fraction of right answers")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.3)
    figure.legend(fontsize="small", loc="outside lower center")
    return _svg(figure)


def _svg(figure: Figure) -> bytes:
    content = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()


def _draw_curve(
    axes: Axes, rows: Sequence[Mapping[str, Any]], name: str, best_epoch: int, head_epochs: int
) -> None:
    epochs = [row["epoch"] for row in rows]
    curves = {"training": name, "validation": f"validation_{name}"}
    top = _top([[row[key] for row in rows] for key in curves.values()])
    title = name
    for label, key in curves.items():
        values = [row[key] for row in rows]
        axes.plot(epochs, values, marker="o" if len(rows) < 30 else "", ms=4, label=label)
        if name == "loss" and max(values) > top:
            title += f" ({label} up to {max(values):.3g})"
    axes.axvline(best_epoch, color="0.6", linestyle=":", label=f"kept: epoch {best_epoch}")
    if head_epochs:
        axes.axvspan(0.5, head_epochs + 0.5, color="0.93", label="classifier alone")
    axes.set(xlabel="epoch", title=title, xlim=(0.5, len(rows) + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if name == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    else:
        axes.set_ylim(0, top)


def _top(curves: Sequence[Sequence[float]]) -> float:
    """Upper limit of the loss axis, which shows half of each curve's points or more.

    BatchNorm's first statistics may make the validation loss huge for an epoch or two.
    """
    finite = [[value for value in curve if np.isfinite(value)] or [1.0] for curve in curves]
    return 1.5 * max(max(finite[0]), *(float(np.median(curve)) for curve in finite[1:]))


def plot_confusion(
    labels: npt.NDArray[np.int64],
    predictions: npt.NDArray[np.int64],
    classes: Sequence[str],
    path: Path,
) -> None:
    """Draw a confusion matrix as a .png file."""
    side = min(4 + 0.35 * len(classes), 18)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    ConfusionMatrixDisplay.from_predictions(
        labels,
        predictions,
        labels=range(len(classes)),
        display_labels=list(classes),
        ax=axes,
        cmap="Blues",
        colorbar=False,
        include_values=len(classes) <= _NUMBERED_CLASSES,
        xticks_rotation="vertical",
        values_format="d",
    )
    hits = int((labels == predictions).sum())
    title = f"{hits:,} of {len(labels):,} test images right ({hits / len(labels):.1%})"
    axes.set(title=title, xlabel="predicted class", ylabel="true class")
    if len(classes) > _NAMED_CLASSES:
        axes.set(xticks=[], yticks=[])
    for name in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        name.set_parse_math(False)  # a class may be called $5
    with warnings.catch_warnings():
        # class names in a script that the font lacks become boxes, which does not need a warning
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(path, dpi=120)
