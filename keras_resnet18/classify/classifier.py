"""A trained classifier, whichever file it is in: a run, or what was exported from one."""

from __future__ import annotations

import dataclasses
import os
import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from keras_resnet18.classify.exported import Predict, class_names, open_exported
from keras_resnet18.data.folder import walk
from keras_resnet18.errors import InputError, path_of
from keras_resnet18.files import EXPORTED, PREPROCESS_FILE, check_format
from keras_resnet18.images import FORMATS_IN_WORDS, read_image, resize_and_crop
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.recipe import SplitName
from keras_resnet18.run import Run, load_run, run_of

if TYPE_CHECKING:  # imports TensorFlow, without which .tflite and .onnx files are run
    from keras_resnet18.data.splits import Source


@dataclasses.dataclass(frozen=True)
class Classifier:
    """From images to named classes.

    Attributes:
        predict: From uint8 pixels (n, height, width, 3) to probabilities (n, classes).
        labels: The classes' names.
        preprocess: How an image becomes those pixels.
        run: The run that it is of, if that is known.
        threshold: Highest probability below which an image is "none of these"; None without one.
    """

    predict: Predict
    labels: tuple[str, ...]
    preprocess: Preprocess
    run: Run | None
    threshold: float | None = None

    def open_images(
        self, data: str | None = None, splits: Sequence[SplitName] = ("test",)
    ) -> Source:
        """The labelled images that it was trained on, or others of the same classes.

        Raises:
            InputError: As `open_images`.
        """
        return open_images(self.labels, self.run, data, splits)

    def read(self, path: Path) -> npt.NDArray[np.uint8]:
        """Reads an image file as the pixels that `predict` takes, shape (height, width, 3).

        Raises:
            InputError: If the file is not an image.
        """
        return resize_and_crop(read_image(path), self.preprocess)

    def best(self, pixels: npt.NDArray[np.uint8], k: int) -> list[list[tuple[str, float]]]:
        """The k most probable classes of each image, with their probabilities.

        Args:
            pixels: As `predict` takes them, shape (n, height, width, 3).
            k: How many classes; all of them, if there are fewer.
        """
        answers = []
        for probabilities in self.predict(pixels):
            first = (-probabilities).argsort(kind="stable")[:k]
            answers.append([(self.labels[i], float(probabilities[i])) for i in first])
        return answers

    def top(self, path: Path, k: int) -> list[tuple[str, float]]:
        """The k most probable classes of one image file, with their probabilities.

        Raises:
            InputError: If the file is not an image.
        """
        return self.best(self.read(path)[np.newaxis], k)[0]


def open_images(
    labels: tuple[str, ...],
    run: Run | None,
    data: str | None,
    splits: Sequence[SplitName] = ("test",),
) -> Source:
    """Opens the images that a classifier was trained on, or others of the same classes.

    Args:
        labels: The classifier's classes.
        run: The run whose training's images are opened without `data`.
        data: Another source, or the place where the training's images lie now.
        splits: Those that without `data` must be as they were in the training.

    Raises:
        InputError: If there are none, they have moved or changed, or they have other classes.
    """
    from keras_resnet18.data.sources import open_source
    from keras_resnet18.data.splits import listed

    name = data or (None if run is None else run.source)
    if name is None:
        raise InputError(
            "it is not known which images the classifier was trained on: name some with --data. "
            "Received: no --data"
        )
    if data is None and Path(name).is_absolute() and not Path(name).exists():
        raise InputError(
            "the images that the classifier was trained on have moved: give their place with "
            f"--data. Received: no --data, and nothing at {name}"
        )
    source = open_source(name) if run is None else _open_as_trained(run, name)
    if data is None and run is not None and not of_training(run, source, splits):
        raise InputError(
            f"the {' and '.join(splits)} images of {run.path} have changed since its training, and "
            "training images may be among them: restore them, or measure others with --data, such "
            f"as --data {shlex.quote(name)}"
        )
    if source.classes != labels:
        raise InputError(
            f"the images must have the classifier's classes, {listed(labels)}. "
            f"Received: {name} with {listed(source.classes)}"
        )
    return source


