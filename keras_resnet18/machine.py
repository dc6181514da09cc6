"""This machine: its CPU and devices, and a quiet and fast start of TensorFlow and Keras."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import sys
import threading
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from keras_resnet18.errors import InputError

_standard_error = threading.RLock()  # all threads share file descriptor 2

_PACKAGES = (
    "keras-resnet18",
    "keras",
    "tensorflow",
    "jax",
    "jaxlib",
    "ai-edge-litert",
    "tensorflow-datasets",
    "numpy",
    "pillow",
)


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str] | None:
    """Flags of this x86 CPU as Linux lists them; None on other systems."""
    return frozenset(flags.split()) if (flags := _cpuinfo("flags", cpuinfo)) else None


def cpu_count() -> int:
    """Number of CPUs that this process may use; a container or `taskset` may limit it."""
    # since Python 3.13: os.process_cpu_count
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def prepare_tensorflow() -> None:
    """Set environment variables for a fast and quiet TensorFlow, unless the user has set them.

    Call it before importing TensorFlow. TensorFlow disables oneDNN on x86 CPUs without VNNI, where
    it makes a training step 1.1 to 1.3 times faster.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if cpu_flags() is not None:
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def start_tensorflow() -> None:
    """Import TensorFlow and LiteRT quietly, with `prepare_tensorflow`'s settings."""
    prepare_tensorflow()
    with native_stderr_hidden():
        import ai_edge_litert.interpreter  # noqa: F401
        import tensorflow as tf

        tf.config.list_physical_devices()
    tf.get_logger().setLevel("ERROR")
    for handler in tf.get_logger().handlers:
        handler.stream = sys.stderr  # it had the temporary one of `native_stderr_hidden`


def start_keras() -> None:
    """Call `start_tensorflow`, and import Keras with the settings that the command line needs.

    `~/.keras/keras.json` may set channels first or float16; the networks and files of the command
    line need channels last and float32. The user's backend is kept, or InputError raised if it is
    unknown or not installed.
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
    """Hide the output of C++ code on standard error, but not Python's.

    TensorFlow and LiteRT write there before they read any log level. Use it only around imports and
    starts: it also hides errors, and blocks other threads that enter it.
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
    """Versions, CPU and settings that results depend on, as JSON values."""
    packages = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):  # tensorflow-cpu may replace one
            packages[name] = metadata.version(name)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cpu_flags": sorted(flag for flag in cpu_flags() or () if flag.startswith(("avx", "amx"))),
        "threads": cpu_count(),
        "packages": packages,
        "settings": {
            name: os.environ[name]
            for name in ("KERAS_BACKEND", "TF_ENABLE_ONEDNN_OPTS")
            if name in os.environ
        },
    }


