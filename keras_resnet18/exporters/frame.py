"""What every exporter does around its own conversion: check, write aside, run, compare, report."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import keras

from keras_resnet18.runtime.exported import Predict, latency_ms
from keras_resnet18.staging import check_destination
from keras_resnet18.verification import compare, diagnose, reference
from keras_resnet18.verification.pixels import Batch, noise
from keras_resnet18.verification.report import (
    ExportReport,
    check_report_file,
    size_bytes,
    staged_with_figures,
    write_figures,
)

# Writes a float32 model to a path, and opens it: the file, and its op histogram.
Make = Callable[[keras.Model, Path], tuple[Predict, dict[str, int]]]


def export_verified(
    model: keras.Model,
    path: str | os.PathLike[str],
    make: Make,
    *,
    format: str,
    shape: tuple[int, ...],
    images: Iterator[Batch] | None,
    limits: compare.Limits,
    replaceable: Callable[[Path], bool] = Path.is_file,
    kind: str = "file",
) -> ExportReport:
    """Writes a model with `make`, and keeps what it wrote if it gives the model's answers.

    Args:
        model: The model as it was trained.
        path: What to write.
        make: The conversion; it receives the model's float32 twin.
        format: What the report calls it.
        shape: (height, width, channels) of the pixels that the file takes.
        images: To compare on; None for noise, on which only the arithmetic is compared.
        limits: How far from the model the answers may be.
        replaceable: Whether what is at `path` may be replaced.
        kind: What an error calls a replaceable thing.

    Raises:
        InputError: If something else is at `path`.
        ExportError: If the answers are not the model's. Nothing is written then.
    """
    path = Path(path)
    check_destination(path, replaceable, kind)
    check_report_file(path)
    twin = reference.float32_twin(model)
    if images is None:
        images, model = noise(shape), twin
        limits = compare.Limits(0.0, limits.max_difference)
    images = itertools.chain([next(images)], images)  # useless images are found before the work
    with staged_with_figures(path) as (new, figures):
        file, operators = make(twin, new)
        in_file = new if format.startswith("tflite") else None
        comparison, fault = diagnose.compare_and_diagnose(file, model, images, limits, in_file)
        compare.gate(fault)
        report = ExportReport(
            path=path,
            format=format,
            size_bytes=size_bytes(new),
            comparison=comparison,
            latency_ms=latency_ms(file, shape),
            operators=operators,
        )
        write_figures(figures, report.to_dict())
    return report
