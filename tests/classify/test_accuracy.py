"""Every image of a split counts once, and the figures are the right ones."""

from __future__ import annotations

import dataclasses
import json
import math
import os

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import top_k_accuracy_score

from keras_resnet18.classify.accuracy import is_predictions, measure, to_rows, write_predictions
from keras_resnet18.data.sources import from_arrays
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.spec import ClassifierSpec

CLASSES = ("even", "odd")
AS_STORED = Preprocess(size=(8, 8), crop_ratio=1.0)
SPEC = ClassifierSpec(CLASSES, AS_STORED)


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
    result = measure(predict, numbered, SPEC)
    assert predict.seen == list(range(130))
    assert result.n == 130
    assert result.labels.tolist() == [i % 2 for i in range(130)]


def test_accuracy_and_loss_are_means_over_images(numbered):
    result = measure(Classifier(100), numbered, SPEC)
    assert result.accuracy == 100 / 130
    assert (result.predictions == result.labels).sum() == 100
    loss = -(100 * math.log(0.8) + 30 * math.log(0.2)) / 130
    assert result.loss == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("hits", [0, 100, 130])
def test_the_interval_is_wilsons(numbered, hits):
    expected = binomtest(hits, 130).proportion_ci(0.95, method="wilson")
    found = measure(Classifier(hits), numbered, SPEC).interval
    assert found == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_certain_mistake_has_a_finite_loss(numbered):
    wrong = measure(lambda pixels: np.eye(2)[1 - pixels[:, 0, 0, 0] % 2], numbered, SPEC)
    assert wrong.accuracy == 0
    assert wrong.loss == pytest.approx(-math.log(1e-7), rel=1e-4)


def test_figures_are_ready_for_json_and_for_people(numbered):
    result = measure(Classifier(65), numbered, SPEC)
    assert json.loads(json.dumps(result.to_dict())) == {
        "accuracy": 0.5,
        "interval": list(result.interval),
        "loss": pytest.approx(result.loss),
        "n": 130,
        "top5": None,
        "balanced_accuracy": 0.5,
        "majority_class": "even",
        "majority_accuracy": 0.5,
        "never_tested": [],
        "ece": pytest.approx(0.3),
        "threshold": None,
        "coverage": 1.0,
        "accuracy_answered": 0.5,
        "folds": None,
        "per_class": to_rows(result.per_class),
    }
    assert str(result).startswith("50.00% (95 % interval 41.")
    assert "n = 130" in str(result)


@pytest.mark.parametrize(
    ("hits", "said"), [(65, ["not clearly higher"]), (20, ["lower"]), (130, [])]
)
def test_an_accuracy_not_clearly_above_the_majority_class_is_said(numbered, hits, said):
    notes = measure(Classifier(hits), numbered, SPEC).notes()
    line = "always predicting 'even' gives 50.0%: the accuracy is "
    assert [note.removeprefix(line) for note in notes if note.startswith(line)] == said


def test_top_5_is_sklearns_from_six_classes_on(numbered):
    random = np.random.default_rng(0).dirichlet(np.ones(6), 130).astype(np.float32)
    result = measure(
        lambda pixels: random[pixels[:, 0, 0, 0]],
        numbered,
        ClassifierSpec(tuple("abcdef"), AS_STORED),
    )
    expected = top_k_accuracy_score(result.labels, random, k=5, labels=range(6))
    assert result.top5 == expected
    assert result.notes()[0].startswith(f"top-5 accuracy {expected:.2%}, balanced accuracy ")
    assert result.never_tested == ("c", "d", "e", "f")
    assert result.notes()[-1] == "classes without an image: 'c', 'd', 'e' and 1 more"


def test_predictions_are_a_row_an_image_with_names_that_are_not_utf8(numbered, tmp_path):
    name = os.fsdecode(b"caf\xe9/0.png")
    result = dataclasses.replace(
        measure(Classifier(1), numbered, ClassifierSpec(("a,b", "蝉"), AS_STORED)),
        names=(name, *map(str, range(1, 130))),
    )
    write_predictions(result, tmp_path / "predictions.csv")
    lines = (tmp_path / "predictions.csv").read_bytes().splitlines()
    assert lines[:3] == [
        b"path,true class,predicted class,probability",
        b'caf\xe9/0.png,"a,b","a,b",0.800000',
        '1,蝉,"a,b",0.800000'.encode(),
    ]
    assert len(lines) == 131
    assert is_predictions(tmp_path / "predictions.csv")
