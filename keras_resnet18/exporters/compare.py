"""Comparison of an exported file with its model on the same images: figures, limits, report."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy.stats import binom

from keras_resnet18.classify.accuracy import in_words, interval
from keras_resnet18.classify.exported import ExportedFile, Predict, latency_ms
from keras_resnet18.classify.table import counts_text, facts_table
from keras_resnet18.errors import ExportError, InputError
from keras_resnet18.exporters.graph import float32_twin, probabilities
from keras_resnet18.files import (
    EXPORTS,
    check_destination,
    is_saved_model,
    size_bytes,
    staged,
    to_json,
)
from keras_resnet18.machine import cpu_count, environment
from keras_resnet18.spec import ClassifierSpec

# Pixels, uint8 (n, height, width, channels), and class numbers (n,) if the caller gave labels
Batch = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]

# Default fraction of images on which export and model must give the same class. A file is refused
# if the interval of that fraction is below it, or the fraction is below the floor.
MIN_AGREEMENT = 0.98
_FLOOR = 0.95

# Largest difference of the fractions of images that file and model answer at their thresholds
_COVERAGE_TOLERANCE = 0.02

_CHANCE = 0.05  # significance level of McNemar's test
_FEW = 50  # images; with fewer, agreement shows little

_BATCH_SIZE = 32
_NOISE_IMAGES = 16


def pixel_batches(
    data: Any, shape: tuple[int | None, ...], *, argument: str, limit: int | None = None
) -> Iterator[Batch]:
    """Yields batches of pixels of this shape, with class numbers if `data` has labels.

    `data` is a `tf.data.Dataset` of images or (image, label), batched or not, or arrays: images or
    (images, labels). Pixels are 0 to 255, of any dtype; labels are class numbers or one-hot.
    `argument` is its name in the caller, for error messages, and `limit` a number of images.
    """
    elements = _elements(data, argument, limit)
    empty = True
    while some := list(itertools.islice(elements, _BATCH_SIZE)):
        empty = False
        for image, *_ in some:
            if image.shape != tuple(shape):
                raise InputError(
                    f"{argument} needs images of the model's input shape {tuple(shape)}. "
                    f"Received: {image.shape}"
                )
        labels = None
        if len(some[0]) == 2:
            labels = _class_numbers(np.stack([label for _, label in some]), argument)
        yield _as_pixels(np.stack([image for image, *_ in some]), argument), labels
    if empty:
        raise InputError(f"{argument} needs at least one image. Received: none")


def _elements(data: Any, argument: str, limit: int | None) -> Iterator[tuple[Any, ...]]:
    """Iterates over (image,) or (image, label) as NumPy arrays."""
    if not isinstance(data, tf.data.Dataset):
        try:
            data = tf.data.Dataset.from_tensor_slices(data)
        except (TypeError, ValueError):
            raise InputError(
                f"{argument} must be a tf.data.Dataset or arrays, of images or (images, labels). "
                f"Received: {type(data).__name__}"
            ) from None
    spec = data.element_spec
    parts = spec if isinstance(spec, tuple) else (spec,)
    rank = getattr(getattr(parts[0], "shape", None), "rank", None)
    if rank not in (3, 4) or len(parts) > 3:
        raise InputError(
            f"{argument} must hold images (height, width, channels), batched or not, alone or as "
            f"(image, label). Received: {spec}"
        )
    data = data.map(lambda *parts: parts[:2])  # ignores sample weights
    if rank == 4:
        data = data.unbatch()
    if limit is not None:
        data = data.take(limit)
    elif data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise InputError(f"{argument} must come to an end: use .take(n). Received: endless data")
    elements: Iterator[tuple[Any, ...]] = data.as_numpy_iterator()
    return elements


def _as_pixels(images: np.ndarray[Any, Any], argument: str) -> np.ndarray[Any, Any]:
    if images.dtype == np.uint8:
        return images
    if not (images.min() >= 0 and images.max() <= 255) or 0 < images.max() <= 1:  # NaN: neither
        raise InputError(
            f"{argument} needs pixels of 0 to 255, as a camera gives them, not normalized ones. "
            f"Received: {images.dtype} values from {images.min():.3g} to {images.max():.3g}"
        )
    pixels: np.ndarray[Any, Any] = np.rint(images).astype(np.uint8)
    return pixels


def _class_numbers(labels: np.ndarray[Any, Any], argument: str) -> np.ndarray[Any, Any]:
    if labels.dtype.kind not in "biuf":
        raise InputError(
            f"{argument} needs class numbers or one-hot rows as labels. "
            f"Received: {labels[0].tolist()!r}"
        )
    one_hot = labels.ndim == 2 and labels.shape[1] > 1
    return labels.argmax(1) if one_hot else labels.reshape(-1)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Comparison of an export with its model on the same images.

    Attributes:
        n: Number of images.
        agreement: Fraction of images on which both give the same class, 0 to 1.
        max_difference: Largest difference between a probability and the float32 model's.
        mean_difference: Mean difference between the probabilities and the float32 model's.
        accuracy: Top-1 accuracy of the export, 0 to 1; None if the images have no labels.
        model_accuracy: Top-1 accuracy of the model, 0 to 1; None if the images have no labels.
        mass_error: Largest difference between the sum of an image's probabilities and 1.
        model_classes: Number of different classes that the model predicts.
        lost: Number of images that the model alone gets right; 0 if the images have no labels.
        won: Number of images that the export alone gets right; 0 if the images have no labels.
        coverage: Fraction of images that the export answers at its score threshold, 0 to 1; None
            without one.
        model_coverage: Fraction of images that the model answers at its own; None without one.
    """

    n: int
    agreement: float
    max_difference: float
    mean_difference: float
    accuracy: float | None
    model_accuracy: float | None
    mass_error: float
    model_classes: int
    lost: int = 0
    won: int = 0
    coverage: float | None = None
    model_coverage: float | None = None

    def interval(self, fraction: float) -> tuple[float, float]:
        """95 % confidence interval of a fraction of the images, such as `accuracy`."""
        return interval(round(fraction * self.n), self.n)

    @property
    def warning(self) -> str | None:
        """Warning if agreement is uninformative, or lower than it should be, else None."""
        if self.n > 1 and self.model_classes == 1:
            return (
                f"the model gives all {self.n:,} images the same class, so agreement and accuracy "
                "show little: compare on images of all classes"
            )
        low, high = self.interval(self.agreement)
        if self.agreement < MIN_AGREEMENT:
            return (
                f"same class for {self.agreement:.2%} of {self.n:,} images, 95 % interval "
                f"{low:.1%} to {high:.1%}, below {MIN_AGREEMENT:.0%}"
            )
        if self.n < _FEW and (self.accuracy, self.coverage) != (None, None):  # not noise
            return f"{self.n} images show little: up to {1 - low:.0%} of answers may differ"
        return None

    def fault(
        self, max_difference: float | None, min_agreement: float = MIN_AGREEMENT
    ) -> str | None:
        """One-line description of the first limit that is exceeded, or None.

        A file is refused if the 95 % interval of the agreement is below `min_agreement`, the
        agreement is below 95 %, or it is less accurate than the model beyond chance (McNemar's
        exact test, one-sided, 5 %).

        Args:
            max_difference: Largest allowed difference of a probability; None for any.
            min_agreement: Smallest allowed agreement, 0 to 1; 0 skips the checks of agreement,
                accuracy and coverage.
        """
        where = f"on {self.n:,} images"
        nearer = "; tflite-float16 or tflite stays nearer" if max_difference is None else ""
        if not self.mass_error < 0.01:
            return (
                f"the export's outputs do not sum to 1 {where}, so they are not probabilities: "
                "the model must end in a softmax, or give logits"
            )
        _, high = self.interval(self.agreement)
        least = min_agreement if high < min_agreement else min(_FLOOR, min_agreement)
        if self.agreement < least:
            return (
                f"the export gives the model's class for {self.agreement:.2%} {where}, below "
                f"{least:.2%} (min_agreement={min_agreement:.2%}){nearer}"
            )
        differing = self.lost + self.won
        if min_agreement and binom.sf(self.lost - 1, differing, 0.5) < _CHANCE and differing:
            return (
                f"the export is less accurate than the model beyond chance: {self.accuracy:.2%} "
                f"and {self.model_accuracy:.2%} {where}{nearer}"
            )
        if min_agreement and self.coverage is not None and self.model_coverage is not None:
            difference = abs(self.coverage - self.model_coverage)
            if difference > max(_COVERAGE_TOLERANCE, 1 / self.n):
                return (
                    f"the export answers {self.coverage:.2%} {where} at its score threshold, the "
                    f"model {self.model_coverage:.2%}"
                )
        if max_difference is not None and self.max_difference > max_difference:
            return (
                "the export's probabilities differ from the model's by up to "
                f"{self.max_difference:.2g} {where}, more than {max_difference:g}"
            )
        return None

    def to_dict(self) -> dict[str, Any]:
        """Figures and their intervals for JSON, with infinity and NaN as None."""
        figures: dict[str, Any] = {}
        for name, value in dataclasses.asdict(self).items():
            figures[name] = None if value is None or not np.isfinite(value) else value
            if name in ("agreement", "accuracy", "model_accuracy", "coverage", "model_coverage"):
                figures[f"{name}_interval"] = value if value is None else list(self.interval(value))
        return figures


