"""`predict`: the most probable classes of image files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from keras_resnet18.errors import InputError, within
from keras_resnet18.run import Run
from keras_resnet18.runtime.classifier import image_files, open_classifier


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a classifier says of one file.

    Attributes:
        path: The file.
        top: The most probable classes and their probabilities, 0 to 1, the highest first; empty if
            the file could not be read.
        error: Why it could not be read, in one line; else None.
        classes: How many classes the classifier knows.
    """

    path: Path
    top: tuple[tuple[str, float], ...]
    error: str | None
    classes: int


def predict(
    model: Run | str | os.PathLike[str],
    images: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    top: int = 3,
) -> Iterator[Prediction]:
    """Names the most probable classes of images.

    Args:
        model: A run, or the path of a run's folder, a .tflite file, an .onnx file or a SavedModel.
        images: Image files, and folders for all images in them; one or several.
        top: How many classes to name for each; all of them, if there are fewer.

    Returns:
        A `Prediction` for each file, in the order given. A file that cannot be read has an `error`.

    Raises:
        InputError: If the model cannot be opened, or a folder holds no images.
    """
    within("top", top, isinstance(top, int) and top >= 1, "1 or more")
    several = [images] if isinstance(images, str | os.PathLike) else images
    classifier, files = open_classifier(model), image_files(several)
    classes = len(classifier.labels)

    def one(path: Path) -> Prediction:
        try:
            return Prediction(path, tuple(classifier.top(path, top)), None, classes)
        except InputError as error:
            return Prediction(path, (), str(error), classes)

    return map(one, files)
