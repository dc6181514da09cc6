"""ClassifierSpec: one value, one file, one comparison."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from keras_resnet18.errors import InputError
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.spec import ClassifierSpec

SPEC = ClassifierSpec(("ant", "größe", "蝉"), Preprocess(size=(16, 24), fit="pad"), 0.25)


@pytest.mark.parametrize(
    "spec", [SPEC, ClassifierSpec(("a", "b"), None), ClassifierSpec(["a"], Preprocess(), 1)]
)
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "with Windows' mark"])
def test_a_file_gives_back_what_was_written(spec, tmp_path, mark):
    (tmp_path / "classifier.json").write_text(mark + spec.to_json(), encoding="utf-8")
    assert ClassifierSpec.read(tmp_path / "classifier.json") == spec


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"labels": "ant"}, "labels must be a list"),
        ({"labels": ["ant", "two\nlines"]}, "non-empty, one-line strings"),
        ({"labels": ["ant", 3]}, "non-empty, one-line strings"),
        ({"labels": ["ant", "Not  Sure"]}, "Received: 'Not  Sure'"),
        ({"threshold": 1.5}, "a probability, from 0 to 1"),
        ({"threshold": True}, "a probability, from 0 to 1"),
        ({"preprocess": {"scale": 3}}, "unexpected keyword argument .scale."),
        ({"preprocess": []}, "must be a mapping, not list"),
        ({"score": 3}, "the keys must be labels, preprocess and threshold"),
    ],
)
def test_what_is_not_a_specification_is_refused_in_one_line(tmp_path, change, reason):
    text = json.dumps({**json.loads(SPEC.to_json()), **change})
    with pytest.raises(InputError, match=reason) as error:
        ClassifierSpec.from_json(text, tmp_path / "classifier.json")
    assert "classifier.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff\xfe", None])
def test_a_file_that_is_none_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "classifier.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"Received: .*classifier\.json \(") as error:
        ClassifierSpec.read(path)
    assert "\n" not in str(error.value)


def test_it_must_be_of_the_model():
    SPEC.check_model((16, 24, 3), 3, "here")
    SPEC.check_model((None, None, 3), 3, "here")
    for shape, classes, message in (
        ((16, 24, 3), 4, "labels must be 4 names.*Received: 3, in here"),
        ((24, 16, 3), 3, "takes, 24×16×3. Received: 16×24×3"),
        ((16, 24, 1), 3, "takes, 16×24×1"),
    ):
        with pytest.raises(InputError, match=message):
            SPEC.check_model(shape, classes, "here")


def test_the_first_difference_is_told():
    def told(**change):
        return SPEC.difference(dataclasses.replace(SPEC, **change))

    assert told() is None
    assert told(labels=("ant", "grösse", "蝉")) == "label 1 is 'grösse', not 'größe'"
    assert told(labels=("ant",)) == "1 labels, not 3"
    assert "fit='crop'" in told(preprocess=Preprocess(size=(16, 24)))
    assert told(threshold=None) == "the score threshold is None, not 0.25"


def test_an_answer_at_the_threshold_is_sure():
    assert SPEC.sure(0.25) and not SPEC.sure(0.2499)
    assert SPEC.sure(np.array([0.1, 0.25, 1])).tolist() == [False, True, True]
    assert dataclasses.replace(SPEC, threshold=None).sure(0.0)
