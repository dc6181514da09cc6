"""What is plausibly given in the place of a path costs the caller one line, not a TypeError."""

from __future__ import annotations

import numpy as np
import pytest

import keras_resnet18 as kr
from keras_resnet18.errors import InputError

URL = "https://example.org/cats/a.jpg"
PIXELS = np.zeros((1, 32, 32, 3), np.uint8)


class Functional:
    """Like a Keras model: no path."""


@pytest.mark.parametrize(
    "verb", [kr.load_run, kr.export, kr.report, kr.evaluate, kr.open_classifier]
)
@pytest.mark.parametrize("given", [Functional(), PIXELS, 3, None], ids=lambda x: type(x).__name__)
def test_a_model_is_no_run(verb, given):
    with pytest.raises(InputError, match=f"of type {type(given).__name__}"):
        verb(given)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: kr.export(Functional()), "exported by export_tflite"),
        (lambda run: kr.predict(run, PIXELS), r"\(model\)\.predict takes pixels"),
        (lambda run: kr.predict(run, 3), r"\(model\)\.predict takes pixels"),
        (lambda run: kr.predict(run, URL), f"URLs are not read.* Received: {URL}$"),
        (lambda run: kr.check(URL), f"URLs are not read.* Received: {URL}$"),
        (lambda run: kr.load_weights(run.model, URL), f"URLs are not read.* Received: {URL}$"),
        (lambda run: kr.load_recipe(3), "expected a Recipe"),
        (lambda run: kr.training_twin(3), "Received: int, built=False"),
    ],
)
def test_the_message_says_what_is_taken(run, call, message):
    with pytest.raises(InputError, match=message):
        call(run)
