"""`benchmark`: speed, size, memory and top-1 of a run's model and its exported files."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import os
import statistics
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from keras_resnet18.commands.benchmark_images import open_test_images
from keras_resnet18.errors import InputError, path_of, within
from keras_resnet18.figures.plots import plot_benchmark
from keras_resnet18.formats import EXPORTED, check_format, format_of
from keras_resnet18.machine import cpu_count, environment
from keras_resnet18.run import load_run
from keras_resnet18.runtime.worker import Round, measure_apart
from keras_resnet18.staging import check_destination, staged, to_json
from keras_resnet18.verification.report import size_bytes

ROUNDS = 3
SECONDS = 2.0

# For the estimate alone: what a process needs until it is warm, on a slow CPU.
_START, _START_TENSORFLOW = 1.5, 7.0


@dataclasses.dataclass(frozen=True)
class Result:
    """Benchmark result of one file at one thread count.

    Attributes:
        path: The file, or a SavedModel's folder.
        name: The shortest end of the path that no other benchmarked file has.
        threads: Number of threads that the file computed with.
        runtime: Name and version of the program that ran the file.
        size_bytes: Size of the file, or of all files in the folder.
        accuracy: Top-1 accuracy on the test images, 0 to 1; None without test images.
        n: Number of test images.
        rounds: The measurements, one a round.
    """

    path: Path
    name: str
    threads: int
    runtime: str
    size_bytes: int
    accuracy: float | None
    n: int
    rounds: tuple[Round, ...]

    @property
    def median_ms(self) -> float:
        """Median time of one image in milliseconds, the median over the rounds."""
        return statistics.median(turn.median_ms for turn in self.rounds)

    @property
    def p90_ms(self) -> float:
        """90th percentile of the time of one image in milliseconds, the median over the rounds."""
        return statistics.median(turn.p90_ms for turn in self.rounds)

    @property
    def images_per_second(self) -> float:
        """Images a second, one after the other, the median over the rounds."""
        return statistics.median(turn.images_per_second for turn in self.rounds)

    @property
    def peak_mib(self) -> float | None:
        """Peak resident memory of any round, Python and runtime included, in MiB, if known."""
        known = [turn.peak_mib for turn in self.rounds if turn.peak_mib is not None]
        return max(known, default=None)

    def to_dict(self) -> dict[str, Any]:
        """The attributes, and the figures over all rounds, ready for JSON."""
        figures = ("median_ms", "p90_ms", "images_per_second", "peak_mib")
        over_all = {name: getattr(self, name) for name in figures}
        return dataclasses.asdict(self) | {"path": str(self.path)} | over_all


def benchmark(
    paths: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    data: str | None = None,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    json_file: str | os.PathLike[str] | None = None,
    plot_file: str | os.PathLike[str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Result]:
    """Measures latency, memory, size and top-1 accuracy of model files on the CPU.

    Each file computes on one thread, and on one for each CPU that may be used. Every measurement is
    a process of its own, and in each round every file has its turn, so that a machine whose speed
    drifts treats them alike.

    Args:
        paths: One or several: runs, each for its model and all files of its export folder; .tflite,
            .onnx and .keras files; SavedModels' folders.
        data: The source of the test images for top-1; by default each run's own. The classes of a
            .keras file outside of a run are taken to be those of the images, in their order.
        rounds: Number of measurements of each file at each thread count.
        seconds: Length of a measurement, start and warm-up excluded.
        json_file: Where to write every round's figures, and those of this machine.
        plot_file: Where to plot accuracy against latency, a .png file.
        say: Receives a line for a person at each step.

    Returns:
        For each file, in the order given, a result on one thread and one on all.

    Raises:
        InputError: If a path is not one of these, a file cannot be run, the images have other
            classes, or `json_file` or `plot_file` cannot be written. Nothing is written then.
    """
    within("rounds", rounds, rounds >= 1, "1 or more")
    within("seconds", seconds, seconds > 0, "more than 0")
    for out, suffix in ((json_file, ".json"), (plot_file, ".png")):
        if out is not None:
            _check_output(Path(out), suffix)
    several = paths if isinstance(paths, Iterable) and not isinstance(paths, str) else [paths]
    given = [path_of(path, "paths of runs and model files") for path in several]
    files = _unique([file for path in given for file in _files(path, say)])
    names = short_names(files)
    threads = sorted({1, cpu_count()})
    with tempfile.TemporaryDirectory() as folder:
        images = open_test_images(files, data, Path(folder), say)
        if plot_file is not None and not any(images):
            raise InputError(
                "a plot of accuracy against latency needs test images. Received: no --data, and "
                "no file of a run whose images are there"
            )
        say(_plan(files, threads, rounds, seconds))
        top_1: list[tuple[float | None, int]] = []
        for name, file, test in zip(names, files, images, strict=True):
            top_1.append((test.accuracy(file), len(test.labels)) if test else (None, 0))
            if test:
                say(f"{name}  top-1 {top_1[-1][0]:.2%} of {top_1[-1][1]:,} test images")
    measured = _measure_in_turns(files, names, threads, rounds, seconds, say)
    results = []
    for file, name, (accuracy, n) in zip(files, names, top_1, strict=True):
        for count in threads:
            (runtime, *_), turns = zip(*measured[file, count], strict=True)
            results.append(
                Result(file, name, count, runtime, size_bytes(file), accuracy, n, rounds=turns)
            )
    if json_file is not None:
        _write_json(Path(json_file), results, seconds)
    if plot_file is not None:
        with staged(Path(plot_file)) as new:
            plot_benchmark([result.to_dict() for result in results], new)
    return results


def _measure_in_turns(
    files: Sequence[Path],
    names: Sequence[str],
    threads: Sequence[int],
    rounds: int,
    seconds: float,
    say: Callable[[str], None],
) -> dict[tuple[Path, int], list[tuple[str, Round]]]:
    """For each file and number of threads, the runtime and the figures of each round."""
    measured = collections.defaultdict(list)
    for number in range(1, rounds + 1):
        for file, name in zip(files, names, strict=True):
            for count in threads:
                runtime, turn = measure_apart(file, count, seconds)
                measured[file, count].append((runtime, turn))
                ms = f"{turn.median_ms:.3g} ms"
                say(f"round {number}/{rounds}  {name}  {_threads([count])}  {ms}")
    return measured


def _check_output(path: Path, suffix: str) -> None:
    if path.suffix != suffix:
        raise InputError(f"the file to write must end in {suffix}. Received: {path}")
    check_destination(path, Path.is_file, "a file")


def _files(path: Path, say: Callable[[str], None]) -> list[Path]:
    """The model files at a path: the file itself, or a run's model and exports."""
    if check_format(path, "run", "keras", *EXPORTED) != "run":
        return [path]
    run = load_run(path)
    exports = run.export_folder.iterdir() if run.export_folder.is_dir() else ()
    files = sorted(export for export in exports if format_of(export) in EXPORTED)
    if not files:
        say(f"{path} has no exports, so its model is measured alone: first `export {path}`")
    return [run.model_file, *files]


