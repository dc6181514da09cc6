"""The tables that are printed: at most 80 columns wide, folded and never cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

_MOST_CLASSES = 40

if TYPE_CHECKING:
    from keras_resnet18.checking.check import Check
    from keras_resnet18.exporters.compare import ExportReport


def print_exports(console: Console, reports: Sequence[ExportReport]) -> None:
    """A row for each exported file, and where the files are."""
    from keras_resnet18.classify.table import percent, plain_table

    if not reports:
        return
    headings = ("format", "MB", "ms an\nimage", "images", "same\nclass")
    table = plain_table(*headings, "largest\ndifference", "top-1", "model's\ntop-1")
    for report in reports:
        found = report.comparison
        table.add_row(
            report.format,
            _three_digits(report.size_bytes / 1e6),
            _three_digits(report.latency_ms),
            f"{found.n:,}",
            percent(found.agreement),
            f"{found.max_difference:.1e}",
            percent(found.accuracy),
            percent(found.model_accuracy),
        )
    console.print(table, soft_wrap=False)
    for report in reports:
        if report.comparison.warning is not None:
            console.print(f"{report.format}: {report.comparison.warning}")
    for report in reports:
        console.print(report.path)


def print_check(console: Console, found: Check) -> None:
    """Images of each class in each split, and the findings; long lists are cut."""
    from keras_resnet18.classify.table import plain_table

    for note in found.notes:
        console.print(note)
    if found.counts:
        table = plain_table("class", *found.counts)
        classes = list(next(iter(found.counts.values())))
        for name in classes[:_MOST_CLASSES]:
            table.add_row(name, *(f"{counts[name]:,}" for counts in found.counts.values()))
        sums = (f"{sum(counts.values()):,}" for counts in found.counts.values())
        table.add_section()
        table.add_row(f"{len(classes):,} classes", *sums)
        console.print(table, soft_wrap=False)
        if len(classes) > _MOST_CLASSES:
            console.print(f"the first {_MOST_CLASSES} classes of {len(classes):,}")
    for finding in found.findings:
        console.print(f"{'spoils: ' if finding.spoils else ''}{finding.text}")
    end = "something would spoil a training" if found.spoiled else "nothing would spoil a training"
    console.print(f"{found.n:,} images decoded: {end}")


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 1 else f"{value:.3f}"
