"""What TensorFlow is told before it starts, and what this machine is fast at."""

from __future__ import annotations

import functools
import os
import re
import sys
import threading

import keras
import pytest

from keras_resnet18 import build_resnet18, machine, recommended_policy
from keras_resnet18.errors import InputError
from keras_resnet18.machine import _Device, native_stderr_hidden


@pytest.mark.parametrize(
    ("flags", "user_set", "expected"),
    [
        ("fpu avx2", None, "1"),
        ("fpu avx2", "0", "0"),  # the user's word counts
        (None, None, None),  # ARM, macOS, Windows
    ],
)
def test_onednn_is_turned_on_on_x86_unless_the_user_set_it(monkeypatch, flags, user_set, expected):
    monkeypatch.setattr(machine, "cpu_flags", lambda: flags and frozenset(flags.split()))
    # setenv first, so that what prepare_tensorflow sets is undone too
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", user_set or "")
    if user_set is None:
        monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    machine.prepare_tensorflow()
    assert os.environ.get("TF_ENABLE_ONEDNN_OPTS") == expected


def test_native_noise_is_hidden_and_python_still_heard_also_after_an_error(capfd):
    stderr = sys.stderr
    with pytest.raises(ImportError), native_stderr_hidden():
        os.write(2, b"Could not find cuda drivers\n")
        print("a warning", file=sys.stderr)
        raise ImportError
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "a warning\nafterwards\n"
    assert sys.stderr is stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_threads_that_hide_it_at_once_leave_standard_error_as_it_was(capfd):
    def hide():
        for _ in range(20):
            with native_stderr_hidden():
                os.write(2, b"greeting")

    threads = [threading.Thread(target=hide) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"


STARTED = """
import io, os, sys
from keras_resnet18.machine import cpu_count, environment, start_tensorflow
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
sys.stderr = io.StringIO()
start_tensorflow()
import tensorflow as tf
tf.get_logger().warning("traced again")
tf.get_logger().error("no more memory")
print(sys.stderr.getvalue(), cpu_count(), environment()["threads"])
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_a_started_tensorflow_logs_errors_where_they_are_seen_and_only_free_cpus_count(run_python):
    assert run_python(STARTED).split("\n") == ["ERROR:tensorflow:no more memory", " 1 1", ""]


# recommended_policy() advises, says why, and changes nothing


@pytest.fixture
def pretend(monkeypatch, tmp_path):
    """`pretend(kind, capability, cpuinfo=…)` makes this machine another one."""

    def make(kind="cpu", capability=None, name="", *, cpuinfo=None, backend="tensorflow"):
        path = tmp_path / "cpuinfo"
        if cpuinfo is not None:
            path.write_text(cpuinfo)
        monkeypatch.setattr(machine, "_backend", lambda: backend)
        monkeypatch.setattr(machine, "_device", lambda: _Device(kind, capability, name))
        flags = functools.partial(machine.cpu_flags, cpuinfo=path)
        monkeypatch.setattr(machine, "cpu_flags", flags)

    return make


def cpu(flags):
    return f"processor\t: 0\nmodel name\t: A CPU: the flags of it\nflags\t\t: {flags}\nbugs\t: x\n"


@pytest.mark.parametrize(
    ("kind", "capability", "cpuinfo", "policy", "reason"),
    [
        ("gpu", (7, 0), cpu("avx512_bf16"), "mixed_float16", "(compute capability 7.0"),
        ("gpu", (8, 0), None, "mixed_float16", "mixed_bfloat16 does too, without loss scaling"),
        ("gpu", (6, 1), None, "float32", "no tensor cores (compute capability 6.1)"),
        ("gpu", None, None, "float32", "unknown"),
        ("tpu", None, cpu("fpu"), "mixed_bfloat16", "TPU"),
        ("cpu", None, cpu("fpu avx512f avx512_bf16"), "mixed_bfloat16", "avx512_bf16"),
        ("cpu", None, cpu("fpu avx2 amx_bf16 amx_tile"), "mixed_bfloat16", "amx_bf16"),
        ("cpu", None, cpu("fpu avx512f avx512_vnni"), "float32", "neither AVX512_BF16 nor AMX"),
        ("cpu", None, None, "float32", "not known"),
        ("cpu", None, "processor\t: 0\nFeatures\t: fp bf16\n", "float32", "not known"),  # ARM
    ],
)
def test_the_policy_suits_the_device(pretend, kind, capability, cpuinfo, policy, reason):
    pretend(kind, capability, cpuinfo=cpuinfo)
    assert recommended_policy() == policy
    assert reason in recommended_policy().reason


def test_an_unknown_backend_is_refused_with_the_known_ones(monkeypatch):
    monkeypatch.setattr(machine, "_backend", lambda: "numpy")
    with pytest.raises(InputError, match=r"tensorflow, jax or torch.*KERAS_BACKEND='numpy'"):
        machine._device()


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_neither_advice_nor_a_builder_sets_the_global_policy(pretend, set_dtype_policy, policy):
    set_dtype_policy(policy)
    pretend("gpu", (8, 0))
    advice = recommended_policy()
    build_resnet18(input_shape=(8, 8, 3), stem="small_stride2", classes=2)
    assert keras.config.dtype_policy().name == policy
    set_dtype_policy(advice)  # a policy that Keras takes
    assert keras.config.dtype_policy().compute_dtype == "float16"


@pytest.mark.parametrize(
    ("visible", "signs", "message"),
    [
        (None, [], None),
        ("-1", [], None),
        ("0", [], "CUDA_VISIBLE_DEVICES='0' leaves none"),
        ("", ["driver"], "CUDA_VISIBLE_DEVICES='' leaves none"),
        (None, ["driver"], r"driver is there.*pip install 'keras-resnet18\[gpu\]'"),
    ],
)
def test_an_expected_gpu_is_missed_aloud(pretend, monkeypatch, tmp_path, visible, signs, message):
    pretend("cpu")
    for sign in signs:
        (tmp_path / sign).touch()
    monkeypatch.setattr(machine, "_NVIDIA_SIGNS", [str(tmp_path / "driver")])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = machine.missing_gpu()
    assert found is None if message is None else re.search(message, found)


@pytest.mark.parametrize(
    ("kind", "card", "count", "name"),
    [
        ("gpu", "NVIDIA L4", 1, "GPU, NVIDIA L4"),
        ("gpu", "NVIDIA L4", 4, "4 × GPU, NVIDIA L4"),
        ("cpu", "", 1, "CPU, 3 threads"),
    ],
)
def test_a_device_has_its_cards_name_and_a_number(pretend, monkeypatch, kind, card, count, name):
    pretend(kind, name=card)
    monkeypatch.setattr(machine, "device_count", lambda: count)
    monkeypatch.setattr(machine, "cpu_count", lambda: 3)
    assert machine.device_name() == name


@pytest.mark.parametrize(
    ("backend", "kind", "expected"),
    [
        ("tensorflow", "cpu", False),  # XLA makes it slower
        ("tensorflow", "gpu", "auto"),
        ("jax", "cpu", "auto"),
    ],
)
def test_xla_is_left_off_on_a_cpu_with_tensorflow(pretend, backend, kind, expected):
    pretend(kind, backend=backend)
    assert machine.fastest_jit() == expected
