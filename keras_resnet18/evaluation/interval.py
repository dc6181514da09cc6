"""A part of a sample, such as an accuracy, and how well a sample of that size can know it."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import binomtest


def interval(hits: int, n: int) -> tuple[float, float]:
    """95 % confidence interval of a part of which hits in n were seen (Wilson 1927)."""
    found = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def in_words(part: float, interval: Sequence[float], n: int) -> str:
    """The part with its interval, for a person."""
    low, high = interval
    return f"{part:.2%} (95 % interval {low:.2%} to {high:.2%}, n = {n:,})"
