"""Several devices, and several processes, train what one device trains."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from rich.console import Console
from small import build_tiny

from keras_resnet18 import distributed, evaluate, load_run, save_weights
from keras_resnet18.distributed import Cluster, check_batch
from keras_resnet18.errors import InputError
from keras_resnet18.fit.resume import load_checkpoint
from keras_resnet18.recipe import Augment, Finetune, Recipe
from keras_resnet18.run import Run

TESTS = Path(__file__).parents[1]

# The command line with the tiny network. It saves after every step; with KILL_AFTER=N a process is
# killed after N steps, as by `kill -9` from outside.
PROGRAM = """
import os, signal, sys, time
sys.path.insert(0, sys.argv.pop(1))
from keras_resnet18 import machine
from keras_resnet18.cli import app

start_keras = machine.start_keras

def start():
    start_keras()
    import pytest
    from keras_resnet18.fit import resume
    from small import train_quickly

    train_quickly(pytest.MonkeyPatch())
    resume.EVERY = resume.AT_AN_EPOCH = resume.TIMES_ITS_COST = 0
    end, steps = resume.Checkpoints.on_train_batch_end, []

    def end_or_die(self, batch, logs=None):
        end(self, batch, logs)
        steps.append(batch)
        if len(steps) == int(os.environ.get("KILL_AFTER", "-1")):
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(300)

    resume.Checkpoints.on_train_batch_end = end_or_die

machine.start_keras = start
app.main()
"""

# Trains with one device, fine-tunes with one and with all four, and goes on with a run.
DEVICES = """
import functools, sys
from pathlib import Path
tests, images, folder, killed = sys.argv[1:]
sys.path.insert(0, tests)
import jax, keras, pytest
from rich.console import Console
from keras_resnet18.machine import start_keras
start_keras()
from keras_resnet18 import load_recipe, train
from small import train_quickly

train_quickly(pytest.MonkeyPatch())
folder = Path(folder)
console = Console(highlight=False, soft_wrap=True)
share = keras.distribution.DataParallel
for recipe, count in (("scratch", 1), ("finetune", 1), ("finetune", 4)):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_count", lambda: count)
        some = functools.partial(share, devices=keras.distribution.list_devices()[:count])
        patch.setattr(keras.distribution, "DataParallel", some)
        out = folder / f"{recipe}-{count}"
        train(images, load_recipe(folder / f"{recipe}.toml"), out, console=console)
train(resume=killed, console=console)
"""

JAX = {
    "KERAS_BACKEND": "jax",
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiling is most of what it costs
}


@pytest.fixture(scope="module")
def folder(quick_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recipes: 49 images in batches of 8, mixed, and 9 to validate."""
    folder = tmp_path_factory.mktemp("together")
    scratch = dataclasses.replace(quick_recipe, epochs=2, augment=Augment(shift=1, mixup=0.2))
    weights = folder / "w.safetensors"
    save_weights(build_tiny(input_shape=(16, 16, 3), classes=3, stem="", dropout=0), weights)
    # all weights are trained as in the other
    head_alone = Finetune(str(weights), head_epochs=2)
    finetune = dataclasses.replace(quick_recipe, epochs=0, finetune=head_alone)
    for name, recipe in {"scratch": scratch, "finetune": finetune}.items():
        (folder / f"{name}.toml").write_text(recipe.to_toml())
    return folder


class Started:
    """A process of the command line."""

    def __init__(self, cwd: Path, *arguments: Any, **environment: str) -> None:
        cwd.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(TESTS), "train", *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, **JAX, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self) -> tuple[int, str, str]:
        """Exit status, and what was printed."""
        printed, errors = self.process.communicate(timeout=300)
        return self.process.returncode, printed, errors


def flags(address: str, index: int) -> list[str]:
    where = "--distributed", "--coordinator", address
    return [*where, "--processes", "2", "--process", str(index)]


def address() -> str:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def pair(folder: Path, *arguments: Any, kill: str = "-1") -> list[Started]:
    """Two processes with the same arguments, each in a working folder of its own."""
    where = address()
    return [
        Started(folder / str(i), *arguments, *flags(where, i), KILL_AFTER=kill if i else "-1")
        for i in range(2)
    ]


class Killed(NamedTuple):
    """A training of two processes, the second of which was killed in the second epoch."""

    run: Run
    status: int
    printed: str
    errors: str
    seconds: float
    left: list[Path]


@pytest.fixture(scope="module")
def killed(images: Path, folder: Path) -> Killed:
    words = (images, "--recipe", folder / "scratch.toml", "--out", "run")
    first, second = pair(folder, *words, kill="8")
    assert second.end()[0] == -signal.SIGKILL
    began = time.monotonic()
    status, printed, errors = first.end()
    seconds = time.monotonic() - began
    left = list((folder / "1").iterdir())
    run = Run(shutil.copytree(folder / "0" / "run", folder / "killed"))
    return Killed(run, status, printed, errors, seconds, left)


