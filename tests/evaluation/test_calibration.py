"""Reliability and calibration error, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from keras_resnet18.evaluation.calibration import reliability


def test_the_calibration_error_is_the_mean_gap_over_the_images():
    probabilities = np.array([0.95, 0.95, 0.95, 0.55, 1.0], np.float32)
    right = np.array([True, True, False, False, True])
    found = reliability(probabilities, right)
    assert found.n.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 4]
    assert found.accuracy[9] == 0.75 and found.probability[9] == pytest.approx(0.9625)
    assert np.isnan(found.accuracy[0])
    assert found.ece == pytest.approx((4 * (0.9625 - 0.75) + 0.55) / 5)
