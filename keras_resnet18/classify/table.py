"""Tables for a terminal of 80 columns: cells are folded, never cut."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from keras_resnet18.classify.accuracy import ClassFigures

_WIDTH = 80
_MOST_CLASSES, _WORST = 10, 5


def plain_table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """Build a table of ASCII lines. Print it with `soft_wrap=False`, so that its cells fold."""
    table = Table(box=box.ASCII2, show_edge=False, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def table_text(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Format a table as text of at most 80 columns."""
    console = Console(width=_WIDTH, markup=False, emoji=False, color_system=None)
    with console.capture() as printed:
        console.print(plain_table(headings, rows))
    return printed.get().rstrip("\n")


def facts_table(facts: Mapping[str, Any]) -> str:
    """Format facts, one per line, wrapped at 80 columns; a long path stays in one piece."""
    first = max(map(len, facts)) + 2
    wrapper = textwrap.TextWrapper(
        _WIDTH, subsequent_indent=" " * first, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(wrapper.fill(f"{name:{first}}{value}") for name, value in facts.items())


def counts_text(counts: Mapping[str, int]) -> str:
    """Format counts, such as those of operators: "ADD×8, CONV_2D×20"."""
    return ", ".join(f"{name}×{n}" for name, n in counts.items())


def percent(value: float | None, digits: int = 2) -> str:
    """Format a fraction; None is `-`."""
    return "-" if value is None else f"{value:.{digits}%}"


def range_text(interval: Sequence[float] | None) -> str:
    """Format an interval of fractions; None is `-`."""
    return "-" if interval is None else "{:.1%} to {:.1%}".format(*interval)


def print_classes(console: Console, figures: Sequence[ClassFigures], file: str) -> None:
    """Print a row for each class or, of more than ten, the five worst; `file` has all of them."""
    shown = figures
    if len(figures) > _MOST_CLASSES:
        tested = (one for one in figures if one.f1 is not None)
        shown = sorted(tested, key=lambda one: one.f1 or 0.0)[:_WORST]
    headings = ("class", "images", "recall", "95 % interval", "precision", "F1")
    rows = (
        (
            one.name,
            f"{one.n:,}",
            percent(one.recall, 1),
            range_text(one.recall_interval),
            percent(one.precision, 1),
            percent(one.f1, 1),
        )
        for one in shown
    )
    console.print(plain_table(headings, rows), soft_wrap=False)
    if shown is not figures:
        console.print(
            f"the {_WORST} of {len(figures):,} classes with the lowest F1; all are in {file}"
        )
