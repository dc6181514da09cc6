"""The steps that every export takes: write aside, run, compare, report; only then a final name."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras

from keras_resnet18.classify.exported import Predict, latency_ms
from keras_resnet18.classify.table import size_bytes
from keras_resnet18.errors import ExportError
from keras_resnet18.exporters import compare as reference
from keras_resnet18.exporters.compare import MIN_AGREEMENT, Batch, Limits, compare, noise
from keras_resnet18.exporters.report import (
    ExportReport,
    check_report_file,
    report_file,
    write_figures,
)
from keras_resnet18.files import EXPORTS, check_destination, is_saved_model, staged


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
        comparison = compare(exported, model, batches)
        if fault := limits.fault(comparison):
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


# Other people's converters, each run in a process of its own: they leak memory at every call.

# How TensorFlow's converter and tf2onnx list operators that they cannot convert
_UNSUPPORTED = re.compile(r"(?:^Custom|^TF Select|Unsupported) ops: (?:Counter)?(.+)$", re.M)

# What libraries log of other things, and how lines that tell an error look
_LOGGED = re.compile(r"[IW]\d{4} |WARNING: All log messages|.* - (INFO|WARNING) - ")
_ERROR = re.compile(r"[\w.]*(Error|Exception)\b|[EF]\d{4} |.*\berror: ")
_PREFIX = re.compile(r"^[EF]\d{4} [^]]*\] ")


def run_converter(name: str, arguments: Sequence[str], output: Path) -> None:
    """Runs a Python program that converts a model, on the CPU.

    Args:
        name: What an error calls the converter.
        arguments: Of Python: a script or `-m` and a module, and their own.
        output: The file that the converter writes.

    Raises:
        ExportError: If the converter fails, or writes an operator that it cannot convert; the
            message names the reason.
    """
    # -P: this folder's own modules must not stand in for installed ones of the same names
    done = subprocess.run(
        [sys.executable, "-P", *arguments],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if unsupported := _UNSUPPORTED.findall(done.stderr):
        names = sorted(set(re.findall(r"[A-Za-z]\w*", " ".join(unsupported))))
        raise ExportError(
            f"{name} cannot convert {', '.join(names)}: build the model without; "
            "nothing was written"
        )
    if done.returncode or not output.is_file():
        reason = _reason(done.returncode, done.stderr)
        raise ExportError(f"{name} failed: {reason}; nothing was written")


def _reason(status: int, stderr: str) -> str:
    """Why a process failed, in one line: the signal that ended it, the error that it printed."""
    lines = [line for line in stderr.splitlines() if line.strip() and not _LOGGED.match(line)]
    errors = [line for line in lines if _ERROR.match(line)] or lines
    error = textwrap.shorten(_PREFIX.sub("", errors[-1]), 300) if errors else "no message"
    if status >= 0:
        return f"{error} (status {status})"
    memory = ", as where memory runs out" if -status == signal.SIGKILL else ""
    return f"it was ended by {signal.Signals(-status).name}{memory}: {error}"
