"""Which dtype policy trains fastest on this machine without losing accuracy."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import keras

from keras_resnet18.errors import InputError
from keras_resnet18.machine import cpu_count, cpu_flags

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
    kind, capability = _accelerator(keras.config.backend())
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
    backend = keras.config.backend()
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
    backend = keras.config.backend()
    kind, _ = _accelerator(backend)
    name = f"CPU, {cpu_count()} threads" if kind == "cpu" else kind.upper()
    if kind != "cpu" and (card := _card(backend)):
        name = f"{name}, {card}"
    count = device_count()
    return name if count == 1 else f"{count} × {name}"


def device_count() -> int:
    """How many devices share every batch of a training: all that JAX sees, in all processes."""
    if keras.config.backend() != "jax":
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
    backend = keras.config.backend()
    return False if backend == "tensorflow" and _accelerator(backend)[0] == "cpu" else "auto"
