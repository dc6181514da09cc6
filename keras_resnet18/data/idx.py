"""MNIST's IDX files: images and labels as arrays of bytes, packed by gzip or not."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from keras_resnet18.errors import InputError

_Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]


def has_idx(folder: Path) -> bool:
    """Whether a folder holds the training images of MNIST or of a dataset like it."""
    return _find(folder, "train", "images") is not None


def read_idx_folder(folder: Path, name: str) -> tuple[_Arrays, _Arrays | None]:
    """Reads images and labels for training, and for the test if there are any.

    Args:
        folder: Holds `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`, with or without
            `.gz`, and perhaps the same with `t10k`.
        name: What an error should call the folder.

    Raises:
        InputError: If a file is missing or damaged.
    """

    def read(prefix: str) -> _Arrays:
        found = {content: _find(folder, prefix, content) for content in ("images", "labels")}
        if lacking := [content for content, path in found.items() if path is None]:
            raise InputError(
                f"IDX images need labels and the other way round. Received: {name!r} without "
                f"{prefix}-{lacking[0]}-…-ubyte. Add the file."
            )
        images, labels = (path for path in found.values() if path)
        return _read(images, rank=3), _read(labels, rank=1)

    has_test = any(_find(folder, "t10k", content) for content in ("images", "labels"))
    return read("train"), read("t10k") if has_test else None


def _find(folder: Path, prefix: str, content: str) -> Path | None:
    rank = {"images": 3, "labels": 1}[content]
    for dot in "-.":  # LeCun's files have a dash, many unpacked copies a dot
        for suffix in ("", ".gz"):
            path = folder / f"{prefix}-{content}{dot}idx{rank}-ubyte{suffix}"
            if path.is_file():
                return path
    return None


def _read(path: Path, rank: int) -> npt.NDArray[np.uint8]:
    """Reads an IDX file of bytes: magic 0x0008 and the rank, big-endian uint32 sizes, values."""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"IDX files must be readable. Received: {str(path)!r} ({error}). Get it again."
        ) from error
    begin = 4 + 4 * rank
    shape = tuple(int.from_bytes(data[i : i + 4]) for i in range(4, begin, 4))
    if data[:4] != bytes((0, 0, 8, rank)) or len(data) != begin + math.prod(shape):
        raise InputError(
            f"an IDX file must hold 0000080{rank}, its sizes, and as many bytes as they say. "
            f"Received: {str(path)!r} with {data[:4].hex()}, {shape} and "
            f"{len(data):,} bytes in all. Get it again."
        )
    return np.frombuffer(data, np.uint8, offset=begin).reshape(shape)
