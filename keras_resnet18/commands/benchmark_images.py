"""The test images that benchmarked files are measured on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from keras_resnet18.data.pipeline import sample_batches
from keras_resnet18.data.sources import open_source
from keras_resnet18.errors import InputError
from keras_resnet18.evaluation.accuracy import broken_images_named
from keras_resnet18.formats import format_of
from keras_resnet18.machine import cpu_count
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.run import Run, open_model, run_of
from keras_resnet18.runtime.classifier import (
    open_classifier,
    open_images,
    preprocess_beside,
)
from keras_resnet18.runtime.worker import classify_apart

# Enough to see a lost point of accuracy, as when they are exported.
IMAGES = 1000


@dataclasses.dataclass(frozen=True)
class StoredImages:
    """Test images at the size that a file takes, stored for the processes that run it.

    Attributes:
        pixels: A .npy file, uint8 (n, height, width, 3).
        labels: Their classes, (n,).
    """

    pixels: Path
    labels: npt.NDArray[np.int64]

    def accuracy(self, file: Path) -> float:
        """Top-1 accuracy of a model file, 0 to 1."""
        predicted = classify_apart(file, cpu_count(), self.pixels)
        return float((np.array(predicted) == self.labels).mean())


# How a classifier takes images, and which: labels, preprocessing, the run whose images they are
_Kind = tuple[tuple[str, ...], Preprocess, Run | None]


def open_test_images(
    files: Sequence[Path], data: str | None, folder: Path, say: Callable[[str], None]
) -> list[StoredImages | None]:
    """The test images of each file; those of one run are decoded once.

    Args:
        files: Model files.
        data: The source of the images; by default each run's own.
        folder: Where the pixels are stored.
        say: Receives a line for each run whose images cannot be opened, and why.

    Returns:
        In the order of the files; None for a file whose run's images cannot be opened, and without
        `data` for a file that is in no run.

    Raises:
        InputError: If `data` cannot be opened, is not of a file's classes, or holds a broken image.
    """
    kinds = [_kind(file, data) for file in files]
    stored = {
        kind: _store(kind, data, folder / f"{number}.npy", say)
        for number, kind in enumerate(dict.fromkeys(kinds))
        if kind is not None
    }
    return [None if kind is None else stored[kind] for kind in kinds]


def _kind(file: Path, data: str | None) -> _Kind | None:
    """What images to open for a file; None if that is not known."""
    if (run := run_of(file)) is not None:
        return run.labels, run.preprocess, run if data is None else None
    if data is None:
        return None
    if format_of(file) == "keras":
        return (*_of_model(file, data), None)
    classifier = open_classifier(file)
    return classifier.labels, classifier.preprocess, None


def _store(
    kind: _Kind, data: str | None, file: Path, say: Callable[[str], None]
) -> StoredImages | None:
    labels, preprocess, run = kind
    try:
        source = open_images(labels, run, data)
    except InputError as error:
        if data is not None:
            raise
        say(f"top-1 is not measured: {error}")
        return None
    batches = sample_batches(source.splits["test"], preprocess.resize_and_crop, limit=IMAGES)
    with broken_images_named():
        pixels, targets = zip(*batches.as_numpy_iterator(), strict=True)
    np.save(file, np.concatenate(pixels))
    return StoredImages(file, np.concatenate(targets))


def _of_model(file: Path, data: str) -> tuple[tuple[str, ...], Preprocess]:
    """Labels and preprocessing of a .keras file that is in no run.

    It has no names for its classes: they are the images', in their order, if they are as many.
    """
    model = open_model(file)
    labels = open_source(data).classes
    shapes = model.input_shape, model.output_shape
    try:
        (_, *size, channels), (_, classes) = shapes
        fits = (len(size), channels, classes) == (2, 3, len(labels))
    except (TypeError, ValueError):  # of several inputs or outputs, or of other ranks
        fits = False
    if not fits:
        raise InputError(
            f"top-1 on {data} needs a model of (batch, height, width, 3) pixels in "
            f"{len(labels)} classes. Received: {file}, {shapes[0]} to {shapes[1]}: give other "
            "images, or measure it without --data"
        )
    return labels, preprocess_beside(file, tuple(size))
