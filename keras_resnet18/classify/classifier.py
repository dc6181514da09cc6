"""`open_classifier`: opens a run or an exported file as a classifier of images."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from keras_resnet18.classify.exported import ExportedFile, Predict, open_exported
from keras_resnet18.data.folder import walk
from keras_resnet18.errors import InputError, listed, path_of
from keras_resnet18.files import EXPORTED, check_format
from keras_resnet18.images import FORMATS_IN_WORDS, read_image, resize_and_crop
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.recipe import SplitName, on_hub
from keras_resnet18.run import Run, load_run, run_of
from keras_resnet18.spec import SPEC_FILE, ClassifierSpec
from keras_resnet18.tflite_file import contents

if TYPE_CHECKING:  # imports TensorFlow, without which .tflite and .onnx files are run
    from keras_resnet18.data.splits import Source


class Answer(NamedTuple):
    """Answer to one image.

    Attributes:
        top: Most probable classes with their probabilities, 0 to 1, highest first.
        not_sure: Whether the highest probability is below the threshold; None without a threshold.
    """

    top: tuple[tuple[str, float], ...]
    not_sure: bool | None


@dataclasses.dataclass(frozen=True)
class Classifier:
    """Classifier of images.

    Attributes:
        predict: Function from uint8 pixels (n, height, width, 3) to probabilities (n, classes).
        spec: Class names, preprocessing and score threshold.
        run: Run that the classifier comes from, or None if it is unknown.
    """

    predict: Predict
    spec: ClassifierSpec
    run: Run | None

    @property
    def preprocess(self) -> Preprocess:
        """Preprocessing from an image to the pixels that `predict` takes."""
        assert self.spec.preprocess is not None  # `open_classifier` refuses others
        return self.spec.preprocess

    def open_images(self, data: str | None = None) -> Source:
        """Opens the labeled images of the training, or others, as `open_images` does."""
        return open_images(self.spec, self.run, data)

    def read(self, path: Path) -> npt.NDArray[np.uint8]:
        """Reads an image file as the pixels that `predict` takes, shape (height, width, 3).

        Raises:
            InputError: If the file is not an image.
        """
        return resize_and_crop(
            read_image(path, max_value=self.preprocess.max_value), self.preprocess
        )

    def answer(self, pixels: npt.NDArray[np.uint8], k: int) -> list[Answer]:
        """Names the k most probable classes of each image, or all if there are fewer."""
        answers = []
        for probabilities in self.predict(pixels):
            first = (-probabilities).argsort(kind="stable")[:k]
            top = tuple((self.spec.labels[i], float(probabilities[i])) for i in first)
            unsure = None if self.spec.threshold is None else not self.spec.sure(top[0][1])
            answers.append(Answer(top, unsure))
        return answers


def open_images(
    spec: ClassifierSpec,
    run: Run | None,
    data: str | None = None,
    splits: Sequence[SplitName] = ("test",),
) -> Source:
    """Opens the images that a classifier was trained on, or others of the same classes.

    Args:
        spec: Specification of the classifier.
        run: Run whose images are opened if there is no `data`.
        data: Another source, or the new place of the training images.
        splits: Splits that must not have changed since the training if there is no `data`.

    Raises:
        InputError: If the images are unknown, have moved or changed, or have other classes.
    """
    from keras_resnet18.data.sources import open_source

    name = data or (None if run is None else run.source)
    if name is None:
        raise InputError(
            "the images that the classifier was trained on are unknown: give some as data=SOURCE"
        )
    if data is None and Path(name).is_absolute() and not Path(name).exists():
        raise InputError(
            "the images that the classifier was trained on have moved: give their place as "
            f"data=SOURCE. Received: nothing at {name}"
        )
    source = open_source(name) if run is None else _open_as_trained(run, name)
    if data is None and run is not None and not of_training(run, source, splits):
        raise InputError(
            f"the {' and '.join(splits)} images of {run.path} have changed since its training, and "
            "training images may be among them: restore them, or measure others with data=SOURCE, "
            f"such as data={name!r}"
        )
    if run is not None and spec.labels != source.classes == run.trained_labels:
        source = dataclasses.replace(source, classes=spec.labels)  # the run's classes were renamed
    if source.classes != spec.labels:
        new, gone = set(source.classes) - set(spec.labels), set(spec.labels) - set(source.classes)
        raise InputError(
            f"the images must have the classifier's {len(spec.labels)} classes: change a name in "
            f"both the images and {SPEC_FILE}. Received: {name} with "
            f"{listed(sorted(new)) or 'no other'} and without {listed(sorted(gone)) or 'none'}"
        )
    return source if spec.preprocess is None else source.scaled(spec.preprocess.max_value)


def open_classifier(model: Run | str | os.PathLike[str]) -> Classifier:
    """Opens a run, or the path of a run's folder, a .tflite file, an .onnx file or a SavedModel.

    `"hf:OWNER/NAME"` is a run on the Hugging Face Hub, at its newest commit or at `@REVISION`.

    The specification is read from the file, or from `classifier.json` beside it. Without one,
    images are resized and cropped as for ImageNet, with a warning.

    Raises:
        InputError: If it is none of them, or its runtime is not installed.
    """
    if isinstance(model, Run) or on_hub(model):
        return _from_run(model if isinstance(model, Run) else load_run(model))
    path = path_of(
        model, "a run, or the path of a run, a .tflite file, an .onnx file or a SavedModel"
    )
    is_run = check_format(path, "run", *EXPORTED) == "run"
    return _from_run(load_run(path)) if is_run else _from_exported(path)


def _open_as_trained(run: Run, name: str) -> Source:
    """Opens a source with the run's options if its test images are the run's, else without."""
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
    """Whether splits of a source have the images of a run's training.

    True for runs of older versions, which did not record the fingerprints of their images.
    """
    known = run.environment.get("images")
    if not isinstance(known, dict):
        return known is None
    return all(known.get(name) == source.splits[name].facts() for name in splits)


def image_files(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Lists files and, for a folder, its images as training finds them, sorted."""
    files: list[Path] = []
    for given in paths:
        path = path_of(given, "paths of images; open_classifier(model).predict takes pixels")
        images = [path / name for name in walk(path).images] if path.is_dir() else [path]
        if not images:
            raise InputError(
                f"a folder to predict must have {FORMATS_IN_WORDS} images in it. Received: {path}"
            )
        files += images
    return files


