"""The runs in a folder, side by side."""

from __future__ import annotations

import csv
import io
from datetime import datetime
from pathlib import Path

from rich.console import Console

from keras_resnet18.classify.table import plain_table
from keras_resnet18.errors import InputError
from keras_resnet18.run import Run

_WIDTH = 80  # of a terminal


def runs_in(folder: Path) -> list[Run]:
    """Finished and unfinished runs right below a folder, the newest first."""
    runs = [Run(path) for path in folder.iterdir() if Run(path).recipe_file.is_file()]
    return sorted(runs, key=_written, reverse=True)


def about_runs(folder: Path) -> str:
    """A row for each run in a folder, at most 80 columns wide."""
    headings = ("run", "images", "network,\nrecipe", "epochs", "test accuracy", "date")
    table = plain_table(*headings)
    for run in runs_in(folder):
        table.add_row(
            run.path.name, *_row(run), f"{datetime.fromtimestamp(_written(run)):%Y-%m-%d}"
        )
    printed = io.StringIO()
    Console(file=printed, width=_WIDTH, markup=False, emoji=False, highlight=False).print(table)
    return printed.getvalue().rstrip("\n")


def _row(run: Run) -> tuple[str, str, str, str]:
    """Images, network and recipe, epochs, and test accuracy."""
    try:
        recipe = run.recipe
        what = f"{recipe.network.name} {recipe.network.stem}, {recipe.name}"
        images = run.source or "arrays"
        if not run.finished:
            state = "damaged: no metrics.json" if run.lacks_metrics else "unfinished"
            return images, what, f"{_epochs(run)} of {recipe.epochs}", state
        metrics = run.metrics
        test = metrics["test"]
        low, high = test["interval"]
        accuracy = f"{test['accuracy']:.2%}\n{low:.2%} to {high:.2%}\nn = {test['n']:,}"
        if run.replacement.path.is_dir():
            accuracy += "\nan unfinished training is to replace it"
        return images, what, str(metrics["epochs"]), accuracy
    except (InputError, KeyError, TypeError, ValueError):
        return "?", "?", "?", "damaged: see `info` of the run alone"


def _epochs(run: Run) -> int:
    try:
        with run.history_file.open(newline="", encoding="utf-8") as file:
            return sum(1 for _ in csv.DictReader(file))
    except FileNotFoundError:
        return 0


def _written(run: Run) -> float:
    """When a run was finished, or an unfinished one last written; seconds since 1970."""
    last = (run.metrics_file, run.history_file, run.recipe_file)
    return next(file.stat().st_mtime for file in last if file.is_file())
