"""Tensors under the names of the torch libraries, and all weights of a model at once."""

from __future__ import annotations

import re
from collections.abc import Mapping

import keras
import numpy as np

Arrays = dict[str, np.ndarray]


def transformers_name(name: str) -> str:
    """torchvision's name of a tensor → transformers'. Written apart from the library's table."""
    rules = (
        (r"^(conv|bn)1\.", r"resnet.embedder.embedder.\1."),
        (r"^fc\.", "classifier.1."),
        (r"^layer(\d)\.", lambda x: f"resnet.encoder.stages.{int(x[1]) - 1}.layers."),
        (r"\.downsample\.0\.", ".shortcut.convolution."),
        (r"\.downsample\.1\.", ".shortcut.normalization."),
        (r"\.(conv|bn)1\.", r".layer.0.\1."),
        (r"\.(conv|bn)2\.", r".layer.1.\1."),
        (r"\.conv\.", ".convolution."),
        (r"\.bn\.", ".normalization."),
    )
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def with_counters(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """The tensors and torch's step counters, as every torch library writes them."""
    bns = [n.removesuffix("running_var") for n in arrays if n.endswith("running_var")]
    return {**arrays, **{f"{bn}num_batches_tracked": np.array(3, np.int64) for bn in bns}}


def in_layout(arrays: Mapping[str, np.ndarray], layout: str) -> Arrays:
    if layout != "transformers":
        return dict(arrays)
    return {transformers_name(name): array for name, array in arrays.items()}


def values(model: keras.Model) -> list[np.ndarray]:
    """Copies of all weights."""
    return [array.copy() for array in model.get_weights()]


def same(some: list[np.ndarray], others: list[np.ndarray]) -> bool:
    """Whether they are the same bits."""
    return all(a.tobytes() == b.tobytes() for a, b in zip(some, others, strict=True))