def _from_run(run: Run) -> Classifier:
    from keras_resnet18.machine import fastest_jit  # imports Keras

    run.model.compile(jit_compile=fastest_jit())
    return Classifier(run.model.predict_on_batch, run.spec, run)


def _from_exported(path: Path) -> Classifier:
    file = open_exported(path)
    if file.image_shape[2] != 3:
        raise InputError(
            "a classifier of images takes three channels, red, green and blue. "
            f"Received: {path}, which takes {file.image_shape[2]}"
        )
    spec = file.spec
    if spec is None or spec.preprocess is None:
        spec = _spec_beside(path, file)
    return Classifier(file, spec, run_of(path))


def _spec_beside(path: Path, file: ExportedFile) -> ClassifierSpec:
    """Specification of a model file that contains none, from `classifier.json` beside it.

    Without that file, images are resized and cropped as for ImageNet, with a warning; classes have
    the labels of a .tflite file, or their numbers.
    """
    beside = path.with_name(SPEC_FILE)
    if beside.is_file():
        spec = ClassifierSpec.read(beside)
        spec.check_model(file.image_shape, file.classes, beside)
        return spec
    height, width, _ = file.image_shape
    if height is None or width is None:
        raise InputError(
            f"a classifier needs the size of its images: put a {SPEC_FILE} beside the file, or "
            f"export it with one. Received: {path}, which takes any size"
        )
    labels = (contents(path).labels if path.suffix == ".tflite" else None) or []
    if len(labels) != file.classes:
        labels = [str(i) for i in range(file.classes)]
    preprocess = Preprocess(size=(height, width))
    warnings.warn(
        f"{path} does not say how images are prepared for it, so ImageNet's "
        f"{preprocess.interpolation} resizing and crop of the middle {preprocess.crop_ratio:.1%} "
        f"are used. If they are wrong, its answers are too: put a {SPEC_FILE} beside it",
        stacklevel=2,
    )
    return ClassifierSpec(tuple(labels), preprocess)
