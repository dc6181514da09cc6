"""How fast, how large and how good a run's model and its exported files are, side by side."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_resnet18.data.pipeline import sample_batches
from keras_resnet18.data.sources import open_source
from keras_resnet18.errors import InputError
from keras_resnet18.evaluation.accuracy import broken_images_named
from keras_resnet18.figures.plots import plot_benchmark
from keras_resnet18.formats import EXPORTED, PREPROCESS_FILE, check_format, format_of
from keras_resnet18.machine import cpu_count, environment
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.run import load_run, open_model, run_of
from keras_resnet18.runtime.classifier import open_classifier, open_images
from keras_resnet18.runtime.worker import Round
from keras_resnet18.staging import check_destination, staged, to_json
from keras_resnet18.verification.report import size_bytes

ROUNDS = 3
SECONDS = 2.0

# Enough to see a lost point of accuracy, as when they are exported.
IMAGES = 1000

# For the estimate alone: what a process needs until it is warm, on a slow CPU.
_START, _START_TENSORFLOW = 1.5, 7.0


@dataclasses.dataclass(frozen=True)
class Result:
    """A file on so many threads.

    Attributes:
        path: The file, or a SavedModel's folder.
        name: The end of its path that tells it from the others.
        threads: How many it computed with.
        runtime: What ran it, with its version.
        size_bytes: Of the file, or of all files of the folder.
        accuracy: Top-1 on the test images, 0 to 1; None if there are none.
        n: How many these are.
        rounds: What was measured, in the order of the rounds.
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
        """Median time of one image in milliseconds, the median of the rounds'."""
        return statistics.median(turn.median_ms for turn in self.rounds)

    @property
    def p90_ms(self) -> float:
        """90th percentile of one image's time in milliseconds, the median of the rounds'."""
        return statistics.median(turn.p90_ms for turn in self.rounds)

    @property
    def images_per_second(self) -> float:
        """Images a second, one after the other, the median of the rounds'."""
        return statistics.median(turn.images_per_second for turn in self.rounds)

    @property
    def peak_mib(self) -> float | None:
        """The most memory resident in any round, with Python and the runtime, in MiB, if known."""
        return max(
            (turn.peak_mib for turn in self.rounds if turn.peak_mib is not None), default=None
        )

    def to_dict(self) -> dict[str, Any]:
        """The figures, and every round's, ready for JSON."""
        return {
            **dataclasses.asdict(self),
            "path": str(self.path),
            "median_ms": self.median_ms,
            "p90_ms": self.p90_ms,
            "images_per_second": self.images_per_second,
            "peak_mib": self.peak_mib,
        }


