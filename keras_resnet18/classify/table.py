"""The table of the classes that is printed: 80 columns on no terminal, folded and never cut."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from keras_resnet18.classify.accuracy import ClassFigures

_MOST_ROWS = 20
_WIDTH = 80  # of a terminal


def print_classes(console: Console, figures: Sequence[ClassFigures], file: str) -> None:
    """Prints a row for each class; of many classes those of the lowest F1.

    Args:
        console: Where to.
        figures: All classes.
        file: Where the figures of those that are left out are found, as the end of a sentence.
    """
    table = plain_table("class", "images", "recall", "95 % interval", "precision", "F1")
    for one in _worst(figures):
        low, high = one.recall_interval or (None, None)
        between = "-" if one.recall_interval is None else f"{low:.1%} to {high:.1%}"
        table.add_row(
            one.name,
            f"{one.n:,}",
            percent(one.recall, 1),
            between,
            percent(one.precision, 1),
            percent(one.f1, 1),
        )
    console.print(table, soft_wrap=False)
    if len(figures) > _MOST_ROWS:
        console.print(
            f"the {_MOST_ROWS} classes of the lowest F1, of {len(figures):,}; all are in {file}"
        )


def _worst(figures: Sequence[ClassFigures]) -> Sequence[ClassFigures]:
    if len(figures) <= _MOST_ROWS:
        return figures
    tested = [one for one in figures if one.f1 is not None]
    return sorted(tested, key=lambda one: one.f1 or 0.0)[:_MOST_ROWS]


def plain_table(*headings: str) -> Table:
    """A table of plain characters whose cells are folded where the console is too narrow."""
    table = Table(*headings)
    table.box, table.show_edge, table.pad_edge = box.ASCII2, False, False
    for column in table.columns:
        column.overflow = "fold"
    return table


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction as text, or `-` for None."""
    return "-" if value is None else f"{value:.{digits}%}"


def operators_in_words(histogram: Mapping[str, int]) -> str:
    """Operators by name and number in one line, for `facts_table`."""
    # not broken between an operator and its number
    return ", ".join(f"{name}\N{NO-BREAK SPACE}{n}" for name, n in histogram.items())


def facts_table(facts: Mapping[str, Any]) -> str:
    """Facts by name, one a line, wrapped at 80 columns."""
    first = max(map(len, facts)) + 2
    return "\n".join(
        textwrap.fill(
            f"{name:{first}}{value}",
            _WIDTH,
            subsequent_indent=" " * first,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for name, value in facts.items()
    ).replace("\N{NO-BREAK SPACE}", " ")


def size_bytes(path: Path) -> int:
    """Size of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
