"""The score threshold as text, and what is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from keras_resnet18.errors import InputError
from keras_resnet18.spec import check_threshold, threshold_from_json, threshold_to_json


@pytest.mark.parametrize("threshold", [0, 0.4123, 1])
def test_it_comes_back_from_its_text(threshold):
    assert threshold_from_json(threshold_to_json(threshold), Path("x")) == threshold


@pytest.mark.parametrize("text", ["", "[]", "{}", "0.5", '{"score_threshold": "0.5"}', "NaN"])
def test_another_text_is_refused_with_its_place(text):
    with pytest.raises(InputError, match=r"export again\. Received: a\.tflite"):
        threshold_from_json(text, Path("a.tflite"))


@pytest.mark.parametrize("threshold", [-0.1, 1.01, float("nan"), "0.5", True])
def test_what_is_not_a_probability_is_refused(threshold):
    with pytest.raises(InputError, match="from 0 to 1"):
        check_threshold(threshold)
