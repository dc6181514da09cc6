"""What the programs share: trainings that go on, minutes, models told apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def trained(
    source: Any, recipe: str | None, out: Path, settings: Sequence[str], weights: str | None = None
) -> Any:
    """The run in `out`: finished already, gone on with, or trained from its first step."""
    import keras_resnet18 as kr

    if (out / "recipe.toml").is_file():
        return kr.train(source, resume=out)
    return kr.train(source, recipe, out, settings=settings, weights=weights)


def minutes_by_epoch(run: Any) -> list[float]:
    """Minutes of training until the end of each epoch, without validation.

    They begin with the first step, which is compiled; a linear probe's features are not in them.
    """
    batch = min(run.recipe.batch_size, run.environment["images"]["train"]["n"])
    minutes = [0.0]
    for row in run.history:
        minutes.append(minutes[-1] + row["steps"] * batch / row["images_per_second"] / 60)
    return minutes[1:]


def digest(run: Any) -> str:
    """Tells a run's model from another that was trained into the same folder."""
    return hashlib.sha256(run.model_file.read_bytes()).hexdigest()[:16]
