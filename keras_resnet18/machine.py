"""This machine: what its CPU can do, and what TensorFlow must be told before it is imported."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import threading
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from keras_resnet18.errors import InputError

_standard_error = threading.RLock()  # file descriptor 2 is one for all threads

_PACKAGES = (
    "keras-resnet18",
    "keras",
    "tensorflow",
    "ai-edge-litert",
    "tensorflow-datasets",
    "numpy",
    "pillow",
)


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str] | None:
    """The instruction sets that Linux sees on this x86 CPU; None where it does not say."""
    return frozenset(flags.split()) if (flags := _cpuinfo("flags", cpuinfo)) else None


def cpu_count() -> int:
    """How many CPUs this process may run on: a container or `taskset` may leave it fewer."""
    # From Python 3.13 on there is os.process_cpu_count for this.
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def prepare_tensorflow() -> None:
    """Sets the environment for a fast and quiet TensorFlow; what the user has set stays.

    Call it before TensorFlow is imported. TensorFlow leaves oneDNN off on x86 CPUs without VNNI,
    where it makes a training step 1.1 to 1.3 times faster.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if cpu_flags() is not None:
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def start_tensorflow() -> None:
    """Imports what takes seconds and greets its user, fast and quiet, before a program's work.

    See `prepare_tensorflow`, which does not import it.
    """
    prepare_tensorflow()
    with native_stderr_hidden():
        import ai_edge_litert.interpreter  # noqa: F401
        import tensorflow as tf

        tf.config.list_physical_devices()
    tf.get_logger().setLevel("ERROR")
    for handler in tf.get_logger().handlers:
        handler.stream = sys.stderr  # not the one that was there for the hiding, closed by now


def start_keras() -> None:
    """`start_tensorflow`, and Keras with the settings that the command line needs.

    `~/.keras/keras.json` may set channels first or float16 for every program of a user; the command
    line's networks and files take channels last and float32 pixels. The backend stays the user's.

    Raises:
        InputError: If the backend is unknown or not installed.
    """
    try:
        start_tensorflow()  # imports Keras too
        import keras
    except (ImportError, ValueError) as error:
        raise InputError(
            "Keras needs an installed backend: set KERAS_BACKEND=tensorflow (or jax, or torch). "
            f"Received: {os.environ.get('KERAS_BACKEND', 'keras.json')} ({error})"
        ) from None
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_dtype_policy("float32")


@contextlib.contextmanager
def native_stderr_hidden() -> Iterator[None]:
    """Hides what C++ code writes to standard error; Python's own messages still come through.

    TensorFlow and LiteRT greet their user there before any log level is read. Keep it around no
    more than an import or a start: it hides errors too, and other threads wait for its end.
    """
    with _standard_error, contextlib.ExitStack() as stack:
        stderr, visible = sys.stderr, os.dup(2)
        stack.callback(os.close, visible)
        stack.callback(os.dup2, visible, 2)
        stack.callback(setattr, sys, "stderr", stderr)
        nowhere = stack.enter_context(Path(os.devnull).open("w"))
        python = stack.enter_context(os.fdopen(os.dup(2), "w", buffering=1))
        os.dup2(nowhere.fileno(), 2)
        sys.stderr = python
        yield


def environment() -> dict[str, Any]:
    """Versions, CPU and settings that a result depends on, ready for JSON."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cpu_flags": sorted(flag for flag in cpu_flags() or () if flag.startswith(("avx", "amx"))),
        "threads": cpu_count(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "settings": {
            name: os.environ[name]
            for name in ("KERAS_BACKEND", "TF_ENABLE_ONEDNN_OPTS")
            if name in os.environ
        },
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # such as tensorflow-cpu in tensorflow's place
        return "not installed under this name"


def _cpuinfo(key: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None
