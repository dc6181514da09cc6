"""Comparison of an exported file with its model: the same images through both, and the limits."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_resnet18.errors import ExportError
from keras_resnet18.evaluation.interval import interval
from keras_resnet18.runtime.exported import TFLiteFile
from keras_resnet18.tflite_file.contents import custom_operators, op_histogram
from keras_resnet18.verification import reference
from keras_resnet18.verification.pixels import Batch

# The fraction of the images that must get the class the model gives
MIN_AGREEMENT = 0.98

Predict = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A model and its export on the same images.

    Attributes:
        n: How many images.
        agreement: Fraction of the images to which both give the same class, 0 to 1.
        max_difference: Largest difference of a probability from the float32 model's.
        mean_difference: Mean difference of the probabilities from the float32 model's.
        accuracy: Top-1 accuracy of the export, 0 to 1; None if the images have no labels.
        model_accuracy: Top-1 accuracy of the model, 0 to 1; None if the images have no labels.
        mass_error: Largest difference of the sum of an image's probabilities from 1.
        model_classes: Number of classes that the model gives to any of the images.
    """

    n: int
    agreement: float
    max_difference: float
    mean_difference: float
    accuracy: float | None
    model_accuracy: float | None
    mass_error: float
    model_classes: int

    def interval(self, fraction: float) -> tuple[float, float]:
        """95 % confidence interval of a fraction of the images."""
        return interval(round(fraction * self.n), self.n)

    @property
    def warning(self) -> str | None:
        """Why agreement shows little, in one line; None if it shows enough."""
        if self.n > 1 and self.model_classes == 1:
            return (
                f"the model gives all {self.n:,} images the same class, so agreement and accuracy "
                "show little: compare on images of all classes"
            )
        return None

    def to_dict(self) -> dict[str, Any]:
        """The figures with their intervals for JSON, infinity and NaN as None."""
        figures: dict[str, Any] = {}
        for name, value in dataclasses.asdict(self).items():
            figures[name] = None if value is None or not np.isfinite(value) else value
            if name in ("agreement", "accuracy", "model_accuracy"):
                figures[f"{name}_interval"] = value if value is None else list(self.interval(value))
        return figures


@dataclasses.dataclass(frozen=True)
class Limits:
    """How far an export may be from the model.

    Attributes:
        min_agreement: Fraction of the images, 0 to 1, that must get the class the model gives.
        max_difference: Largest difference of a probability; None where only the class counts.
    """

    min_agreement: float = MIN_AGREEMENT
    max_difference: float | None = None

    def fault(self, comparison: Comparison) -> str | None:
        """The limit that a comparison exceeds, in one line; None if it keeps both."""
        where = f"on {comparison.n:,} images"
        if not comparison.mass_error < 0.01:
            return (
                f"the export's outputs do not sum to 1 {where}, so they are not probabilities: "
                "the model must end in a softmax, or give logits"
            )
        if comparison.agreement < self.min_agreement:
            return (
                f"the export gives the model's class for {comparison.agreement:.2%} {where}, below "
                f"min_agreement={self.min_agreement:.2%}"
            )
        if self.max_difference is not None and comparison.max_difference > self.max_difference:
            return (
                "the export's probabilities differ from the model's by up to "
                f"{comparison.max_difference:.2g} {where}, more than {self.max_difference:g}"
            )
        return None