def compare(
    exported: Predict,
    model: keras.Model,
    batches: Iterable[Batch],
    thresholds: tuple[float | None, float | None] = (None, None),
) -> Comparison:
    """Runs an export and its model, as it was trained, on the same pixels.

    Classes are compared with those of the model, probabilities with those of its float32 twin,
    which leaves out the rounding of mixed precision. All batches have labels, or none has.
    `thresholds` are the score thresholds of the export and of the model.
    """
    twin = float32_twin(model)
    predict_twin = _predictor(twin)
    predict_model = predict_twin if twin is model else _predictor(model)
    rows: list[tuple[Any, ...]] = []
    for pixels, labels in batches:
        with _whole_float32():
            got, exact = exported(pixels), predict_twin(pixels)
        model_top = (exact if twin is model else predict_model(pixels)).argmax(1)
        error, mass_error = abs(got - exact), abs(got.sum(1) - 1)
        highest = (got.max(1), exact.max(1))
        row = (got.argmax(1), model_top, error.max(1), error.mean(1), mass_error, *highest, labels)
        rows.append(row)
    *columns, numbers = zip(*rows, strict=True)
    top, model_top, largest, mean, mass_error, *both = map(np.concatenate, columns)
    true = None if numbers[0] is None else np.concatenate(numbers)
    right, model_right = (x == true if true is not None else x != x for x in (top, model_top))
    coverages = (
        None if threshold is None else float((highest >= threshold).mean())
        for highest, threshold in zip(both, thresholds, strict=True)
    )
    return Comparison(
        n=len(top),
        agreement=float((top == model_top).mean()),
        # NaN counts as an infinite error
        max_difference=float(np.nan_to_num(largest, nan=np.inf).max()),
        mean_difference=float(mean.mean()),
        accuracy=None if true is None else float(right.mean()),
        model_accuracy=None if true is None else float(model_right.mean()),
        mass_error=float(np.nan_to_num(mass_error, nan=np.inf).max()),
        model_classes=len(np.unique(model_top)),
        lost=int((model_right & ~right).sum()),
        won=int((right & ~model_right).sum()),
        coverage=next(coverages),
        model_coverage=next(coverages),
    )


