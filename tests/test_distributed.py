"""Processes that JAX connects hear of one another: values, shares, and what differs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from keras_resnet18 import distributed
from keras_resnet18.errors import InputError

# Each line that it prints is what one process got.
PROGRAM = """
import json, sys
import jax
import numpy as np
from keras_resnet18 import distributed
from keras_resnet18.errors import InputError

address, index = sys.argv[1], int(sys.argv[2])
jax.distributed.initialize(address, 2, index, cluster_detection_method="deactivate")
distributed._place = distributed._Place(index, 2)

def refused(make, facts):
    try:
        distributed.alike(f"name {refused.calls}", make, facts)
    except InputError as error:
        return str(error)
    finally:
        refused.calls += 1

refused.calls = 0

def broken():
    if index == 1:
        raise InputError("a broken image")

whole = np.zeros(7, [("label", np.int64), ("loss", np.float64), ("right", np.bool_)])
whole["label"], whole["loss"] = np.arange(7) + 2**40, np.arange(7) / 3
shared = {"images.train": "a" * 300, "images.test": "b"}
result = {
    "gathered": bool((distributed.gather(whole[index::2], 7) == whole).all()),
    "maps": bool((distributed.gather(np.eye(5)[index::2], 5) == np.eye(5)).all()),
    "highest": distributed.highest(15 if index else 0),
    "same": refused(lambda: None, lambda _: shared),
    "error": refused(broken, lambda _: {}),
    "missing": refused(lambda: None, lambda _: {"a": 1} if index else {}),
    "differs": refused(lambda: None, lambda _: {"images.train.n": 49 - index}),
}
distributed.part()
print(json.dumps(result))
"""


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def test_processes_hear_of_one_another_values_shares_errors_and_what_differs() -> None:
    address = free_address()
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, address, str(index)],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    printed = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    results = [json.loads(text.splitlines()[-1]) for text in printed]
    assert results[1]["error"] == "a broken image"
    assert results[0]["error"] == "process 1 of 2 ended: a broken image"
    for result in results:
        assert result["gathered"] and result["maps"]  # bit for bit
        assert (result["highest"], result["same"]) == (15, None)
        for word in ("images.train.n ", "49 on process 0", "48 on process 1"):
            assert word in result["differs"]
    assert "a None on process 0" in results[0]["missing"]


NOBODY = """
import os, sys
from keras_resnet18 import distributed
from keras_resnet18.errors import InputError
distributed._GATHERING = 1
try:
    with distributed.together(distributed.Cluster(sys.argv[1], 2, 0)):
        pass
except InputError as error:
    print(error, flush=True)
    os._exit(0)  # before JAX ends it
"""


def test_a_process_that_nobody_joins_ends_with_a_line(run_python) -> None:
    printed = run_python(NOBODY, free_address(), KERAS_BACKEND="jax", JAX_PLATFORMS="cpu")
    assert printed.startswith("not all processes came within 1 s") and printed.count("\n") == 1


def test_a_process_alone_asks_nobody():
    values = np.arange(3)
    assert (distributed.is_first(), distributed.count()) == (True, 1)
    assert distributed.highest(5) == 5
    assert distributed.gather(values, 3) is values
    assert distributed.alike("name", lambda: values, lambda _: {}) is values
    distributed.part()


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer"), True),
        (RuntimeError("NCCL operation ncclGroupEnd() failed"), True),
        (ValueError("the batch is empty"), False),
    ],
)
def test_an_error_of_the_connection_is_told_from_others(as_process, error, lost):
    for count in (1, 2):
        told = lost and count > 1
        with (
            pytest.raises(InputError if told else type(error)) as raised,
            distributed.together(None),
        ):
            as_process(0, count)
            raise error
        assert ("another process ended" in str(raised.value)) == told


def test_a_process_is_alone_again_after_an_error(as_process):
    with pytest.raises(KeyError), distributed.together(None):
        as_process(1, 2)
        raise KeyError
    assert (distributed.index(), distributed.count()) == (0, 1)


ALONE = """
import sys
from keras_resnet18 import distributed
distributed.rows(8), distributed.highest(1), distributed.part()
print({"jax", "keras"} & sys.modules.keys())
"""


def test_a_process_alone_imports_neither_keras_nor_jax(run_python):
    assert run_python(ALONE) == "set()\n"
