"""Training images as torch's users read them: a `DataLoader` whose workers use Pillow."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from keras_resnet18.data.folder import walk
from keras_resnet18.machine import cpu_count
from keras_resnet18.preprocess import IMAGENET_MEAN, IMAGENET_STD


class Photos(torch.utils.data.Dataset):
    """Photos of a folder, cropped and mirrored at random, or their middles.

    Args:
        folder: The folder.
        size: Height and width of the result, pixels.
        areas: Smallest and largest fraction of the area that the random window has; None for the
            middle, 0.875 of the shorter side.
        normalized: Whether as float32, normalized as torchvision's references do; else uint8.
    """

    def __init__(
        self, folder: str, size: int, areas: tuple[float, float] | None, normalized: bool
    ) -> None:
        self.paths = [Path(folder) / name for name in walk(folder).images]
        self.size, self.areas, self.normalized = size, areas, normalized

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.paths[index]) as file:
            image = file.convert("RGB")
        box = random_window(*image.size, self.areas) if self.areas else middle(*image.size)
        image = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box)
        if self.areas and random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        if not self.normalized:
            return pixels.contiguous()
        mean, std = (torch.tensor(x).view(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
        return (pixels.to(torch.float32) / 255 - mean) / std


def random_window(width: int, height: int, areas: tuple[float, float]) -> tuple[int, int, int, int]:
    """A window as torchvision's `RandomResizedCrop` draws it: left, top, right, bottom."""
    for _ in range(10):
        area = width * height * random.uniform(*areas)
        aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return left, top, left + w, top + h
    return 0, 0, width, height


def middle(width: int, height: int) -> tuple[float, float, float, float]:
    """A square of 0.875 of the shorter side: left, top, right, bottom."""
    half = 0.875 * min(width, height) / 2
    return width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half


def torch_batches(
    folder: str, size: int, batch: int, areas: tuple[float, float], normalized: bool
) -> tuple[Iterator[Any], dict[str, Any]]:
    """Endless batches, a worker for each CPU, and what to say about them."""
    loader = torch.utils.data.DataLoader(
        Photos(folder, size, areas, normalized),
        batch,
        shuffle=True,
        drop_last=True,
        num_workers=cpu_count(),
        persistent_workers=True,
    )
    facts = {"torch": torch.__version__, "workers": cpu_count()}
    return itertools.chain.from_iterable(itertools.repeat(loader)), facts
