"""Training on all devices of this machine, or of several: Keras' `DataParallel` on JAX."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import platform
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

import keras

from keras_resnet18.device import device_count
from keras_resnet18.errors import InputError, within
from keras_resnet18.machine import environment
from keras_resnet18.processes import ALONE, Processes
from keras_resnet18.recipe.recipe import Recipe

# Seconds in which all processes must have come.
_PATIENCE = 120
# Seconds without a sign of life after which JAX takes a process for dead, and ends the others.
_HEARTBEAT = 45


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Where the processes of one training meet; what is None, JAX asks SLURM or Open MPI for.

    Attributes:
        coordinator: `"HOST:PORT"` of process 0, with a port that is free there.
        processes: How many there are.
        process: Number of this one, from 0.
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None

    def __post_init__(self) -> None:
        given = (self.coordinator, self.processes, self.process)
        if None in given and given != (None, None, None):
            raise InputError(
                "--coordinator, --processes and --process go together; without all three, SLURM or "
                f"Open MPI says them. Received: {self}"
            )
        if self.coordinator is None or self.processes is None or self.process is None:
            return
        host, _, port = self.coordinator.rpartition(":")
        within(
            "coordinator",
            self.coordinator,
            bool(host) and port.isdigit() and 0 < int(port) < 2**16,
            "HOST:PORT of process 0, such as node1:12345",
        )
        within("processes", self.processes, self.processes >= 1, "1 or more")
        within(
            "process",
            self.process,
            0 <= self.process < self.processes,
            f"0 to {self.processes - 1}, a different one for each of {self.processes} processes",
        )


@contextlib.contextmanager
def together(cluster: Cluster | None) -> Iterator[Processes]:
    """Connects the processes, and lets Keras share every batch among all devices inside.

    Args:
        cluster: Where the processes meet; None for this process alone, with all of its devices.

    Raises:
        InputError: If the backend is not JAX, the processes do not come together within two
            minutes, or they run other versions.
    """
    backend = keras.config.backend()
    if cluster is not None and backend != "jax":
        raise InputError(
            "--distributed needs Keras on JAX: set KERAS_BACKEND=jax, with pip install "
            "'keras-resnet18[jax-cuda]'; tf.distribute does not work under Keras 3. Received: "
            f"KERAS_BACKEND={backend}"
        )
    if backend == "jax":
        _keep_tensorflow_off_gpus()
    processes = ALONE if cluster is None else _connected(cluster)
    if device_count() == 1:
        yield processes
        return
    # each process makes its own rows: Keras would let each make all
    with keras.distribution.DataParallel(auto_shard_dataset=False).scope():
        try:
            yield processes
        except Exception as error:
            if (reason := processes.why_lost(error)) is not None:
                raise InputError(
                    f"{reason}. Start all of them again, with --resume if the first epoch began"
                ) from error
            raise


def _keep_tensorflow_off_gpus() -> None:
    """TensorFlow reads the images, on the CPU; by itself it would take all memory of the GPUs."""
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # it has begun with them
        tf.config.set_visible_devices([], "GPU")


def _connected(cluster: Cluster) -> Processes:
    """Starts `jax.distributed`, and compares what must be the same before anything is computed."""
    from jax._src import distributed

    if cluster.coordinator is not None and cluster.process:
        _wait_for(cluster.coordinator)
    _in_time(cluster)
    state = distributed.global_state
    processes = Processes(state.process_id, state.num_processes)
    # JAX's first look at the devices waits for as many processes as it was told of
    processes.alike("start", lambda: None, lambda _: _versions(processes))
    processes.alike("devices", lambda: None, lambda _: _devices())
    return processes


def _versions(processes: Processes) -> Mapping[str, Any]:
    import jax

    return {
        "processes": processes.count,
        "packages": environment()["packages"],
        "jax": jax.__version__,
        "jaxlib": metadata.version("jaxlib"),
        "python": platform.python_version(),
    }


def _devices() -> Mapping[str, Any]:
    import jax

    return {"devices": [device.device_kind for device in jax.local_devices()]}


def _wait_for(coordinator: str) -> None:
    """Waits until something listens at the coordinator's address."""
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
                return
        except OSError as error:
            if time.monotonic() > end or isinstance(error, socket.gaierror):
                raise InputError(
                    f"the coordinator does not answer: start process 0 there, with the same "
                    f"--coordinator, and open the port. Received: {coordinator} ({error})"
                ) from None
        time.sleep(0.2)


def _in_time(cluster: Cluster) -> None:
    """Starts `jax.distributed`, which by itself ends a process that waits in vain by a crash."""
    failures: list[Exception] = []

    def start() -> None:
        try:
            _initialize(cluster)
        except Exception as error:  # JAX raises ValueError, RuntimeError and its own
            failures.append(error)

    thread = threading.Thread(target=start, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    if thread.is_alive():
        raise InputError(
            f"not all processes came within {_PATIENCE} s: start every one with the same "
            f"--coordinator and --processes. Received: {cluster}"
        )
    if failures:
        raise InputError(
            "JAX cannot connect the processes: outside of SLURM and Open MPI give --coordinator, "
            f"--processes and --process. Received: {cluster} ({failures[0]})"
        )


def _initialize(cluster: Cluster) -> None:
    import jax

    jax.distributed.initialize(
        cluster.coordinator,
        cluster.processes,
        cluster.process,
        # by JAX itself it would be a crash with C++'s stack: `_in_time` is sooner
        initialization_timeout=2 * _PATIENCE,
        heartbeat_timeout_seconds=_HEARTBEAT,
        shutdown_timeout_seconds=_HEARTBEAT,
        cluster_detection_method="deactivate" if cluster.coordinator else None,
    )


def check_batch(recipe: Recipe, batch_size: int, processes: Processes) -> None:
    """Raises InputError unless all devices get as many images of every batch."""
    devices = device_count()
    mixes = bool(recipe.augment.mixup or recipe.augment.cutmix)
    pairs = 2 * processes.count if mixes and processes.count > 1 else 1
    unit = math.lcm(devices, pairs)
    if batch_size % unit == 0:
        return
    below = batch_size - batch_size % unit
    fits = [str(size) for size in (below, below + unit) if size]
    mixing = f" and {processes.count} processes that mix images in pairs" if pairs > 1 else ""
    raise InputError(
        f"a batch must be a multiple of {unit}, for {devices} devices{mixing}: --set "
        f"batch_size={' or '.join(fits)}. Received: a batch of {batch_size} images"
    )


def sharing_in_words(processes: Processes, batch_size: int) -> str | None:
    """Says which devices share every batch; None for one device."""
    devices = device_count()
    if devices == 1:
        return None
    where = f" of {processes.count} processes" if processes.count > 1 else ""
    return (
        f"{devices} devices{where} share every batch: {batch_size // devices} of {batch_size} "
        "images each"
    )