def benchmark(
    paths: Sequence[str | os.PathLike[str]],
    *,
    data: str | None = None,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    json_file: str | os.PathLike[str] | None = None,
    plot_file: str | os.PathLike[str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Result]:
    """Measures each file on the CPU, on one thread and on one for each that may be used.

    Every measurement is a process of its own, and in each round every file has its turn, so that a
    machine whose speed drifts treats them alike.

    Args:
        paths: Runs, each for its model and all files of its export folder; .tflite, .onnx and
            .keras files; SavedModels' folders.
        data: The source of the test images for top-1; by default each run's own. Of a .keras
            file that is in no run the classes are taken to be the images', in their order.
        rounds: How often each has its turn.
        seconds: How long a turn is, without start and warm-up.
        json_file: Where to write the figures of every round, with this machine's.
        plot_file: Where to draw accuracy against latency, a .png file.
        say: Is given a line for the person now and then.

    Returns:
        For each file, in the order given, a result on one thread and one on all.

    Raises:
        InputError: If a path is none of these, a file cannot be run, the images are not those of
            its classes, or a file to write has no place. Nothing is written then.
    """
    if rounds < 1 or not seconds > 0:
        raise InputError(
            "a benchmark needs 1 round or more, and more than 0 seconds. "
            f"Received: rounds={rounds}, seconds={seconds:g}"
        )
    for out, suffix in ((json_file, ".json"), (plot_file, ".png")):
        if out is not None:
            _check_output(Path(out), suffix)
    files = _unique([file for path in paths for file in _files(Path(path), say)])
    names = short_names(files)
    threads = sorted({1, cpu_count()})
    with tempfile.TemporaryDirectory() as folder:
        tests = _Tests(Path(folder), data, say)
        images = [tests.of(file) for file in files]
        if plot_file is not None and not any(images):
            raise InputError(
                "a plot of accuracy against latency needs test images. Received: no --data, and "
                "no file of a run whose images are there"
            )
        say(_plan(files, threads, rounds, seconds))
        scores = {}
        for name, file, test in zip(names, files, images, strict=True):
            scores[file] = (test.accuracy(file), len(test.labels)) if test else (None, 0)
            if test:
                say(f"{name}  top-1 {scores[file][0]:.2%} of {scores[file][1]:,} test images")
    turns: dict[tuple[str, Path, int], list[tuple[str, Round]]] = {
        (name, file, count): []
        for name, file in zip(names, files, strict=True)
        for count in threads
    }
    for number in range(1, rounds + 1):
        for (name, file, count), measured in turns.items():
            measured.append(_turn(file, count, seconds))
            milliseconds = f"{measured[-1][1].median_ms:.3g} ms"
            say(f"round {number}/{rounds}  {name}  {_threads([count])}  {milliseconds}")
    results = [
        Result(
            path=file,
            name=name,
            threads=count,
            runtime=measured[0][0],
            size_bytes=size_bytes(file),
            accuracy=scores[file][0],
            n=scores[file][1],
            rounds=tuple(turn for _, turn in measured),
        )
        for (name, file, count), measured in turns.items()
    ]
    if json_file is not None:
        _write_json(Path(json_file), results, seconds)
    if plot_file is not None:
        with staged(Path(plot_file)) as new:
            plot_benchmark([result.to_dict() for result in results], new)
    return results


def _check_output(path: Path, suffix: str) -> None:
    if path.suffix != suffix:
        raise InputError(f"the file to write must end in {suffix}. Received: {path}")
    check_destination(path, Path.is_file, "file")


def _files(path: Path, say: Callable[[str], None]) -> list[Path]:
    """What there is to measure at a path: the file itself, or a run's model and exports."""
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


@dataclasses.dataclass(frozen=True)
class _Test:
    """Test images as a file takes them, stored for the processes that run it."""

    pixels: Path
    labels: npt.NDArray[np.int64]

    def accuracy(self, file: Path) -> float:
        predicted = _work(file, cpu_count(), str(self.pixels))
        return float((np.array(predicted) == self.labels).mean())


class _Tests:
    """The test images of each file; those of one run are decoded once."""

    def __init__(self, folder: Path, data: str | None, say: Callable[[str], None]) -> None:
        self._folder, self._data, self._say = folder, data, say
        self._known: dict[Any, _Test | None] = {}

    def of(self, file: Path) -> _Test | None:
        if (run := run_of(file)) is not None:
            key = run.labels, run.preprocess, self._data or run.source
        elif self._data is not None and format_of(file) == "keras":
            key = (*_of_model(file, self._data), self._data)
        elif self._data is not None:
            classifier = open_classifier(file)
            key = classifier.labels, classifier.preprocess, self._data
        else:
            return None
        if key not in self._known:
            self._known[key] = self._open(*key)
        return self._known[key]

    def _open(
        self, labels: tuple[str, ...], preprocess: Preprocess, name: str | None
    ) -> _Test | None:
        try:
            source = open_images(labels, name, self._data)
        except InputError as error:
            if self._data is not None:
                raise
            self._say(f"top-1 is not measured: {error}")
            return None
        images, transform = source.splits["test"], preprocess.resize_and_crop
        batches = sample_batches(images, transform, limit=IMAGES)
        with broken_images_named():
            pixels, targets = zip(*batches.as_numpy_iterator(), strict=True)
        file = self._folder / f"{len(self._known)}.npy"
        np.save(file, np.concatenate(pixels))
        return _Test(file, np.concatenate(targets))


def _of_model(file: Path, data: str) -> tuple[tuple[str, ...], Preprocess]:
    """Labels and preprocessing of a .keras file that is in no run.

    It has no names for its classes: they are the images', in their order, if they are as many.
    What is done to images is in `preprocess.json` beside it; without, the size alone is known.
    """
    model = open_model(file)
    labels = open_source(data).classes
    shapes = model.input_shape, model.output_shape
    try:
        (_, *size, channels), (_, classes) = shapes
        fits = (len(size), channels, classes) == (2, 3, len(labels))
    except (TypeError, ValueError):  # of several inputs or outputs, or of other ranks
        fits = False
    if not fits:
        raise InputError(
            f"top-1 on {data} needs a model of (batch, height, width, 3) pixels in "
            f"{len(labels)} classes. Received: {file}, {shapes[0]} to {shapes[1]}: give other "
            "images, or measure it without --data"
        )
    beside = file.with_name(PREPROCESS_FILE)
    if beside.is_file():
        return labels, Preprocess.read(beside)
    if None in size:
        raise InputError(
            f"top-1 needs images of one size, and {file} takes any: put a {PREPROCESS_FILE} "
            f"beside it, or measure it without --data. Received: no {PREPROCESS_FILE}"
        )
    return labels, Preprocess(size=tuple(size))


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


def _turn(file: Path, threads: int, seconds: float) -> tuple[str, Round]:
    figures = _work(file, threads, str(seconds))
    return figures.pop("runtime"), Round(**figures)


def _work(file: Path, threads: int, work: str) -> Any:
    """What the worker prints, from a process of its own.

    Raises:
        InputError: If it failed; the message has the last line of what it said.
    """
    home = str(Path(__file__).parents[1])  # the package need not be installed
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "keras_resnet18.runtime.worker"),
            *(str(file.absolute()), str(threads), work),
        ],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH")))),
            "KERAS_BACKEND": "tensorflow",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"]
        raise InputError(f"{file} cannot be measured: {said[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def _write_json(path: Path, results: Sequence[Result], seconds: float) -> None:
    document = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "seconds": seconds,
        "results": [result.to_dict() for result in results],
    }
    with staged(path) as new:
        new.write_text(to_json(document), "utf-8")
