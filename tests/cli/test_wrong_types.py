"""What is plausibly given in the place of a path costs the caller one line, not a TypeError."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import keras_resnet18 as kr
from keras_resnet18.errors import InputError

PIXELS = np.zeros((1, 32, 32, 3), np.uint8)


class Functional:
    """Like a Keras model: no path."""


@pytest.mark.parametrize(
    "verb", [kr.load_run, kr.export, kr.report, kr.evaluate, kr.open_classifier]
)
@pytest.mark.parametrize("given", [Functional(), PIXELS, 3, None], ids=lambda x: type(x).__name__)
def test_a_model_is_no_run(verb: Callable[[Any], Any], given: Any) -> None:
    with pytest.raises(InputError, match=f"of type {type(given).__name__}"):
        verb(given)


def test_what_exports_a_model_is_named() -> None:
    with pytest.raises(InputError, match="exported by export_tflite"):
        kr.export(Functional())


@pytest.mark.parametrize("given", [PIXELS, [PIXELS], 3], ids=["array", "list", "int"])
def test_pixels_are_no_paths_of_images(given: Any, run: kr.Run) -> None:
    with pytest.raises(InputError, match=r"open_classifier\(model\)\.predict takes pixels"):
        kr.predict(run, given)


def test_a_number_is_no_recipe_and_no_model() -> None:
    with pytest.raises(InputError, match="expected a Recipe"):
        kr.load_recipe(3)
    with pytest.raises(InputError, match="Received: int, built=False"):
        kr.training_twin(3)
