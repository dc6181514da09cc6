"""The table of the classes that is printed: 80 columns on no terminal, folded and never cut."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from keras_resnet18.evaluation.per_class import ClassFigures

_MOST_ROWS = 20


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
