"""Small things that tests make: a folder of pictures, a network with little in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# The last one is in a script that many terminals and the plots' font do not know.
CLASSES = ("ant", "bee", "蝉")


def draw_pictures(folder: Path, counts: Mapping[str, int], *, side: int = 16) -> Path:
    """Writes PNGs `folder/class/0.png`, …: noise with a bright third, another for each class."""
    random = np.random.default_rng(sorted(counts.values()))
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = random.integers(0, 100, (side, side, 3), np.uint8)
            third = CLASSES.index(name) * side // 3
            pixels[third : third + side // 3] += 120
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def build_tiny(
    *, input_shape: tuple[int, ...], classes: int, stem: str, variant: str | None, dropout: float
) -> Any:
    """One convolution with what is around it in a ResNet, traced in no time."""
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Rescaling(1 / 127.5, offset=-1),
            layers.Conv2D(8, 3, use_bias=False, name="convolution"),
            layers.BatchNormalization(momentum=0.9),
            layers.Flatten(),
            layers.Dense(classes),
            layers.Activation("softmax", dtype="float32"),
        ]
    )
