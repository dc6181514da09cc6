"""`evaluate`: how good a run or an exported file is on labelled images."""

from __future__ import annotations

import json
import os
from pathlib import Path

from keras_resnet18.errors import one_of
from keras_resnet18.evaluation.accuracy import Evaluation, measure
from keras_resnet18.evaluation.predictions import is_predictions, write_predictions
from keras_resnet18.names import SPLITS, SplitName
from keras_resnet18.run import Run
from keras_resnet18.runtime.classifier import open_classifier
from keras_resnet18.staging import check_destination, staged, to_json


def evaluate(
    model: Run | str | os.PathLike[str],
    *,
    data: str | None = None,
    split: SplitName = "test",
    out: str | os.PathLike[str] | None = None,
) -> Evaluation:
    """Measures top-1 accuracy with its 95 % interval, top-5, cross-entropy, and each class.

    Args:
        model: A run, or the path of a run's folder, a .tflite file, an .onnx file or a SavedModel.
        data: The source of the images; by default the one that the run was trained on.
        split: `"train"`, `"validation"` or `"test"`.
        out: Folder to write `metrics.json` and `predictions.csv` in; None writes nothing.

    Raises:
        InputError: If the model or the images cannot be opened, an image is broken, or `out` holds
            files of these names that `evaluate` did not write, such as a run's.
    """
    one_of("split", split, SPLITS)
    if out is not None:
        figures_file, predictions_file = (
            Path(out) / n for n in ("metrics.json", "predictions.csv")
        )
        check_destination(figures_file, _is_evaluation, "an evaluation")
        check_destination(predictions_file, is_predictions, "a table of predictions")
    classifier = open_classifier(model)
    source = classifier.open_images(data)
    images = source.splits[split]
    found = measure(classifier.predict, images, classifier.preprocess, classifier.labels)
    if out is not None:
        about = {"model": str(model.path if isinstance(model, Run) else model)}
        about |= {"data": source.spec or source.name, "split": split}
        with staged(figures_file) as new:
            new.write_text(to_json({**about, **found.to_dict()}), encoding="utf-8")
        with staged(predictions_file) as new:
            write_predictions(found, new)
    return found


def _is_evaluation(path: Path) -> bool:
    try:
        return "model" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False
