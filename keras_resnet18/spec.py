"""The score threshold: an image whose highest probability is below it is "none of these"."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from keras_resnet18.errors import InputError, within
from keras_resnet18.files import to_json

# What is said in place of a class
NONE_OF_THESE = "none of these"

# The name of the file beside a model, or packed into it, that holds its threshold
THRESHOLD_FILE = "threshold.json"

_KEY = "score_threshold"


def check_threshold(threshold: Any, name: str = _KEY) -> None:
    """Raises InputError unless it is a probability, or None for no threshold."""
    number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    fits = threshold is None or (number and 0 <= threshold <= 1)
    within(name, threshold, fits, "a probability, from 0 to 1")


def threshold_to_json(threshold: float) -> str:
    """Text of `threshold.json`."""
    return to_json({_KEY: threshold})


def threshold_from_json(text: str, path: Path) -> float:
    """Reads what `threshold_to_json` wrote.

    Args:
        text: The text.
        path: Where it was, for the message.

    Raises:
        InputError: If it is something else.
    """
    try:
        threshold = json.loads(text)[_KEY]
        check_threshold(threshold)
        return float(threshold)
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f'a score threshold is read from JSON such as {{"{_KEY}": 0.5}}: export again. '
            f"Received: {path} with {text[:80]!r}"
        ) from None
