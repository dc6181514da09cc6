"""Whether an exported file gives the model's answers, found by running it with its real runtime."""

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

# The part of the images that must get the class the model gives.
MIN_AGREEMENT = 0.98

# What float32 arithmetic in another order may change in a probability; 100 times what is seen.
FLOAT32_TOLERANCE = 1e-3

# The kinds of .tflite file, by `export_tflite`'s name for their quantisation, and how far a
# probability may be from the model's. float16 keeps 11 of a weight's 24 bits: 5 times what is seen
# on 10,000 images. Where activations are rounded only the class counts.
TOLERANCES = {
    None: FLOAT32_TOLERANCE,
    "float16": 0.02,
    "dynamic": None,
    "int8": None,
}

Predict = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A model and its export on the same images.

    Attributes:
        n: How many images.
        agreement: Part of them that both give the same class, 0 to 1.
        max_difference: Largest difference of any probability from the float32 model's.
        mean_difference: Mean difference of all of them.
        accuracy: Top-1 accuracy of the export, 0 to 1; None if the images had no labels.
        model_accuracy: The same of the model.
        mass_error: How far the export's probabilities are from summing to 1, at most.
        model_classes: How many different classes the model gave.
    """

    n: int
    agreement: float
    max_difference: float
    mean_difference: float
    accuracy: float | None
    model_accuracy: float | None
    mass_error: float
    model_classes: int

    def interval(self, part: float) -> tuple[float, float]:
        """95 % confidence interval of one of the parts of the images."""
        return interval(round(part * self.n), self.n)

    @property
    def warning(self) -> str | None:
        """Why agreement shows nothing, in one line; None if it does."""
        if self.n > 1 and self.model_classes == 1:
            return (
                f"the model gives all {self.n:,} images the same class, so agreement and accuracy "
                "show little: compare on images of all classes"
            )
        return None

    def to_dict(self) -> dict[str, Any]:
        """The figures with their intervals, ready for JSON, which knows no infinity: null."""
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
        min_agreement: The part of the images, 0 to 1, that must get the class the model gives.
        max_difference: How much a probability may differ; None where only the class counts.
    """

    min_agreement: float = MIN_AGREEMENT
    max_difference: float | None = None

    def fault(self, comparison: Comparison) -> str | None:
        """What is beyond them, in one line; None if nothing is."""
        where = f"on {comparison.n:,} images"
        if not comparison.mass_error < 0.01:
            return (
                f"the export's outputs do not sum to 1 {where}, so they are no probabilities: the "
                "model must end in a softmax, or give logits"
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
    """Runs both on the same pixels.

    Args:
        exported: From uint8 pixels (n, height, width, channels) to probabilities (n, classes).
        model: The Keras model as it was trained. Its classes are compared with the export's;
            probabilities are compared with its float32 twin's, because the rounding of mixed
            precision is no fault of the export.
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
    # NaN is no number to agree with: it counts as the largest error there is
    return float(np.nan_to_num(abs(errors), nan=np.inf).max())


@contextlib.contextmanager
def whole_float32() -> Iterator[None]:
    """Keeps GPUs from TF32, float32 arithmetic with 10 of its 23 bits: it is off by up to 1e-3."""
    config = tf.config.experimental
    before = config.tensor_float_32_execution_enabled()
    config.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        config.enable_tensor_float_32_execution(before)


def check_graph(path: Path, model: keras.Model) -> dict[str, int]:
    """The file's op histogram, after a look at what the converter may get wrong in silence.

    Raises:
        ExportError: If it is broken, if layers are missing or an operator is not built in, or if
            it does not take uint8 pixels as they are and give float32.
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
    except Exception:  # in a broken file the reader follows its offsets to anywhere
        TFLiteFile(path)  # says it better
        raise


def labels_fault(found: Sequence[str] | None, expected: Sequence[str]) -> str | None:
    """How a file's labels differ from the run's, in one line; None if they are the same."""
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


def gate(fault: str | None) -> None:
    """Lets an export pass that has no fault.

    Raises:
        ExportError: If it has one.
    """
    if fault is not None:
        raise ExportError(f"{fault}; nothing was written")
