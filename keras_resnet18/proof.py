"""An exported file beside the run that it was made from, both run on the same pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_resnet18.classifier import open_pictures
from keras_resnet18.data.pipeline import eval_batches
from keras_resnet18.data.splits import Kind, Order
from keras_resnet18.errors import ExportError, InputError
from keras_resnet18.evaluate import broken_pictures_named
from keras_resnet18.export import diagnose, serving, verify
from keras_resnet18.export.flatbuffer import read_labels
from keras_resnet18.export.pixels import Batch
from keras_resnet18.export.report import (
    ExportReport,
    check_report_file,
    report_file,
    write_figures,
)
from keras_resnet18.export.runtime import TFLiteFile
from keras_resnet18.run import Run, load_run
from keras_resnet18.staging import staged

_BATCH_SIZE = 32


def prove(
    path: str | os.PathLike[str],
    against: str | os.PathLike[str],
    *,
    data: str | None = None,
    split: Kind = "test",
) -> ExportReport:
    """Runs an exported file and a run's model on the same pictures, and tells every difference.

    The file must keep the limits that an export of its kind keeps, and hold the run's labels. The
    figures are written beside it, in `<name>.json`, whether it does or not.

    Args:
        path: The file.
        against: The folder of the finished run.
        data: The source of the pictures; by default the one that the run was trained on.
        split: Which part of them.

    Returns:
        The figures, and what is wrong.

    Raises:
        InputError: If the two cannot be compared.
        ExportError: If the file cannot be run at all; this too is written beside it.
    """
    path = Path(path)
    if Run(path).recipe_file.exists():
        raise InputError(
            f"--against compares an exported file with a run. Received: {path}, which is a run: "
            "give the file first, as in evaluate FILE --against RUN"
        )
    if not path.is_file() or path.suffix != ".tflite":
        missing = "" if path.exists() else ", which is not there"
        raise InputError(f"--against needs a .tflite file. Received: {path}{missing}")
    run = load_run(against)
    pictures = open_pictures(data or run.source, run.labels).splits[split]
    batches = eval_batches(
        pictures,
        run.preprocess.resize_and_crop,
        batch_size=_BATCH_SIZE,
        order=Order(seed=0, epoch=0),  # all classes among the first
    )
    check_report_file(path)
    try:
        report = _report(path, run, batches.as_numpy_iterator())
    except ExportError as error:
        _write(path, {"file": path.name, "passed": False, "fault": str(error)})
        raise
    _write(path, report.to_dict())
    return report


def _report(path: Path, run: Run, batches: Iterator[Batch]) -> ExportReport:
    operators = verify.check_graph(path, serving.float32_twin(run.model))
    file = TFLiteFile(path)
    _check_shapes(file, path, run)
    quantize = diagnose.quantization(path)
    limits = verify.Limits(max_difference=verify.TOLERANCES[quantize])
    with broken_pictures_named():
        comparison, fault = diagnose.prove(file, run.model, batches, limits, path)
    faults = [verify.labels_fault(read_labels(path), run.labels), fault]
    return ExportReport(
        path=path,
        format="tflite" if quantize is None else f"tflite-{quantize}",
        size_bytes=path.stat().st_size,
        comparison=comparison,
        latency_ms=file.latency_ms,
        operators=operators,
        fault="; ".join(fault for fault in faults if fault) or None,
    )


def _check_shapes(file: TFLiteFile, path: Path, run: Run) -> None:
    """Raises InputError unless file and run take the same pictures and know as many classes."""
    size, wanted = tuple(map(int, file.input["shape"][1:3])), run.preprocess.size
    if size != wanted:
        raise InputError(
            f"file and run must take pictures of one size. Received: {path} for {_by(size)}, "
            f"{run.path} for {_by(wanted)} pixels"
        )
    classes = int(file.output["shape"][1])
    if classes != len(run.labels):
        raise InputError(
            f"file and run must have the same classes. Received: {path} with {classes}, "
            f"{run.path} with {len(run.labels)}"
        )


def _by(size: tuple[int, ...]) -> str:
    return "×".join(map(str, size))


def _write(path: Path, figures: dict[str, Any]) -> None:
    try:
        with staged(report_file(path)) as new:
            write_figures(new, figures)
    except OSError as error:
        raise InputError(
            f"the figures cannot be written to {report_file(path)}: {error.strerror}"
        ) from None