def _cpuinfo(key: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    try:
        found = re.search(rf"^{key}\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        return None
    return found[1].strip() if found else None


# The device that Keras computes on, and its fastest settings.

# Tensor cores exist since compute capability 7.0 (Volta); without them float16 gains nothing.
_FIRST_TENSOR_CORES = (7, 0)
# Since Ampere they also multiply bfloat16; on an H200 under JAX at 0.87 of float16's speed.
_FIRST_BFLOAT16 = (8, 0)
# CPU flags on Linux. Both multiply bfloat16 in hardware; AVX512 alone does not.
_BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16")

# Files that show the driver of an NVIDIA GPU on Linux and on WSL
_NVIDIA_SIGNS = ("/dev/nvidia0", "/proc/driver/nvidia/version", "/dev/dxg")

# Packages that pip installs for a backend on an NVIDIA GPU
_WITH_CUDA = {
    "tensorflow": "keras-resnet18[gpu]",
    "jax": "keras-resnet18[jax-cuda]",
    "torch": "torch",
}


class Recommendation(str):
    """Name of a Keras dtype policy, such as `"mixed_float16"`, with the `reason` for it."""

    reason: str

    def __new__(cls, policy: str, reason: str) -> Recommendation:
        self = super().__new__(cls, policy)
        self.reason = reason
        return self


def recommended_policy() -> Recommendation:
    """Recommend the dtype policy to train with on this machine.

    It changes nothing: call `keras.config.set_dtype_policy(recommended_policy())` yourself.

    Returns:
        `"mixed_float16"` on a GPU with tensor cores (compute capability 7.0 and up),
        `"mixed_bfloat16"` on a TPU or on a CPU with AVX512_BF16 or AMX, else `"float32"`; a string
        with an attribute `reason`.
    """
    device = _device()
    if device.kind == "tpu":
        return Recommendation("mixed_bfloat16", "a TPU multiplies bfloat16")
    if device.kind == "gpu":
        capability = device.capability or (0, 0)
        version = ".".join(map(str, capability)) if device.capability else "unknown"
        where = f"tensor cores (compute capability {version})"
        if capability < _FIRST_TENSOR_CORES:
            return Recommendation("float32", f"the GPU has no {where}")
        also = "; mixed_bfloat16 does too, without loss scaling"
        reason = f"the GPU has {where}{also if capability >= _FIRST_BFLOAT16 else ''}"
        return Recommendation("mixed_float16", reason)
    flags = cpu_flags()
    if flags is None:
        return Recommendation("float32", f"the CPU's features are not known on {sys.platform}")
    if found := [flag for flag in _BFLOAT16_FLAGS if flag in flags]:
        return Recommendation("mixed_bfloat16", f"the CPU multiplies bfloat16 ({found[0]})")
    return Recommendation("float32", "the CPU has neither AVX512_BF16 nor AMX, and there is no GPU")


class _Device(NamedTuple):
    """The device of the Keras backend; `name` is the vendor's."""

    kind: str
    capability: tuple[int, int] | None = None
    name: str = ""


def _device() -> _Device:
    backend = _backend()
    if backend == "tensorflow":
        import tensorflow as tf

        if tf.config.list_logical_devices("TPU"):
            return _Device("tpu")
        if gpus := tf.config.list_physical_devices("GPU"):
            details = tf.config.experimental.get_device_details(gpus[0])
            name = details.get("device_name", "")
            return _Device("gpu", details.get("compute_capability"), name)
        return _Device("cpu")
    if backend == "jax":
        import jax

        device = jax.local_devices()[0]
        if device.platform not in ("gpu", "cuda", "rocm"):
            return _Device(device.platform, None, device.device_kind)
        version = re.fullmatch(r"(\d+)\.(\d+)", str(getattr(device, "compute_capability", "")))
        capability = (int(version[1]), int(version[2])) if version else None
        return _Device("gpu", capability, device.device_kind)
    if backend == "torch":
        from torch import cuda

        if cuda.is_available():
            return _Device("gpu", cuda.get_device_capability(0), cuda.get_device_name(0))
        return _Device("cpu")
    raise InputError(
        f"the Keras backend must be tensorflow, jax or torch. Received: KERAS_BACKEND={backend!r}"
    )


def _backend() -> str:
    import keras  # not at the top, for a fast --help

    return str(keras.config.backend())


@contextlib.contextmanager
def dtype_policy(policy: str) -> Iterator[None]:
    """Set Keras' global dtype policy for the models built inside, and restore it."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(str(policy))
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def fastest_jit() -> bool | str:
    """The fastest value for `Model.compile(jit_compile=)` on this machine.

    On a GPU or TPU, and on JAX, which needs XLA, Keras decides. With TensorFlow on a CPU, XLA makes
    ResNet-18 slower, because its kernels do not call oneDNN.
    """
    return False if _backend() == "tensorflow" and _device().kind == "cpu" else "auto"


def device_count() -> int:
    """Number of devices that share every batch: all devices of all JAX processes, or 1."""
    if _backend() != "jax":
        return 1
    import jax

    return int(jax.device_count())


def device_name() -> str:
    """Describe the device of Keras, such as `"CPU, 2 threads"` or `"4 × GPU, NVIDIA L4"`."""
    device, count = _device(), device_count()
    detail = f"{cpu_count()} threads" if device.kind == "cpu" else device.name
    name = ", ".join(filter(None, (device.kind.upper(), detail)))
    return name if count == 1 else f"{count} × {name}"


def missing_gpu() -> str | None:
    """Explain in one line why an expected GPU is missing; None if none was expected.

    TensorFlow's own message is among the output that the command line hides.
    """
    if _device().kind != "cpu":
        return None
    backend, visible = _backend(), os.environ.get("CUDA_VISIBLE_DEVICES")
    signs = [path for path in _NVIDIA_SIGNS if Path(path).exists()]
    if visible is not None and (signs or visible not in ("", "-1")):
        return f"no GPU: CUDA_VISIBLE_DEVICES={visible!r} leaves none that {backend} can use"
    if not signs:
        return None
    return (
        f"no GPU, though {signs[0]} is there: {backend} was installed without CUDA or does not "
        f"fit the driver; pip install '{_WITH_CUDA[backend]}'"
    )
