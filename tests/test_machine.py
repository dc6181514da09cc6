"""What TensorFlow is told before it starts, and what this machine says of itself."""

from __future__ import annotations

import json
import os
import sys
import threading

import pytest

from keras_resnet18 import machine


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


def test_flags_are_read_where_linux_gives_them(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    assert machine.cpu_flags(cpuinfo) is None
    cpuinfo.write_text("processor : 0\nFeatures : fp asimd\n")  # ARM
    assert machine.cpu_flags(cpuinfo) is None
    cpuinfo.write_text("processor : 0\nflags\t: fpu avx2\n\nprocessor : 1\nflags\t: other\n")
    assert machine.cpu_flags(cpuinfo) == {"fpu", "avx2"}


def test_native_noise_is_hidden_and_python_still_heard(capfd):
    with machine.native_stderr_hidden():
        os.write(2, b"Could not find cuda drivers\n")
        print("a warning", file=sys.stderr)
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "a warning\nafterwards\n"


def test_a_started_tensorflow_logs_errors_only_and_where_they_are_seen(run_python):
    printed = run_python("""
import io, sys
from keras_resnet18.machine import start_tensorflow
sys.stderr = io.StringIO()
start_tensorflow()
import tensorflow as tf
tf.get_logger().warning("traced again")
tf.get_logger().error("no more memory")
print(sys.stderr.getvalue())
""")
    assert printed.strip() == "ERROR:tensorflow:no more memory"


def test_native_noise_is_heard_again_after_an_error(capfd):
    stderr = sys.stderr
    with pytest.raises(ImportError), machine.native_stderr_hidden():
        raise ImportError
    os.write(2, b"heard\n")
    assert capfd.readouterr().err == "heard\n"
    assert sys.stderr is stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_threads_that_hide_it_at_once_leave_standard_error_as_it_was(capfd):
    def hide():
        for _ in range(20):
            with machine.native_stderr_hidden():
                os.write(2, b"greeting")

    threads = [threading.Thread(target=hide) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"


def test_cpus_that_the_process_may_not_use_are_not_counted(run_python):
    printed = run_python("""
import os
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
from keras_resnet18.machine import cpu_count, environment
print(cpu_count(), environment()["threads"])
""")
    assert printed.split() == ["1", "1"]


def test_where_they_cannot_be_told_apart_all_are_counted(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert machine.cpu_count() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.cpu_count() == 1


def test_the_environment_is_ready_for_json(monkeypatch):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    facts = json.loads(json.dumps(machine.environment()))
    assert facts["settings"]["TF_ENABLE_ONEDNN_OPTS"] == "0"
    assert facts["packages"]["tensorflow"]
    assert facts["threads"] >= 1
    assert facts["cpu"]
