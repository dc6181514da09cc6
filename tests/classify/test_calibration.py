"""Reliability and calibration error by hand; temperature and score threshold on made images."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import softmax

from keras_resnet18.classify.calibration import Reliability, calibrate, reliability


def drawn(n: int, classes: int, spread: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels that come as often as their softmax says."""
    random = np.random.default_rng(0)
    logits = random.normal(0, spread, (n, classes)).astype(np.float32)
    labels = [random.choice(classes, p=p / p.sum()) for p in softmax(logits, 1).astype(float)]
    return logits, np.array(labels)


def test_the_calibration_error_is_the_mean_gap_over_the_images():
    probabilities = np.array([0.95, 0.95, 0.95, 0.55, 1.0], np.float32)
    right = np.array([True, True, False, False, True])
    found = reliability(probabilities, right)
    assert found.n.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 4]
    assert found.accuracy[9] == 0.75 and found.probability[9] == pytest.approx(0.9625)
    assert np.isnan(found.accuracy[0])
    assert found.ece == pytest.approx((4 * (0.9625 - 0.75) + 0.55) / 5)
    again = Reliability.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert again.to_dict() == found.to_dict()


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_the_temperature_undoes_what_was_done_to_calibrated_logits(factor):
    logits, labels = drawn(4000, 5)
    found = calibrate(factor * logits, labels)
    assert found.temperature == pytest.approx(factor, rel=0.1)
    assert found.n == 4000
    assert found.after.ece < 0.03
    if factor != 1:
        assert found.before.ece > 0.1


def test_a_temperature_that_ends_the_range_is_said():
    logits, labels = drawn(400, 5)
    found = calibrate(1000 * logits, labels)
    assert found.temperature == pytest.approx(20, rel=0.01)
    assert "end of the searched range" in found.in_words()[-1]
    assert "end of the searched range" not in " ".join(calibrate(logits, labels).in_words())


def test_where_all_images_are_right_the_temperature_does_not_ask_for_certainty():
    logits = 4 * np.eye(3, dtype=np.float32)[np.arange(150) % 3]
    found = calibrate(logits, np.arange(150) % 3)
    highest = softmax(logits / found.temperature, 1).max()
    assert 0.98 < highest < 1 - 1 / 200  # Laplace's rule of succession gives 151 / 152


def test_fewer_than_100_images_change_nothing_and_it_is_said():
    logits, labels = drawn(99, 4)
    found = calibrate(3 * logits, labels)
    assert (found.temperature, found.threshold) == (1.0, None)
    assert found.before == found.after
    (line,) = found.in_words()
    assert "99 validation images are fewer than 100" in line
    assert calibrate(*drawn(100, 4)).threshold is not None


@pytest.mark.parametrize("n", [100, 101, 119, 1000])
@pytest.mark.parametrize(
    "scale", [0.0, 1e-6, 1.0, 12.0, 60.0], ids=["all alike", "nearly", "spread", "easy", "certain"]
)
def test_at_most_a_twentieth_is_below_the_threshold_whatever_the_set(n, scale):
    random = np.random.default_rng(n)
    logits = (random.normal(size=(n, 4)) * scale).astype(np.float32)
    labels = np.where(random.random(n) < 0.9, logits.argmax(1), random.integers(0, 4, n))
    found = calibrate(logits, labels)
    highest = softmax(logits / np.float32(found.temperature), 1).max(1).astype(np.float32)
    assert 0 <= found.threshold <= np.percentile(highest.astype(float), 5) + 1e-6
    assert (highest < found.threshold).mean() <= 0.05
    if scale == 1:
        assert (highest < found.threshold).mean() >= 0.04
        assert "below a probability of" in found.in_words()[1]
