"""Report on an exported file: figures for a person, and as JSON beside the file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from keras_resnet18.classify.accuracy import in_words
from keras_resnet18.classify.table import counts_text, facts_table
from keras_resnet18.exporters.compare import Comparison
from keras_resnet18.files import check_destination, to_json
from keras_resnet18.machine import cpu_count, environment


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """An exported file and its comparison with the model.

    Attributes:
        path: Path of the file or folder.
        format: One of `formats.EXPORTS`, such as `"tflite-int8"`.
        size_bytes: Size of the file, or of all files in the folder.
        comparison: Comparison of the export with the model on the same images.
        latency_ms: Median time of one image at batch 1, on one thread for each CPU.
        operators: Number of operators of a .tflite or .onnx file by name.
        fault: Why the file failed, in one line; None if it passed.
        threads: Number of threads that the latency was measured on.
    """

    path: Path
    format: str
    size_bytes: int
    comparison: Comparison
    latency_ms: float
    operators: dict[str, int] = dataclasses.field(default_factory=dict)
    fault: str | None = None
    threads: int = dataclasses.field(default_factory=cpu_count)

    def __str__(self) -> str:
        found = self.comparison
        accuracy = (
            "accuracy not measured"
            if found.accuracy is None
            else f"top-1 {found.accuracy:.2%} (model {found.model_accuracy:.2%})"
        )
        return (
            f"{self.path}: {self.format}, {self.size_bytes / 1e6:.2f} MB, {self.latency_ms:.2f} ms "
            f"an image, agreement {found.agreement:.2%}, largest difference "
            f"{found.max_difference:.1e}, {accuracy}, n = {found.n}"
            + ("" if found.warning is None else f"; {found.warning}")
        )

    def table(self) -> str:
        """The figures, one a line, for a terminal of 80 columns."""
        found = self.comparison
        rows = {
            "file": f"{self.path}, {self.format}, {self.size_bytes / 1e6:.2f} MB",
            "top-1": self._fraction(found.accuracy),
            "model's top-1": self._fraction(found.model_accuracy),
            "same class": self._fraction(found.agreement),
            "difference": f"{found.max_difference:.1e} at most, {found.mean_difference:.1e} on "
            "average, of a probability",
            "latency": f"{self.latency_ms:.2f} ms an image (median), {self.threads} threads",
        }
        if self.operators:
            counts = counts_text(self.operators)
            built_in = "; all of them built in" if self.format.startswith("tflite") else ""
            rows["operators"] = counts + built_in
        if found.warning is not None:
            rows["warning"] = found.warning
        rows["verdict"] = "passed" if self.fault is None else "failed"
        return facts_table(rows)

    def _fraction(self, value: float | None) -> str:
        if value is None:
            return "not measured: the images have no labels"
        return in_words(value, self.comparison.interval(value), self.comparison.n)

    def to_dict(self) -> dict[str, Any]:
        """The figures, for JSON."""
        return {
            "file": self.path.name,
            "format": self.format,
            "passed": self.fault is None,
            "fault": self.fault,
            "warning": self.comparison.warning,
            "size_bytes": self.size_bytes,
            **self.comparison.to_dict(),
            "operators": self.operators,
            "latency_ms": self.latency_ms,
            "threads": self.threads,
        }


def report_file(path: Path) -> Path:
    """Path of an exported file's figures: `<name>.json` beside it."""
    path = path.absolute()
    return path.with_name(f"{path.name}.json")


def write_figures(path: Path, figures: dict[str, Any]) -> None:
    """Writes figures and the machine that they were measured on as JSON."""
    path.write_text(to_json({**figures, "environment": environment()}), encoding="utf-8")


def check_report_file(path: Path) -> None:
    """Raises InputError if `<name>.json` exists and is not the report of an export."""
    check_destination(report_file(path), _is_report, "the report of an export")


def _is_report(path: Path) -> bool:
    try:
        return "passed" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False