def compare(exported: Predict, model: keras.Model, batches: Iterable[Batch]) -> Comparison:
    """Runs an export and its model on the same pixels.

    Args:
        exported: From uint8 pixels (n, height, width, channels) to probabilities (n, classes).
        model: The Keras model as it was trained. The export's classes are compared with its own,
            the export's probabilities with those of its float32 twin: the rounding of mixed
            precision is not the export's.
        batches: Images, with labels or without.
    """
    twin = reference.float32_twin(model)
    predict_twin = reference.predictor(twin)
    predict_model = predict_twin if twin is model else reference.predictor(model)
    count = agreeing = labelled = right = model_right = 0
    difference = total_difference = mass_error = 0.0
    classes: set[int] = set()
    for pixels, labels in batches:
        with whole_float32():
            got, exact = exported(pixels), predict_twin(pixels)
        top = got.argmax(1)
        model_top = (exact if twin is model else predict_model(pixels)).argmax(1)
        count += len(pixels)
        classes.update(model_top.tolist())
        agreeing += int((top == model_top).sum())
        difference = max(difference, _largest(got - exact))
        total_difference += float(abs(got - exact).mean(1).sum())
        mass_error = max(mass_error, _largest(got.sum(1) - 1))
        if labels is not None:
            labelled += len(labels)
            right += int((top == labels).sum())
            model_right += int((model_top == labels).sum())
    return Comparison(
        n=count,
        agreement=agreeing / count,
        max_difference=difference,
        mean_difference=total_difference / count,
        accuracy=right / labelled if labelled else None,
        model_accuracy=model_right / labelled if labelled else None,
        mass_error=mass_error,
        model_classes=len(classes),
    )


def _largest(errors: np.ndarray[Any, Any]) -> float:
    # NaN counts as the largest error there is
    return float(np.nan_to_num(abs(errors), nan=np.inf).max())


@contextlib.contextmanager
def whole_float32() -> Iterator[None]:
    """Turns off TF32, a GPU's float32 arithmetic with 10 of 23 bits, which is off by up to 1e-3."""
    config = tf.config.experimental
    before = config.tensor_float_32_execution_enabled()
    config.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        config.enable_tensor_float_32_execution(before)


def check_graph(path: Path, model: keras.Model) -> dict[str, int]:
    """Checks a .tflite file for what the converter may get wrong in silence.

    Returns:
        Number of operators by name.

    Raises:
        ExportError: If the file is broken, convolutions are missing, an operator is not built in,
            or the file does not take uint8 pixels as they are and give float32.
    """
    operators = _operators(path)
    convolutions = sum(isinstance(layer, keras.layers.Conv2D) for layer in reference.leaves(model))
    found = operators.get("CONV_2D", 0) + operators.get("DEPTHWISE_CONV_2D", 0)
    if not operators or found < convolutions:
        which = "converted" if operators else "empty"
        raise ExportError(
            f"the {which} graph has {found} convolutions, the model {convolutions}: the "
            f"converter left some out. Its operators: {operators}"
        )
    if "CUSTOM" in operators:
        raise ExportError(
            "the converted graph needs operators that are not built into LiteRT: "
            f"{', '.join(custom_operators(path))}. Its operators: {operators}"
        )
    scale, zero_point = TFLiteFile(path).input["quantization"]
    if (scale, zero_point) not in ((0.0, 0), (1.0, 0)):
        raise ExportError(
            "the converted graph must take pixels of 0 to 255 as they are. "
            f"Its input: uint8, scale {scale}, zero point {zero_point}"
        )
    return operators


def _operators(path: Path) -> dict[str, int]:
    try:
        return op_histogram(path)
    except Exception:  # the reader follows a broken file's offsets to anywhere
        TFLiteFile(path)  # raises the clearer error
        raise


def labels_fault(found: Sequence[str] | None, expected: Sequence[str]) -> str | None:
    """The first difference of a file's labels from the run's, in one line; None if equal."""
    if found is None:
        return (
            "labels differ from the run's: the file has none. It was exported without, or its end "
            "is cut off"
        )
    if len(found) != len(expected):
        return f"labels differ from the run's: {len(found)} in the file, {len(expected)} in the run"
    for number, (name, wanted) in enumerate(zip(found, expected, strict=True), 1):
        if name != wanted:
            return (
                f"labels differ from the run's: number {number} is {name!r} in the file, "
                f"{wanted!r} in the run"
            )
    return None
