"""Every image of a split counts once, and the figures are the right ones."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from keras_resnet18.data.sources import from_arrays, open_source
from keras_resnet18.errors import InputError
from keras_resnet18.evaluation.accuracy import measure
from keras_resnet18.preprocess import Preprocess

AS_STORED = Preprocess(size=(8, 8), crop_ratio=1.0)


@pytest.fixture(scope="module")
def numbered():
    """130 test images, so that the last batch is of two; image i has the grey value i."""
    images = np.broadcast_to(np.arange(130, dtype=np.uint8)[:, None, None], (130, 8, 8))
    labels = np.arange(130) % 2
    test = (images, labels)
    return from_arrays(images, labels, validation=test, test=test).splits["test"]


class Classifier:
    """Says with probability 0.8 what the first `hits` images are, and the opposite of others."""

    def __init__(self, hits):
        self.hits = hits
        self.seen = []

    def __call__(self, pixels):
        numbers = pixels[:, 0, 0, 0].astype(int)
        self.seen += numbers.tolist()
        said = np.where(numbers < self.hits, numbers % 2, 1 - numbers % 2)
        return np.where(said[:, None] == [0, 1], 0.8, 0.2).astype(np.float32)


def test_every_image_is_seen_once_in_order_the_last_batch_too(numbered):
    predict = Classifier(130)
    result = measure(predict, numbered, AS_STORED)
    assert predict.seen == list(range(130))
    assert result.n == 130
    assert result.labels.tolist() == [i % 2 for i in range(130)]


def test_accuracy_and_loss_are_means_over_images(numbered):
    result = measure(Classifier(100), numbered, AS_STORED)
    assert result.accuracy == 100 / 130
    assert (result.predictions == result.labels).sum() == 100
    loss = -(100 * math.log(0.8) + 30 * math.log(0.2)) / 130
    assert result.loss == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("hits", [0, 100, 130])
def test_the_interval_is_wilsons(numbered, hits):
    n, z = 130, 1.959964
    part = hits / n
    middle = (part + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(part * (1 - part) / n + z**2 / (4 * n**2))
    low, high = measure(Classifier(hits), numbered, AS_STORED).interval
    assert low == pytest.approx(middle - half, abs=1e-6)
    assert high == pytest.approx(middle + half, abs=1e-6)


def test_a_certain_mistake_has_a_finite_loss(numbered):
    wrong = measure(lambda pixels: np.eye(2)[1 - pixels[:, 0, 0, 0] % 2], numbered, AS_STORED)
    assert wrong.accuracy == 0
    assert wrong.loss == pytest.approx(-math.log(1e-7), rel=1e-4)


def test_figures_are_ready_for_json_and_for_people(numbered):
    result = measure(Classifier(65), numbered, AS_STORED)
    assert json.loads(json.dumps(result.to_dict())) == {
        "accuracy": 0.5,
        "interval": list(result.interval),
        "loss": pytest.approx(result.loss),
        "n": 130,
    }
    assert str(result).startswith("50.00% (95 % interval 41.")
    assert "n = 130" in str(result)


def test_a_broken_image_is_named(broken_images):
    split = open_source(broken_images).splits["test"]
    with pytest.raises(InputError, match=r"whole JPEG.*Received: .*test/bee/0\.png"):
        measure(lambda pixels: np.zeros((len(pixels), 3)), split, AS_STORED)
