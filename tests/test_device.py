"""recommended_policy() advises what this machine is fast at, says why, and changes nothing."""

from __future__ import annotations

import functools
import re

import keras
import pytest

from keras_resnet18 import build_resnet18, recommended_policy
from keras_resnet18 import machine as precision
from keras_resnet18.errors import InputError


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """`machine(kind, capability, cpuinfo)` makes this machine another one."""

    def pretend(kind="cpu", capability=None, cpuinfo=None):
        path = tmp_path / "cpuinfo"
        if cpuinfo is not None:
            path.write_text(cpuinfo)
        monkeypatch.setattr(precision, "_accelerator", lambda backend: (kind, capability))
        monkeypatch.setattr(
            precision, "cpu_flags", functools.partial(precision.cpu_flags, cpuinfo=path)
        )

    return pretend


def cpu(flags):
    return f"processor\t: 0\nmodel name\t: A CPU: the flags of it\nflags\t\t: {flags}\nbugs\t: x\n"


def test_this_machine_gets_one_of_three_policies_and_a_reason():
    policy = recommended_policy()
    assert policy in ("float32", "mixed_bfloat16", "mixed_float16")
    assert policy.reason


@pytest.mark.parametrize(
    ("kind", "capability", "policy", "reason"),
    [
        ("gpu", (7, 0), "mixed_float16", "tensor cores (compute capability 7.0)"),
        ("gpu", (12, 0), "mixed_float16", "compute capability 12.0"),
        ("gpu", (8, 0), "mixed_float16", "mixed_bfloat16 does too, without loss scaling"),
        ("gpu", (6, 1), "float32", "no tensor cores (compute capability 6.1)"),
        ("gpu", None, "float32", "unknown"),
        ("tpu", None, "mixed_bfloat16", "TPU"),
    ],
)
def test_an_accelerator_decides_whatever_the_cpu_has(machine, kind, capability, policy, reason):
    machine(kind, capability, cpu("fpu avx512_bf16"))
    assert recommended_policy() == policy
    assert reason in recommended_policy().reason


@pytest.mark.parametrize(
    ("flags", "policy", "reason"),
    [
        ("fpu avx2 avx512f avx512_bf16", "mixed_bfloat16", "avx512_bf16"),
        ("fpu avx2 amx_bf16 amx_tile", "mixed_bfloat16", "amx_bf16"),
        ("fpu avx2 avx512f avx512_vnni", "float32", "neither AVX512_BF16 nor AMX"),
        ("fpu sse2", "float32", "there is no GPU"),
    ],
)
def test_a_cpu_is_judged_by_its_bfloat16_instructions(machine, flags, policy, reason):
    machine(cpuinfo=cpu(flags))
    assert recommended_policy() == policy
    assert reason in recommended_policy().reason


@pytest.mark.parametrize(
    "cpuinfo", [None, "processor\t: 0\nFeatures\t: fp asimd bf16\n"], ids=["no file", "ARM"]
)
def test_a_cpu_that_does_not_say_gets_float32(machine, cpuinfo):
    machine(cpuinfo=cpuinfo)
    assert recommended_policy() == "float32"
    assert "not known" in recommended_policy().reason


def test_the_recommendation_is_a_policy_that_keras_takes(machine, set_dtype_policy):
    machine("gpu", (8, 0))
    set_dtype_policy(recommended_policy())
    assert keras.config.dtype_policy().compute_dtype == "float16"


def test_tensorflows_devices_are_read(monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [])
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"])
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda gpu: {"compute_capability": (9, 0)}
    )
    assert precision._accelerator("tensorflow") == ("gpu", (9, 0))
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    assert precision._accelerator("tensorflow") == ("cpu", None)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: ["a TPU"])
    assert precision._accelerator("tensorflow") == ("tpu", None)


@pytest.mark.parametrize(
    ("visible", "signs", "message"),
    [
        (None, [], None),
        ("", [], None),
        ("-1", [], None),
        ("0", [], "CUDA_VISIBLE_DEVICES='0' leaves none"),
        ("", ["driver"], "CUDA_VISIBLE_DEVICES='' leaves none"),
        (None, ["driver"], r"driver is there.*pip install 'keras-resnet18\[gpu\]'"),
    ],
)
def test_a_gpu_that_was_to_be_expected_is_missed_aloud(
    monkeypatch, tmp_path, visible, signs, message
):
    for sign in signs:
        (tmp_path / sign).touch()
    monkeypatch.setattr(precision, "_NVIDIA_SIGNS", [str(tmp_path / "driver")])
    monkeypatch.setattr(precision, "_accelerator", lambda backend: ("cpu", None))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = precision.missing_gpu()
    assert found is None if message is None else re.search(message, found)


@pytest.mark.parametrize(
    ("kind", "card", "count", "name"),
    [
        ("gpu", "NVIDIA L4", 1, "GPU, NVIDIA L4"),
        ("gpu", "NVIDIA L4", 4, "4 × GPU, NVIDIA L4"),
        ("gpu", "", 1, "GPU"),
        ("cpu", "", 1, "CPU, 3 threads"),
    ],
)
def test_a_device_has_the_name_of_its_card_and_a_number(monkeypatch, kind, card, count, name):
    monkeypatch.setattr(precision, "_accelerator", lambda backend: (kind, None))
    monkeypatch.setattr(precision, "_card", lambda backend: card)
    monkeypatch.setattr(precision, "device_count", lambda: count)
    monkeypatch.setattr(precision, "cpu_count", lambda: 3)
    assert precision.device_name() == name


def test_an_unknown_backend_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"tensorflow, jax or torch.*KERAS_BACKEND='numpy'"):
        precision._accelerator("numpy")


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_neither_advice_nor_a_builder_sets_the_global_policy(set_dtype_policy, policy):
    set_dtype_policy(policy)
    recommended_policy()
    build_resnet18(input_shape=(8, 8, 3), stem="small_stride2", classes=2)
    assert keras.config.dtype_policy().name == policy
