"""Wilson score interval of a proportion."""

from __future__ import annotations

import math
from collections.abc import Sequence

_Z = 1.959963984540054  # the normal distribution's 97.5 % quantile


def interval(hits: int, n: int) -> tuple[float, float]:
    """95 % confidence interval of the proportion hits / n (Wilson 1927)."""
    middle = (hits + _Z**2 / 2) / (n + _Z**2)
    half = _Z / (n + _Z**2) * math.sqrt(hits * (n - hits) / n + _Z**2 / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def in_words(fraction: float, interval: Sequence[float], n: int) -> str:
    """Fraction, its interval and n as text."""
    low, high = interval
    return f"{fraction:.2%} (95 % interval {low:.2%} to {high:.2%}, n = {n:,})"
