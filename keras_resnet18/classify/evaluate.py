"""`evaluate`: how good a run or an exported file is on labelled images."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tensorflow as tf

from keras_resnet18.classify.accuracy import (
    Evaluation,
    is_predictions,
    measure_splits,
    on_training_images,
    read_predictions,
    write_predictions,
)
from keras_resnet18.classify.classifier import of_training, open_classifier, open_images
from keras_resnet18.classify.exported import latency_ms
from keras_resnet18.data.files import Advance, digests_of_alike, open_test_files, silent
from keras_resnet18.data.pipeline import eval_batches
from keras_resnet18.data.sources import labelled_files, open_source
from keras_resnet18.data.splits import Source, Split
from keras_resnet18.errors import InputError, listed, one_of
from keras_resnet18.files import check_destination, staged, to_json
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.recipe import SPLITS, SplitName, on_hub
from keras_resnet18.run import Run, load_run
from keras_resnet18.spec import ClassifierSpec


@dataclasses.dataclass(frozen=True)
class Whole:
    """All images of a source.

    Attributes:
        splits: Hold each image once.
        numbers: The classifier's number of each class of the splits' labels.
        folder: The folder that the images' names are relative to; None if they are not files.
        spec: What they were opened by; None for arrays.
    """

    splits: tuple[Split, ...]
    numbers: tuple[int, ...]
    folder: Path | None
    spec: str | None

    @property
    def size(self) -> int:
        """Number of images."""
        return sum(split.size for split in self.splits)

    def sample(self, preprocess: Preprocess, limit: int | None = None) -> tf.data.Dataset:
        """Batches of prepared images and the classifier's class numbers, those of a split at once.

        Args:
            preprocess: How an image becomes the classifier's pixels.
            limit: Maximum number of images, of the first split first.
        """
        numbers, left, batches = tf.constant(self.numbers, tf.int64), limit, []
        for split in self.splits:
            if left != 0:
                prepare = preprocess.resize_and_crop
                batches.append(eval_batches(split, prepare, shuffled=True, limit=left))
                left = None if left is None else left - min(left, split.size)
        joined = functools.reduce(tf.data.Dataset.concatenate, batches)
        return joined.map(lambda images, labels: (images, tf.gather(numbers, labels)))


def open_whole(
    spec: str | os.PathLike[str], classes: Sequence[str], advance: Advance = silent
) -> Whole:
    """Opens all images of a source for a test, as `open_source` names it.

    A folder may have split folders or none, and few images of few classes.

    Args:
        spec: As `open_source` takes it.
        classes: The classifier's classes.
        advance: Is told of the headers that are read.

    Raises:
        InputError: If there is no such source, or it has an image of another class.
    """
    files = labelled_files(spec)
    if files is None:
        return whole_of(open_source(spec), classes)
    split = open_test_files(*files, os.fspath(spec), classes, advance)
    resolved = str(Path(spec).expanduser().resolve())
    return Whole((split,), tuple(range(len(classes))), files[0], resolved)


def whole_of(source: Source, classes: Sequence[str], splits: Sequence[SplitName] = SPLITS) -> Whole:
    """All images of an open source, or those of some of its splits.

    Raises:
        InputError: If it has a class that the classifier does not have.
    """
    if unknown := [name for name in source.classes if name not in classes]:
        raise InputError(
            f"the images must be of the classifier's classes, {listed(classes)}. "
            f"Received: {source.name} with {listed(unknown)}"
        )
    numbers = tuple(classes.index(name) for name in source.classes)
    images = tuple(source.splits[kind] for kind in splits)
    return Whole(images, numbers, source.folder, source.spec)


def count_trained_on(whole: Whole, training: Source) -> int | None:
    """How many of the images are training images: of the same bytes, as files or as pixels.

    Args:
        whole: The images.
        training: What the classifier was trained on.

    Returns:
        Their number; None if it cannot be told.
    """
    trained = training.splits["train"]
    if whole.folder is not None and training.folder is not None and trained.names is not None:
        files = [whole.folder / name for split in whole.splits for name in split.names or ()]
        own = [training.folder / name for name in trained.names]
        digests = digests_of_alike([*files, *own])
        seen = {digests[path] for path in own if path in digests}
        return sum(digests.get(path) in seen for path in files)
    if whole.spec is not None and whole.spec == training.spec and len(whole.splits) == len(SPLITS):
        return trained.size
    if whole.folder is None and training.folder is None:
        known = set(map(_digest, trained.content()))
        found = [content for split in whole.splits for content in split.content()]
        if len(known) > 1 and len(found) == sum(split.size for split in whole.splits):
            return sum(_digest(content) in known for content in found)
    return None


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def evaluate(
    model: Run | str | os.PathLike[str],
    *,
    data: str | None = None,
    split: SplitName | Literal["all"] | None = None,
    out: str | os.PathLike[str] | None = None,
) -> Evaluation:
    """Measures top-1 accuracy with its 95 % interval, top-5, cross-entropy, each class, and speed.

    Args:
        model: A run, or the path of a run's folder, a .tflite file, an .onnx file or a SavedModel.
        data: The source of the images; by default the one that the run was trained on. A run of
            folds gives their figures, which its training found.
        split: `"train"`, `"validation"`, `"test"` or `"all"`; by default the test images of the
            run's own source, and all of another. All of a source may lack classes, and it is
            counted how many of its images have the bytes of a training image.
        out: Folder to write `metrics.json` and `predictions.csv` in; None writes nothing.

    Raises:
        InputError: If the model or the images cannot be opened, an image is broken, or `out` holds
            files of these names that `evaluate` did not write, such as a run's.
    """
    given, split = split, split or ("test" if data is None else "all")
    one_of("split", split, (*SPLITS, "all"))
    if out is not None:
        figures_file, predictions_file = (
            Path(out) / n for n in ("metrics.json", "predictions.csv")
        )
        check_destination(figures_file, _is_evaluation, "an evaluation")
        check_destination(predictions_file, is_predictions, "a table of predictions")
    model = load_run(model) if on_hub(model) else model
    classifier = open_classifier(model)
    speed = latency_ms(classifier.predict, (*classifier.preprocess.size, 3))
    if data is given is None and (run := _run_of_folds(model)) is not None:
        found, images = _of_folds(run), run.source
    else:
        whole, trained_on = _open(classifier.spec, classifier.run, data, split)
        found = measure_splits(classifier.predict, whole.splits, whole.numbers, classifier.spec)
        found, images = dataclasses.replace(found, trained_on=trained_on), whole.spec
    found = dataclasses.replace(found, latency_ms=speed)
    if out is not None:
        about = {
            "model": str((model.origin or model.path) if isinstance(model, Run) else model),
            "data": images or "arrays",
            "split": split if found.folds is None else "folds",
            "trained_on": found.trained_on,
            "latency_ms": speed,
        }
        with staged(figures_file) as new:
            new.write_text(to_json({**about, **found.to_dict()}), encoding="utf-8")
        with staged(predictions_file) as new:
            write_predictions(found, new)
    return found


def _run_of_folds(model: Run | str | os.PathLike[str]) -> Run | None:
    """The run, if the model is one and has figures of folds."""
    run = model if isinstance(model, Run) else Run(Path(model))
    return run if run.finished and run.folds is not None else None


def _of_folds(run: Run) -> Evaluation:
    """What the training found of all folds."""
    figures, found = run.figures, read_predictions(run.predictions_file, run.trained_labels)
    return Evaluation(
        accuracy=figures["accuracy"],
        interval=tuple(figures["interval"]),
        loss=figures["loss"],
        n=figures["n"],
        top5=figures["top5"],
        labels=found.labels,
        predictions=found.predictions,
        probabilities=found.probabilities,
        spec=run.spec,
        names=found.names,
        folds=run.folds,
    )


def open_others(run: Run, data: str | None) -> Whole | None:
    """All images of a source, as `evaluate` takes them, unless a run was trained on it.

    Training images among them are a warning.

    Args:
        run: The run.
        data: The source.

    Returns:
        The images; None without `data`, and if it holds the run's own test and validation images.

    Raises:
        InputError: If there is no such source, or it has an image of another class.
    """
    if data is None:
        return None
    with contextlib.suppress(InputError):  # too few images for splits, or not of all classes
        own = open_images(run.spec, run, data)
        if of_training(run, own, ("test", "validation")):
            return None
    whole, trained_on = _open(run.spec, run, data, "all")
    for line in on_training_images(trained_on, whole.size):
        warnings.warn(line, stacklevel=2)
    return whole


def _open(
    spec: ClassifierSpec, run: Run | None, data: str | None, split: SplitName | Literal["all"]
) -> tuple[Whole, int | None]:
    """The images, and how many of them are training images; None if that is not known."""
    splits = SPLITS if split == "all" else (split,)
    if data is not None and split == "all":
        whole = open_whole(data, spec.labels)
        if spec.preprocess is not None:
            scaled = tuple(part.scaled_by(spec.preprocess.max_value) for part in whole.splits)
            whole = dataclasses.replace(whole, splits=scaled)
    else:
        source = open_images(spec, run, data, splits)
        own = run is not None and of_training(run, source, splits)
        if own and run is not None and run.folds is not None:  # all splits are all images
            splits = ("train",)
        whole = whole_of(source, spec.labels, splits)
        if own:
            return whole, source.splits["train"].size if "train" in splits else 0
    if run is None:
        return whole, None
    try:
        training = open_images(spec, run, splits=("train",))
    except InputError:  # they have moved or changed, or were arrays
        return whole, None
    return whole, count_trained_on(whole, training)


def _is_evaluation(path: Path) -> bool:
    """Whether `evaluate` wrote a metrics.json: other programs' may have some of its keys."""
    try:
        found = set(json.loads(path.read_text(encoding="utf-8")))
        return found >= {"model", "data", "split", "trained_on", "accuracy", "per_class"}
    except (OSError, ValueError, TypeError):
        return False
