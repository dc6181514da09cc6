"""`evaluate`: how good a run or an exported file is on labelled images."""

from __future__ import annotations

import os

from keras_resnet18.errors import one_of
from keras_resnet18.evaluation.accuracy import Evaluation, measure
from keras_resnet18.names import SPLITS, SplitName
from keras_resnet18.run import Run
from keras_resnet18.runtime.classifier import open_classifier


def evaluate(
    model: Run | str | os.PathLike[str], *, data: str | None = None, split: SplitName = "test"
) -> Evaluation:
    """Measures top-1 accuracy, with its 95 % interval, and cross-entropy.

    Args:
        model: A run, or the path of a run's folder, a .tflite file, an .onnx file or a SavedModel.
        data: The source of the images; by default the one that the run was trained on.
        split: `"train"`, `"validation"` or `"test"`.

    Raises:
        InputError: If the model or the images cannot be opened, or an image is broken.
    """
    one_of("split", split, SPLITS)
    classifier = open_classifier(model)
    images = classifier.open_images(data).splits[split]
    return measure(classifier.predict, images, classifier.preprocess)