def _predictor(model: keras.Model) -> Predict:
    # a concrete function, because TensorFlow warns of several functions made at one line
    pixels = tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8)
    function = tf.function(lambda x: probabilities(model, x), [pixels]).get_concrete_function()
    return lambda pixels: function(tf.convert_to_tensor(pixels)).numpy()


@contextlib.contextmanager
def _whole_float32() -> Iterator[None]:
    """Turns off TF32, GPU arithmetic with 10 of float32's 23 bits and errors of up to 1e-3."""
    config = tf.config.experimental
    before = config.tensor_float_32_execution_enabled()
    config.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        config.enable_tensor_float_32_execution(before)


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """Report on an exported file, compared with its model.

    Attributes:
        path: Path of the file or folder.
        format: One of `files.EXPORTS`, such as `"tflite-int8"`.
        size_bytes: Size of the file, or of all files in the folder.
        comparison: Comparison of the export with the model on the same images.
        latency_ms: Median time of one image at batch size 1, on one thread per CPU.
        operators: Number of operators of a .tflite or .onnx file by name.
        fault: Why the file failed, in one line; None if it passed.
        threshold: Score threshold of the file; that of a quantized file may be its own.
        seen: Whether the model was trained on the images, so that accuracy on them means nothing.
    """

    path: Path
    format: str
    size_bytes: int
    comparison: Comparison
    latency_ms: float
    operators: dict[str, int] = dataclasses.field(default_factory=dict)
    fault: str | None = None
    threshold: float | None = None
    seen: bool = False

    def __str__(self) -> str:
        found = self.comparison
        accuracy = "accuracy not measured"
        if found.accuracy is not None:
            accuracy = f"top-1 {found.accuracy:.2%} (model {found.model_accuracy:.2%})"
        return (
            f"{self.path}: {self.format}, {self.size_bytes / 1e6:.2f} MB, {self.latency_ms:.2f} ms "
            f"an image, agreement {found.agreement:.2%}, largest difference "
            f"{found.max_difference:.1e}, {accuracy}, n = {found.n}"
            + (", seen in training" if self.seen else "")
            + ("" if found.warning is None else f"; {found.warning}")
        )

    def table(self) -> str:
        """Figures for a terminal of 80 columns, one per line."""
        found = self.comparison
        rows = {
            "file": f"{self.path}, {self.format}, {self.size_bytes / 1e6:.2f} MB",
            "top-1": self._fraction(found.accuracy),
            "model's top-1": self._fraction(found.model_accuracy),
            "same class": self._fraction(found.agreement),
        }
        if found.coverage is not None and found.model_coverage is not None:
            rows["answered"] = f"{found.coverage:.2%} (model {found.model_coverage:.2%})"
        rows["difference"] = (
            f"{found.max_difference:.1e} at most, {found.mean_difference:.1e} on average, "
            "of a probability"
        )
        rows["latency"] = f"{self.latency_ms:.2f} ms an image (median), {cpu_count()} threads"
        if self.operators:
            built_in = "; all of them built in" if self.format.startswith("tflite") else ""
            rows["operators"] = counts_text(self.operators) + built_in
        if found.warning is not None:
            rows["warning"] = found.warning
        rows["verdict"] = "passed" if self.fault is None else "failed"
        return facts_table(rows)

    def _fraction(self, value: float | None) -> str:
        if value is None:
            why = "were seen in training" if self.seen else "have no labels"
            return f"not measured: the images {why}"
        return in_words(value, self.comparison.interval(value), self.comparison.n)

    def to_dict(self) -> dict[str, Any]:
        """Figures for JSON."""
        return {
            "file": self.path.name,
            "format": self.format,
            "passed": self.fault is None,
            "fault": self.fault,
            "warning": self.comparison.warning,
            "size_bytes": self.size_bytes,
            **self.comparison.to_dict(),
            "operators": self.operators,
            "threshold": self.threshold,
            "latency_ms": self.latency_ms,
            "threads": cpu_count(),
            "seen_in_training": self.seen,
        }