def _unique(files: Sequence[Path]) -> list[Path]:
    unique: dict[Path, Path] = {}
    for file in files:
        unique.setdefault(file.resolve(), file)
    return list(unique.values())


def short_names(files: Sequence[Path]) -> list[str]:
    """The shortest end of each path that no other path has."""
    ends = [file.resolve().parts[::-1] for file in files]

    def name(parts: tuple[str, ...]) -> str:
        length = next(
            n
            for n in range(1, len(parts) + 1)
            if sum(other[:n] == parts[:n] for other in ends) == 1
        )
        return "/".join(parts[:length][::-1])

    return [name(parts) for parts in ends]


def _plan(files: Sequence[Path], threads: Sequence[int], rounds: int, seconds: float) -> str:
    starts = sum(
        _START if format_of(file) in ("tflite", "onnx") else _START_TENSORFLOW for file in files
    )
    turns = rounds * len(threads)
    minutes = turns * (starts + 1.25 * seconds * len(files)) / 60
    about = f"{minutes:.0f} minutes" if minutes >= 1.5 else "a minute"
    return (
        f"{_plural(len(files), 'file')} on {_threads(threads)}, "
        f"{_plural(rounds, 'round')} of {seconds:g} s: about {about}, and the test images"
    )


def _threads(counts: Sequence[int]) -> str:
    *fewer, most = counts
    return "".join(f"{count} and " for count in fewer) + _plural(most, "thread")


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count > 1)}"


def _write_json(path: Path, results: Sequence[Result], seconds: float) -> None:
    document = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "seconds": seconds,
        "results": [result.to_dict() for result in results],
    }
    with staged(path) as new:
        new.write_text(to_json(document), "utf-8")
