"""`predict`: names the most probable classes of image files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console

from keras_resnet18.classify.classifier import Answer, Classifier, image_files, open_classifier
from keras_resnet18.data.progress import watched
from keras_resnet18.errors import InputError, within
from keras_resnet18.machine import cpu_count
from keras_resnet18.run import Run
from keras_resnet18.spec import check_threshold

_BATCH = 16


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Prediction for one file.

    Attributes:
        path: Path of the file.
        top: Most probable classes with their probabilities, 0 to 1, highest first; empty if the
            file cannot be read.
        error: Reason why the file cannot be read, in one line, or None.
        classes: Number of classes of the classifier.
        not_sure: Whether the highest probability is below the score threshold; None without a
            threshold.
    """

    path: Path
    top: tuple[tuple[str, float], ...]
    error: str | None
    classes: int
    not_sure: bool | None


def predict(
    model: Classifier | Run | str | os.PathLike[str],
    images: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    top: int = 3,
    threshold: float | None = None,
    console: Console | None = None,
) -> Iterator[Prediction]:
    """Names the most probable classes of images.

    Files are read on all cores and predicted in batches as the result is iterated over; memory does
    not grow with their number. A .tflite or .onnx file is run without TensorFlow.

    Args:
        model: A run, or the path of a run's folder, a .tflite file, an .onnx file or a SavedModel;
            or a classifier from `open_classifier`.
        images: One or more image files, or folders of images.
        top: Number of classes to name for each image; all of them if there are fewer.
        threshold: Score threshold that replaces the model's own; 0 answers every image.
        console: Console for the progress, by default standard output;
            `rich.console.Console(quiet=True)` shows none.

    Returns:
        A `Prediction` for each file, in the given order. A file that cannot be read has an `error`.

    Raises:
        InputError: If the model cannot be opened, or a folder has no images.
    """
    within("top", top, isinstance(top, int) and top >= 1, "1 or more")
    check_threshold(threshold)
    several = images if isinstance(images, Iterable) and not isinstance(images, str) else [images]
    classifier = model if isinstance(model, Classifier) else open_classifier(model)
    if threshold is not None:
        spec = dataclasses.replace(classifier.spec, threshold=threshold)
        classifier = dataclasses.replace(classifier, spec=spec)
    return _predictions(classifier, image_files(several), top, console or Console())


def _predictions(
    classifier: Classifier, files: Sequence[Path], top: int, console: Console
) -> Iterator[Prediction]:
    def read(path: Path) -> npt.NDArray[np.uint8] | str:
        try:
            return classifier.read(path)
        except InputError as error:
            return str(error)

    # the first image is a batch of its own, so that its prediction comes at once
    batches = [files[:1], *(files[i : i + _BATCH] for i in range(1, len(files), _BATCH))]
    with (
        watched(console, "predicting", len(files)) as advance,
        ThreadPoolExecutor(cpu_count()) as pool,
    ):
        ahead = [pool.submit(read, path) for path in batches[0]]
        for paths, following in zip(batches, [*batches[1:], []], strict=True):
            batch = [image.result() for image in ahead]
            ahead = [pool.submit(read, path) for path in following]  # during this prediction
            pixels = [image for image in batch if not isinstance(image, str)]
            answers = iter(classifier.answer(np.stack(pixels), top) if pixels else ())
            for path, image in zip(paths, batch, strict=True):
                error = image if isinstance(image, str) else None
                answer = Answer((), None) if error else next(answers)
                yield Prediction(
                    path, answer.top, error, len(classifier.spec.labels), answer.not_sure
                )
                advance(1)