def report_file(path: Path) -> Path:
    """Path of an exported file's report: `<name>.json` beside it."""
    path = path.absolute()
    return path.with_name(f"{path.name}.json")


def write_report(path: Path, figures: dict[str, Any]) -> None:
    """Writes the report of the exported file `path`, with the environment of its making."""
    with staged(report_file(path)) as new:
        _write_figures(new, figures)


def _write_figures(path: Path, figures: dict[str, Any]) -> None:
    path.write_text(to_json({**figures, "environment": environment()}), encoding="utf-8")


def check_report_file(path: Path) -> None:
    """Raises InputError if `<name>.json` exists and is not the report of an export."""
    check_destination(report_file(path), _is_report, "the report of an export")


def _is_report(path: Path) -> bool:
    try:
        return "passed" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


@contextlib.contextmanager
def _full_disk_told(path: Path) -> Iterator[None]:
    """Turns the errors of TensorFlow and of converters on a full disk into InputError."""
    try:
        yield
    except (tf.errors.OpError, ExportError) as error:
        too_large = isinstance(error, tf.errors.OutOfRangeError)  # of a file-size limit or of FAT32
        if "No space left on device" not in str(error) and not too_large:
            raise
        why = "file too large" if too_large else "no space left on device"
        raise InputError(
            f"{path} cannot be written: {why}. Free some space, or give another path"
        ) from None


def export_verified(
    format_: str,
    path: Path,
    model: keras.Model,
    write: Callable[[keras.Model, Path], ExportedFile],
    *,
    spec: ClassifierSpec,
    shape: tuple[int, ...],
    batches: Iterator[Batch] | None,
    min_agreement: float = MIN_AGREEMENT,
) -> ExportReport:
    """Writes an exported file and its report if the file gives the model's answers.

    `write` writes a float32 model to a path and opens it with its own runtime. The file is compared
    with the model, as it was trained, on `batches` or, without them, on noise of this shape. At
    `path`, only an earlier export is replaced.
    """
    if format_ == "saved_model":
        check_destination(path, is_saved_model, "a SavedModel")
    else:
        check_destination(path, Path.is_file, "a file")
    check_report_file(path)
    twin, on_noise = float32_twin(model), batches is None
    if batches is None:  # noise shows whether arithmetic is equal, not how accurate the file is
        pixels = np.random.default_rng(0).integers(0, 256, (_NOISE_IMAGES, *shape), dtype=np.uint8)
        batches, model, min_agreement = iter([(pixels, None)]), twin, 0.0
    # The first batch is read now, to refuse unsuitable images before minutes of conversion
    batches = itertools.chain([next(batches)], batches)
    with _full_disk_told(path), staged(report_file(path)) as figures, staged(path) as new:
        exported = write(twin, new)
        own = exported.spec.threshold if exported.spec is not None else None
        thresholds = (None, None) if on_noise else (own, spec.threshold)
        comparison = compare(exported, model, batches, thresholds)
        if fault := comparison.fault(EXPORTS[format_].max_difference, min_agreement):
            raise ExportError(f"{fault}; nothing was written")
        report = ExportReport(
            path=path,
            format=format_,
            size_bytes=size_bytes(new),
            comparison=comparison,
            latency_ms=latency_ms(exported, shape),
            operators=exported.operators,
            threshold=own,
        )
        _write_figures(figures, report.to_dict())
    return report
