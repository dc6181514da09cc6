"""Ranges of int8 tensors are chosen from histograms as the program's table names them."""

from __future__ import annotations

import calibration
import numpy as np
import pytest

VALUES = np.append(abs(np.random.default_rng(0).standard_normal(100_000)), 40.0)


@pytest.fixture
def histogram():
    return np.histogram(VALUES, calibration.BINS, (0, 40))


@pytest.mark.parametrize("percent", [99.9, 99.99])
def test_a_percentile_cuts_off_the_rarest_values(histogram, percent):
    low, high = calibration.percentile(percent)(*histogram)
    assert low == 0 and high == pytest.approx(np.percentile(VALUES, percent), abs=2 * 40 / 4096)


def test_least_squares_beats_both_a_narrower_and_a_wider_range(histogram):
    def error(high):
        step = high / 255
        return np.square(np.rint(VALUES.clip(0, high) / step) * step - VALUES).sum()

    low, high = calibration.least_squares(*histogram)
    assert low == 0 and 0.2 * 40 <= high < 40
    assert error(high) <= min(error(high - 4), error(high + 4))
