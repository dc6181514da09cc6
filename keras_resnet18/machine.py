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


# Which dtype policy trains fastest on this machine without losing accuracy.

# Tensor cores begin at compute capability 7.0 (Volta); before it float16 gains nothing.
_FIRST_TENSOR_CORES = (7, 0)
# From Ampere on they multiply bfloat16 too, on an H200 under JAX at 0.87 of float16's speed.
_FIRST_BFLOAT16 = (8, 0)

# Where Linux, and Windows' Linux, show the driver of an NVIDIA GPU.
_NVIDIA_SIGNS = ("/dev/nvidia0", "/proc/driver/nvidia/version", "/dev/dxg")

# What pip installs for a backend on an NVIDIA GPU
_WITH_CUDA = {
    "tensorflow": "keras-resnet18[gpu]",
    "jax": "keras-resnet18[jax-cuda]",
    "torch": "torch",
}

# As Linux names them. Both multiply bfloat16 in hardware; AVX512 alone does not.
_BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16")


class Recommendation(str):
    """The name of a Keras dtype policy, such as `"mixed_float16"`, with the reason for it.

    Attributes:
        reason: What was found on this machine, in a few words.
    """

    reason: str

    def __new__(cls, policy: str, reason: str) -> Recommendation:
        self = super().__new__(cls, policy)
        self.reason = reason
        return self


def recommended_policy() -> Recommendation:
    """The dtype policy to train with on this machine.

    It only advises: `keras.config.set_dtype_policy(recommended_policy())` is the user's line.

    Returns:
        `"mixed_float16"` on a GPU with tensor cores (compute capability 7.0 and up),
        `"mixed_bfloat16"` on a TPU or on a CPU with AVX512_BF16 or AMX, else `"float32"`. It is a
        string whose `reason` says why.
    """
    kind, capability = _accelerator(_backend())
    if kind == "tpu":
        return Recommendation("mixed_bfloat16", "a TPU multiplies bfloat16")
    if kind == "gpu":
        version = ".".join(map(str, capability)) if capability else "unknown"
        if capability and capability >= _FIRST_TENSOR_CORES:
            bfloat16 = "; mixed_bfloat16 does too, without loss scaling"
            return Recommendation(
                "mixed_float16",
                f"the GPU has tensor cores (compute capability {version})"
                + (bfloat16 if capability >= _FIRST_BFLOAT16 else ""),
            )
        return Recommendation(
            "float32", f"the GPU has no tensor cores (compute capability {version})"
        )
    flags = cpu_flags()
    if flags is None:
        return Recommendation("float32", f"the CPU's features are not known on {sys.platform}")
    for flag in _BFLOAT16_FLAGS:
        if flag in flags:
            return Recommendation("mixed_bfloat16", f"the CPU multiplies bfloat16 ({flag})")
    return Recommendation("float32", "the CPU has neither AVX512_BF16 nor AMX, and there is no GPU")


def _backend() -> str:
    import keras  # not at the top: --help does not wait for it

    return str(keras.config.backend())


def _accelerator(backend: str) -> tuple[str, tuple[int, int] | None]:
    """The kind of device that the Keras backend computes on, and a GPU's compute capability."""
    if backend == "tensorflow":
        import tensorflow as tf

        if tf.config.list_logical_devices("TPU"):
            return "tpu", None
        if gpus := tf.config.list_physical_devices("GPU"):
            details = tf.config.experimental.get_device_details(gpus[0])
            return "gpu", details.get("compute_capability")
        return "cpu", None
    if backend == "jax":
        import jax

        device = jax.local_devices()[0]
        if device.platform in ("gpu", "cuda", "rocm"):
            major, _, minor = str(getattr(device, "compute_capability", "")).partition(".")
            return "gpu", (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None
        return device.platform, None
    if backend == "torch":
        import torch

        if torch.cuda.is_available():
            return "gpu", torch.cuda.get_device_capability(0)
        return "cpu", None
    raise InputError(
        f"the Keras backend must be tensorflow, jax or torch. Received: KERAS_BACKEND={backend!r}"
    )


@contextlib.contextmanager
def dtype_policy(policy: str) -> Iterator[None]:
    """Sets Keras' global dtype policy for the models built inside, and restores it."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(str(policy))
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def missing_gpu() -> str | None:
    """Why there is no GPU where one was to be expected, in one line; None without a sign of one.

    TensorFlow says so only among its greetings, which the command line hides.
    """
    backend = _backend()
    if _accelerator(backend)[0] != "cpu":
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    signs = [path for path in _NVIDIA_SIGNS if Path(path).exists()]
    if visible is not None and (signs or visible not in ("", "-1")):
        return f"no GPU: CUDA_VISIBLE_DEVICES={visible!r} leaves none that {backend} can use"
    if not signs:
        return None
    return (
        f"no GPU, though {signs[0]} is there: {backend} was installed without CUDA or does not "
        f"fit the driver; pip install '{_WITH_CUDA[backend]}'"
    )


def device_name() -> str:
    """What Keras computes on, for a person: `"CPU, 2 threads"`, `"4 × GPU, NVIDIA L4"`."""
    backend = _backend()
    kind, _ = _accelerator(backend)
    name = f"CPU, {cpu_count()} threads" if kind == "cpu" else kind.upper()
    if kind != "cpu" and (card := _card(backend)):
        name = f"{name}, {card}"
    count = device_count()
    return name if count == 1 else f"{count} × {name}"


def device_count() -> int:
    """How many devices share every batch of a training: all that JAX sees, in all processes."""
    if _backend() != "jax":
        return 1
    import jax

    return int(jax.device_count())


def _card(backend: str) -> str:
    """The accelerator's name by its maker; empty where it is not known."""
    if backend == "jax":
        import jax

        return str(jax.local_devices()[0].device_kind)
    if backend == "torch":
        import torch

        return str(torch.cuda.get_device_name(0))
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    details = tf.config.experimental.get_device_details(gpus[0]) if gpus else {}
    return str(details.get("device_name", ""))


def fastest_jit() -> bool | str:
    """What to give `Model.compile(jit_compile=)` on this machine.

    XLA helps on a GPU or TPU, where Keras decides. On a CPU it makes ResNet-18 slower: TensorFlow's
    own kernels call oneDNN, XLA's do not. Only JAX, which is nothing without XLA, keeps it there.
    """
    backend = _backend()
    return False if backend == "tensorflow" and _accelerator(backend)[0] == "cpu" else "auto"
