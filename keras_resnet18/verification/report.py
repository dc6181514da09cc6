"""What an export function tells about the file that it wrote."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from keras_resnet18.evaluation.interval import in_words
from keras_resnet18.machine import cpu_count, environment
from keras_resnet18.staging import check_destination, staged, to_json
from keras_resnet18.verification.compare import Comparison

_WIDTH = 80  # of a terminal


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """An exported file, and the proof of it.

    Attributes:
        path: Where it is.
        format: `"saved_model"`, `"onnx"`, `"tflite"`, or this with `"-"` and its quantisation.
        size_bytes: Of the file, or of all files of a folder.
        comparison: Of the model and the export on the same images.
        latency_ms: Median time of one image at batch 1, on a thread for each CPU.
        operators: The op histogram of a .tflite or .onnx file.
        fault: What is wrong with it, in one line; None if it passed.
        threads: How many the latency was measured with.
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
        """Every figure, a line each, for a terminal of 80 columns."""
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
            counts = operators_in_words(self.operators)
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
        """The figures, ready for JSON."""
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


def operators_in_words(histogram: Mapping[str, int]) -> str:
    """An op histogram in a line, for `facts_table`."""
    # a number stays on the line of its operator: it is no place to break
    return ", ".join(f"{name}\N{NO-BREAK SPACE}{n}" for name, n in histogram.items())


def facts_table(facts: Mapping[str, Any]) -> str:
    """A line for each fact, broken at the width of a terminal."""
    first = max(map(len, facts)) + 2
    return "\n".join(
        textwrap.fill(
            f"{name:{first}}{value}",
            _WIDTH,
            subsequent_indent=" " * first,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for name, value in facts.items()
    ).replace("\N{NO-BREAK SPACE}", " ")


def size_bytes(path: Path) -> int:
    """Of a file, or of all files of a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def report_file(path: Path) -> Path:
    """Where an exported file's figures lie: beside it, under its name and `.json`."""
    path = path.absolute()
    return path.with_name(f"{path.name}.json")


@contextlib.contextmanager
def staged_with_figures(path: Path) -> Iterator[tuple[Path, Path]]:
    """`staged` for an exported file and its figures, which take their names one after another."""
    with staged(report_file(path)) as figures, staged(path) as new:
        yield new, figures


def write_figures(path: Path, figures: dict[str, Any]) -> None:
    """Writes figures and the machine that they were measured on as JSON."""
    path.write_text(to_json({**figures, "environment": environment()}), encoding="utf-8")


def check_report_file(path: Path) -> None:
    """Raises InputError if an exported file's figures would replace what is none of ours."""
    check_destination(report_file(path), _is_report, "report of an export")


def _is_report(path: Path) -> bool:
    try:
        return "passed" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False
