"""Wilson score interval of a proportion."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import binomtest


def interval(hits: int, n: int) -> tuple[float, float]:
    """95 % confidence interval of the proportion hits / n (Wilson 1927)."""
    found = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def in_words(fraction: float, interval: Sequence[float], n: int) -> str:
    """Fraction, its interval and n as text."""
    low, high = interval
    return f"{fraction:.2%} (95 % interval {low:.2%} to {high:.2%}, n = {n:,})"
