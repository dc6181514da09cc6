"""`evaluate`: how good a run or an exported file is on labelled images."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Literal

from keras_resnet18.data.whole import Whole, count_trained_on, open_whole, whole_of
from keras_resnet18.errors import InputError, one_of
from keras_resnet18.evaluation.accuracy import Evaluation, measure_splits
from keras_resnet18.evaluation.predictions import is_predictions, write_predictions
from keras_resnet18.names import SPLITS, SplitName
from keras_resnet18.run import Run
from keras_resnet18.runtime.classifier import Classifier, of_training, open_classifier
from keras_resnet18.staging import check_destination, staged, to_json


def evaluate(
    model: Run | str | os.PathLike[str],
    *,
    data: str | None = None,
    split: SplitName | Literal["all"] | None = None,
    out: str | os.PathLike[str] | None = None,
) -> Evaluation:
    """Measures top-1 accuracy with its 95 % interval, top-5, cross-entropy, and each class.

    Args:
        model: A run, or the path of a run's folder, a .tflite file, an .onnx file or a SavedModel.
        data: The source of the images; by default the one that the run was trained on.
        split: `"train"`, `"validation"`, `"test"` or `"all"`; by default the test images of the
            run's own source, and all of another. All of a source may lack classes, and it is
            counted how many of its images have the bytes of a training image.
        out: Folder to write `metrics.json` and `predictions.csv` in; None writes nothing.

    Raises:
        InputError: If the model or the images cannot be opened, an image is broken, or `out` holds
            files of these names that `evaluate` did not write, such as a run's.
    """
    split = split or ("test" if data is None else "all")
    one_of("split", split, (*SPLITS, "all"))
    if out is not None:
        figures_file, predictions_file = (
            Path(out) / n for n in ("metrics.json", "predictions.csv")
        )
        check_destination(figures_file, _is_evaluation, "an evaluation")
        check_destination(predictions_file, is_predictions, "a table of predictions")
    classifier = open_classifier(model)
    whole, trained_on = _open(classifier, data, split)
    found = measure_splits(
        classifier.predict, whole.splits, whole.numbers, classifier.preprocess, classifier.labels
    )
    found = dataclasses.replace(found, trained_on=trained_on, threshold=classifier.threshold)
    if out is not None:
        about = {
            "model": str(model.path if isinstance(model, Run) else model),
            "data": whole.spec or "arrays",
            "split": split,
            "trained_on": trained_on,
        }
        with staged(figures_file) as new:
            new.write_text(to_json({**about, **found.to_dict()}), encoding="utf-8")
        with staged(predictions_file) as new:
            write_predictions(found, new)
    return found


def _open(
    classifier: Classifier, data: str | None, split: SplitName | Literal["all"]
) -> tuple[Whole, int | None]:
    """The images, and how many of them are training images; None if that is not known."""
    splits = SPLITS if split == "all" else (split,)
    if data is not None and split == "all":
        whole = open_whole(data, classifier.labels)
    else:
        source = classifier.open_images(data, splits)
        whole = whole_of(source, classifier.labels, split)
        if classifier.run is not None and of_training(classifier.run, source, splits):
            return whole, source.splits["train"].size if "train" in splits else 0
    if classifier.run is None:
        return whole, None
    try:
        training = classifier.open_images(splits=("train",))
    except InputError:  # they have moved or changed, or were arrays
        return whole, None
    return whole, count_trained_on(whole, training)


def _is_evaluation(path: Path) -> bool:
    try:
        return "model" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False