@pytest.fixture(scope="module")
def devices(images: Path, folder: Path, killed: Killed) -> str:
    """What the trainings with virtual devices printed."""
    shutil.copytree(killed.run.path, folder / "resumed-4")
    done = subprocess.run(
        [sys.executable, "-c", DEVICES, TESTS, images, folder, folder / "resumed-4"],
        cwd=folder,
        env={**os.environ, **JAX, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def resumed(folder: Path, killed: Killed) -> list[tuple[int, str, str]]:
    """What two processes said that went on with the killed training."""
    shutil.copytree(killed.run.path, folder / "resumed-2-processes")
    return [one.end() for one in pair(folder, "--resume", folder / "resumed-2-processes")]


def rows(path: Path) -> list[dict[str, float]]:
    with Run(path).history_file.open(newline="") as file:
        return [{key: float(x) for key, x in row.items()} for row in csv.DictReader(file)]


def assert_follows(path: Path, alone: Path) -> None:
    """Losses within 2 % of those of one device, in every epoch."""
    ours, theirs = rows(path), rows(alone)
    assert len(ours) == len(theirs)
    for row, other in zip(ours, theirs, strict=True):
        for key in ("loss", "validation_loss"):
            assert row[key] == pytest.approx(other[key], rel=0.02), (key, row, other)
        assert row["steps"] == other["steps"]


def test_losses_with_several_devices_follow_those_of_one(folder, devices):
    assert "4 × CPU" in devices
    assert "4 devices share every batch: 2 of 8 images each" in devices
    assert_follows(folder / "finetune-4", folder / "finetune-1")
    alone, shared = (load_run(folder / f"finetune-{n}") for n in (1, 4))
    assert alone.metrics["test"]["n"] == shared.metrics["test"]["n"] == 12


def test_two_processes_go_on_where_two_were(folder, devices, resumed):
    assert [status for status, _, _ in resumed] == [0, 0], resumed
    assert "going on at epoch 2, step 2" in resumed[0][1]
    assert "2 devices of 2 processes share every batch: 4 of 8 images each" in resumed[0][1]
    assert_follows(folder / "resumed-2-processes", folder / "scratch-1")


def test_one_process_with_other_devices_goes_on_too(folder, devices):
    assert "the result will differ" in devices and "sharing: 2, now 4" in devices
    assert_follows(folder / "resumed-4", folder / "scratch-1")
    runs = (load_run(folder / name) for name in ("resumed-4", "scratch-1"))
    for ours, theirs in zip(
        *(run.model.get_layer("stem_bn").get_weights() for run in runs), strict=True
    ):  # BatchNorm's statistics are of all 8 images: the variance of 2 would be another one
        np.testing.assert_allclose(ours, theirs, rtol=0.01, atol=1e-4)


def test_the_first_process_alone_writes_and_prints(killed, resumed):
    assert killed.left == []
    assert killed.printed.startswith("2 × CPU")
    assert all(line.startswith("[Gloo]") for line in resumed[1][1].splitlines())


def test_when_a_process_is_killed_the_other_ends_with_a_line(killed):
    assert killed.status == 1
    assert killed.seconds < 240
    assert "another process ended" in killed.errors, killed.errors
    assert "Traceback" not in killed.errors
    assert "go on with keras-resnet18 train --resume run" in killed.printed
    printed = io.StringIO()
    checkpoint = load_checkpoint(killed.run.checkpoints_folder, Console(file=printed))
    assert checkpoint is not None and (checkpoint.epoch, checkpoint.step) == (1, 2)
    assert not printed.getvalue()


def test_what_trained_there_answers_the_same_here(folder, resumed):
    assert keras.config.backend() == "tensorflow"
    run = load_run(folder / "resumed-2-processes")
    assert evaluate(run).accuracy == run.metrics["test"]["accuracy"]
    low, high = load_run(folder / "scratch-1").metrics["test"]["interval"]
    assert low <= run.metrics["test"]["accuracy"] <= high


# what is refused


def test_distributed_needs_jax():
    with (
        pytest.raises(InputError, match=r"KERAS_BACKEND=jax.*tf\.distribute.*KERAS_BACKEND=tensor"),
        distributed.together(Cluster("localhost:1", 2, 0)),
    ):
        pass


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("localhost:1", 2, 2), "process from 0 to below processes.*process=2"),
        (("localhost", 2, 0), "must be HOST:PORT.*coordinator=.localhost."),
        (("localhost:1", None, None), "go together"),
    ],
)
def test_a_wrong_address_or_number_is_refused_at_once(given, message):
    with pytest.raises(InputError, match=message):
        Cluster(*given)


@pytest.mark.parametrize(
    ("devices", "count", "mixup", "batch", "message"),
    [
        (4, 1, 0.0, 50, "multiple of 4.*batch_size to 48 or 52.*50 images"),
        (4, 1, 0.2, 52, None),
        (4, 4, 0.2, 52, "multiple of 8.*mix images in pairs.*batch_size to 48 or 56"),
        (8, 1, 0.0, 5, "batch_size to 8"),
    ],
)
def test_a_batch_that_devices_do_not_divide_is_refused_with_the_nearest(
    monkeypatch, as_process, devices, count, mixup, batch, message
):
    monkeypatch.setattr(distributed, "device_count", lambda: devices)
    as_process(0, count)
    refused = pytest.raises(InputError, match=message) if message else contextlib.nullcontext()
    with refused:
        check_batch(batch, mixes=Augment(mixup=mixup).mixes)
