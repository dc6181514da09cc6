"""`evaluate`: measures the accuracy of a run or an exported file on labeled images."""

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
from keras_resnet18.data.files import digests_of_alike, open_test_files
from keras_resnet18.data.pipeline import eval_batches
from keras_resnet18.data.sources import labeled_files, open_source
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
        splits: Splits that have each image once.
        numbers: Class number of the classifier for each class number of the splits.
        folder: Folder that image names are relative to; None if the images are not files.
        spec: Name or path that `open_source` opens; None for arrays.
    """

    splits: tuple[Split, ...]
    numbers: tuple[int, ...]
    folder: Path | None
    spec: str | None

    @property
    def size(self) -> int:
        """Number of images."""
        return sum(split.size for split in self.splits)

    def sample(
        self, preprocess: Preprocess, limit: int | None = None, *, labeled: bool = True
    ) -> tf.data.Dataset:
        """Batches of prepared images, with class numbers if `labeled`, one split after another."""
        numbers, left, batches = tf.constant(self.numbers, tf.int64), limit, []
        for split in self.splits:
            if left != 0:
                prepare = preprocess.resize_and_crop
                batches.append(eval_batches(split, prepare, shuffled=True, limit=left))
                left = None if left is None else left - min(left, split.size)
        joined = functools.reduce(tf.data.Dataset.concatenate, batches)
        if not labeled:
            return joined.map(lambda images, labels: images)
        return joined.map(lambda images, labels: (images, tf.gather(numbers, labels)))


def open_whole(spec: str | os.PathLike[str], classes: Sequence[str]) -> Whole:
    """Opens all images of a source, as `open_source` takes it, for a test of a classifier.

    A folder needs neither split folders nor images of every class.

    Raises:
        InputError: If there is no such source, or it has an image of another class.
    """
    files = labeled_files(spec)
    if files is None:
        return whole_of(open_source(spec), classes)
    split = open_test_files(*files, os.fspath(spec), classes)
    resolved = str(Path(spec).expanduser().resolve())
    return Whole((split,), tuple(range(len(classes))), files[0], resolved)


def whole_of(source: Source, classes: Sequence[str], splits: Sequence[SplitName] = SPLITS) -> Whole:
    """Joins splits of a source; raises InputError if it has a class that is not in `classes`."""
    if unknown := [name for name in source.classes if name not in classes]:
        raise InputError(
            f"the images must be of the classifier's classes, {listed(classes)}. "
            f"Received: {source.name} with {listed(unknown)}"
        )
    numbers = tuple(classes.index(name) for name in source.classes)
    images = tuple(source.splits[kind] for kind in splits)
    return Whole(images, numbers, source.folder, source.spec)


def count_trained_on(whole: Whole, training: Source) -> int | None:
    """Counts images whose file or pixels have the bytes of a training image; None if unknown."""
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
        known = {hashlib.sha256(content).digest() for content in trained.content()}
        found = [content for split in whole.splits for content in split.content()]
        if len(known) > 1 and len(found) == sum(split.size for split in whole.splits):
            return sum(hashlib.sha256(content).digest() in known for content in found)
    return None


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
        data: Source of the images, by default the one that the run was trained on. For a run of
            folds, the default returns the figures of its training.
        split: `"train"`, `"validation"`, `"test"` or `"all"`; by default the test images of the
            run's own source, and all images of another. With `"all"`, the source may lack classes,
            and images with the bytes of a training image are counted.
        out: Folder for `metrics.json` and `predictions.csv`; None writes nothing.

    Returns:
        `Evaluation` with the figures and the answer to each image.

    Raises:
        InputError: If the model or the images cannot be opened, an image is broken, or `out` has
            files of these names that `evaluate` did not write, such as those of a run.
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
    run = model if isinstance(model, Run) else Run(Path(model))
    if data is given is None and run.finished and run.folds is not None:
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


def _of_folds(run: Run) -> Evaluation:
    figures, found = run.figures, read_predictions(run.predictions_file, run.trained_labels)
    kept = {name: figures[name] for name in ("accuracy", "loss", "n", "top5", "folds")}
    interval = tuple(figures["interval"])
    return Evaluation(spec=run.spec, interval=interval, **kept, **found._asdict())


def open_others(run: Run, data: str | None) -> Whole | None:
    """Opens all images of another source than the run's; warns of training images among them.

    Returns:
        The images; None if `data` is None or has the run's own test and validation images.

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
    """Opens the images, and counts the training images among them; None if that is unknown."""
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
    """Whether `evaluate` wrote a metrics.json, and not `train` or another program."""
    try:
        found = set(json.loads(path.read_text(encoding="utf-8")))
        return found >= {"model", "data", "split", "trained_on", "accuracy", "per_class"}
    except (OSError, ValueError, TypeError):
        return False
