"""Small real images, written by the tests themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """`make_folder("train/cat/1.png", …)` writes images of greys 0, 1, … below a folder."""

    def make(*paths: str) -> Path:
        for grey, path in enumerate(paths):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((12, 10, 3), grey % 256, np.uint8)).save(tmp_path / path)
        return tmp_path

    return make