def open_classifier(model: Run | str | os.PathLike[str]) -> Classifier:
    """Opens a run, or the path of a run's folder, a .tflite file, an .onnx file or a SavedModel.

    How images are prepared stands in the file, and for a file that does not say in
    `preprocess.json` beside it. Where neither is, images are resized and cropped as for ImageNet,
    with a warning.

    Raises:
        InputError: If it is none of them, or its runtime is not installed.
    """
    if isinstance(model, Run):
        return _from_run(model)
    path = path_of(
        model, "a run, or the path of a run, a .tflite file, an .onnx file or a SavedModel"
    )
    is_run = check_format(path, "run", *EXPORTED) == "run"
    return _from_run(load_run(path)) if is_run else _from_exported(path)


def _open_as_trained(run: Run, name: str) -> Source:
    """Opens a source as the training opened it, if its test images are the run's; else anew."""
    from keras_resnet18.data.sources import open_source

    options = run.source_options
    try:
        source = open_source(name, **options)
    except InputError:
        if not any(options.values()):
            raise
        return open_source(name)
    own = name == run.source or not any(options.values()) or of_training(run, source, ["test"])
    return source if own else open_source(name)


def of_training(run: Run, source: Source, splits: Sequence[SplitName]) -> bool:
    """Whether splits of a source hold the images that a run was trained with.

    Of runs of older versions, which did not keep what tells images apart, it is taken for granted.
    """
    known = run.environment.get("images")
    if not isinstance(known, dict):
        return known is None
    return all(known.get(name) == source.splits[name].facts() for name in splits)


def preprocess_beside(path: Path, size: tuple[int | None, ...]) -> Preprocess:
    """How images are prepared for a model file that does not say.

    `preprocess.json` beside it says, or ImageNet's way is taken, with a warning.

    Args:
        path: The file.
        size: (height, width) that it takes, None where any will do.

    Raises:
        InputError: If what lies beside it is for another size, or nothing says the size.
    """
    beside = path.with_name(PREPROCESS_FILE)
    if beside.is_file():
        preprocess = Preprocess.read(beside)
        preprocess.check_size(size, beside)
        return preprocess
    if (sides := [side for side in size if side is not None]) != list(size):
        raise InputError(
            "a classifier of images has a size for them: export it with preprocess, or put a "
            f"{PREPROCESS_FILE} beside it. Received: {path}, which takes any size"
        )
    height, width = sides
    preprocess = Preprocess(size=(height, width))
    warnings.warn(
        f"{path} does not say how images are prepared for it: taken are ImageNet's "
        f"{preprocess.interpolation} resizing and the middle {preprocess.crop_ratio:.1%}. If "
        f"another way is right, put a {PREPROCESS_FILE} beside it, or its answers are wrong",
        stacklevel=2,
    )
    return preprocess


def image_files(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The files themselves, and for a folder the images that training would find, sorted.

    Raises:
        InputError: For a folder without images, and for what is no path.
    """
    files: list[Path] = []
    for given in paths:
        path = path_of(given, "paths of images; open_classifier(model).predict takes pixels")
        images = [path / name for name in walk(path).images] if path.is_dir() else [path]
        if not images:
            raise InputError(
                f"a folder to predict needs {FORMATS_IN_WORDS} images in it. Received: {path}"
            )
        files += images
    return files


def _from_run(run: Run) -> Classifier:
    from keras_resnet18.machine import fastest_jit  # imports Keras

    run.model.compile(jit_compile=fastest_jit())
    predict = run.model.predict_on_batch
    return Classifier(predict, run.labels, run.preprocess, run, run.threshold)


def _from_exported(path: Path) -> Classifier:
    file = open_exported(path)
    *size, channels = file.image_shape
    if channels != 3:
        raise InputError(
            "a classifier of images takes three channels, red, green and blue. "
            f"Received: {path}, which takes {channels}"
        )
    if file.labels is not None and len(file.labels) != file.classes:
        raise InputError(
            f"a classifier needs a label for each class. Received: {path} with {file.classes} "
            f"classes and {len(file.labels)} labels: export it again"
        )
    preprocess = file.preprocess or preprocess_beside(path, tuple(size))
    labels = class_names(file.labels, file.classes)
    return Classifier(file, labels, preprocess, run_of(path), file.threshold)
