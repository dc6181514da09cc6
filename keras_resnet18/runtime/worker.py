"""One model file in a process of its own, on the CPU: how fast it is, or what it answers.

    python -m keras_resnet18.runtime.worker FILE THREADS SECONDS
    python -m keras_resnet18.runtime.worker FILE THREADS IMAGES.npy

Prints JSON: `Round`'s figures of one image after the other, or the classes of the images, uint8
(n, height, width, 3). A .tflite file is run without TensorFlow, so that the memory is a client's.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet18.errors import InputError
from keras_resnet18.formats import EXPORTED, check_format
from keras_resnet18.machine import native_stderr_hidden, prepare_tensorflow

# From uint8 pixels (n, height, width, channels) to probabilities (n, classes)
Predict = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]

# Before the clock counts: the first calls trace a graph, pack weights and fill the caches.
_WARM_UP_CALLS = 5
_WARM_UP = 0.25  # of the time that is measured
_FEWEST_CALLS = 10  # or a 90th percentile is none
_ANY_SIDE = 224  # of an image, for models that take any


@dataclasses.dataclass(frozen=True)
class Opened:
    """A model file, ready to run.

    Attributes:
        predict: From pixels to probabilities.
        shape: (height, width, channels) of an image.
        runtime: What runs it, with its version.
    """

    predict: Predict
    shape: tuple[int, ...]
    runtime: str


@dataclasses.dataclass(frozen=True)
class Round:
    """One measurement.

    Attributes:
        images: How many were timed, each by itself, from pixels in memory to probabilities there.
        median_ms: Of one image.
        p90_ms: What nine of ten images do not exceed.
        images_per_second: One after the other.
        peak_mib: The most memory that the process ever had resident, with Python and the runtime;
            None where the system does not tell.
    """

    images: int
    median_ms: float
    p90_ms: float
    images_per_second: float
    peak_mib: float | None


def open_file(path: Path, threads: int) -> Opened:
    """Opens a .tflite, .onnx or .keras file, or a SavedModel's folder, each with its own runtime.

    Raises:
        InputError: If the runtime is missing or cannot open it.
    """
    found = check_format(path, "keras", *EXPORTED)
    if found == "keras":
        _prepare_tensorflow(threads)
        from keras_resnet18.device import fastest_jit
        from keras_resnet18.run import open_model

        model = open_model(path)
        model.compile(jit_compile=fastest_jit())  # as `predict` has it
        return Opened(
            model.predict_on_batch,
            _shape(model.input_shape[1:]),
            f"TensorFlow {metadata.version('tensorflow')}",
        )
    if found == "saved_model":
        _prepare_tensorflow(threads)
    from keras_resnet18.runtime.exported import open_exported

    file = open_exported(path, threads)
    return Opened(
        file, _shape(file.image_shape), f"{file.runtime} {metadata.version(file.package)}"
    )


def _prepare_tensorflow(threads: int) -> None:
    """Sets what TensorFlow can be told only before it starts."""
    prepare_tensorflow()
    with native_stderr_hidden():
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)


def _shape(sides: Any) -> tuple[int, ...]:
    return tuple(int(side or _ANY_SIDE) for side in sides)


def measure(predict: Callable[[Any], Any], image: Any, seconds: float) -> Round:
    """Times one call after the other, for so many seconds after a warm-up."""
    start, calls = time.perf_counter(), 0
    while calls < _WARM_UP_CALLS or time.perf_counter() - start < _WARM_UP * seconds:
        predict(image)
        calls += 1
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < _FEWEST_CALLS or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        predict(image)
        times.append(time.perf_counter() - before)
    return Round(
        images=len(times),
        median_ms=1000 * float(np.median(times)),
        p90_ms=1000 * float(np.quantile(times, 0.9)),
        images_per_second=len(times) / sum(times),
        peak_mib=peak_mib(),
    )


def peak_mib() -> float | None:
    """The most memory that this process ever had resident, in MiB; None if it is not known."""
    status = Path("/proc/self/status")
    if status.exists():
        # ru_maxrss would do, but on Linux a process inherits it from the one that started it
        lines = status.read_text().splitlines()
        peak = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
        return None if peak is None else int(peak) / 2**10
    try:
        import resource
    except ImportError:  # Windows
        return None
    # macOS counts in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def classes(predict: Predict, pixels: np.ndarray[Any, Any]) -> list[int]:
    """The most probable class of each image, one after the other, as they are timed."""
    return [int(predict(pixels[i : i + 1]).argmax()) for i in range(len(pixels))]


def measure_apart(file: Path, threads: int, seconds: float) -> tuple[str, Round]:
    """Measures a model file in a process of its own; returns the runtime and the figures.

    Raises:
        InputError: If the file cannot be run.
    """
    figures = _work(file, threads, str(seconds))
    return figures.pop("runtime"), Round(**figures)


def classify_apart(file: Path, threads: int, pixels: Path) -> list[int]:
    """The most probable class of each image in a .npy file, from a process of its own.

    Raises:
        InputError: If the file cannot be run.
    """
    answers: list[int] = _work(file, threads, str(pixels))
    return answers


def _work(file: Path, threads: int, work: str) -> Any:
    """What `main` prints in a process of its own."""
    home = str(Path(__file__).parents[2])  # the package need not be installed
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
        errors="replace",
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"]
        raise InputError(f"{file} cannot be measured: {said[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(file: str, threads: str, work: str) -> None:
    """Does what the module says."""
    opened = open_file(Path(file), int(threads))
    if work.endswith(".npy"):
        pixels = np.load(work, mmap_mode="r")
        print(json.dumps(classes(opened.predict, pixels)))
        return
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (1, *opened.shape), np.uint8)
    figures = measure(opened.predict, image, float(work))
    print(json.dumps({"runtime": opened.runtime, **dataclasses.asdict(figures)}))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except InputError as error:
        sys.exit(str(error))
