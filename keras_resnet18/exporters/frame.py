"""The steps that every export takes: write aside, run, compare, report; only then a final name."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import keras

from keras_resnet18.errors import ExportError
from keras_resnet18.formats import EXPORTS, is_saved_model
from keras_resnet18.runtime.exported import Predict, latency_ms
from keras_resnet18.staging import check_destination, staged
from keras_resnet18.verification import reference
from keras_resnet18.verification.compare import MIN_AGREEMENT, Limits
from keras_resnet18.verification.diagnose import compare_and_diagnose
from keras_resnet18.verification.pixels import Batch, noise
from keras_resnet18.verification.report import (
    ExportReport,
    check_report_file,
    report_file,
    size_bytes,
    write_figures,
)


def export_verified(
    format_: str,
    path: Path,
    model: keras.Model,
    write: Callable[[keras.Model, Path], tuple[Predict, dict[str, int]]],
    *,
    shape: tuple[int, ...],
    batches: Iterator[Batch] | None,
    min_agreement: float = MIN_AGREEMENT,
) -> ExportReport:
    """Writes an exported file and its figures, if the file gives the model's answers.

    Args:
        format_: One of `EXPORTS`.
        path: Where; what `export` may have written there before is replaced.
        model: The model as it was trained.
        write: Writes the file of a float32 model to a path, opens it with its own runtime, and
            returns it with the number of its operators by name.
        shape: (height, width, channels) of the images that the file takes.
        batches: Images to compare on; None for noise, which shows whether arithmetic is equal.
        min_agreement: Fraction of the images, 0 to 1, that must get the class the model gives.

    Raises:
        InputError: If something else is at the path.
        ExportError: If the file does not give the model's answers. Nothing is written then.
    """
    if format_ == "saved_model":
        check_destination(path, is_saved_model, "a SavedModel")
    else:
        check_destination(path, Path.is_file, "a file")
    check_report_file(path)
    twin = reference.float32_twin(model)
    limits = Limits(min_agreement, EXPORTS[format_].max_difference)
    if batches is None:
        batches, model = noise(shape), twin
        limits = dataclasses.replace(limits, min_agreement=0.0)
    # the first batch now, so that images of no use are refused before minutes of conversion
    batches = itertools.chain([next(batches)], batches)
    with staged(report_file(path)) as figures, staged(path) as new:
        exported, operators = write(twin, new)
        tflite_file = new if format_.startswith("tflite") else None
        comparison, fault = compare_and_diagnose(exported, model, batches, limits, tflite_file)
        if fault is not None:
            raise ExportError(f"{fault}; nothing was written")
        report = ExportReport(
            path=path,
            format=format_,
            size_bytes=size_bytes(new),
            comparison=comparison,
            latency_ms=latency_ms(exported, shape),
            operators=operators,
        )
        write_figures(figures, report.to_dict())
    return report
