"""`Processes`: those that train one network together, what each makes, and how they speak.

JAX connects them (`jax.distributed`); nothing of this package runs between them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import platform
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Any, TypeVar

import keras
import numpy as np
import numpy.typing as npt

from keras_resnet18.errors import InputError, within
from keras_resnet18.machine import device_count, environment

T = TypeVar("T")

# Seconds to wait for the others' answers; opening a large set of images takes minutes.
_PATIENCE = 900
_PARTING = 20
_HEAD_START = 3  # of the others, which then end before the first process does
_LONGEST = 200  # characters of a value that is compared as it stands; a longer one by its SHA-256
_LOST = re.compile("gloo|nccl|peer|coordination|heartbeat|barrier|distributed", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Processes:
    """This process among those that train one network together.

    Attributes:
        index: Number of this process, from 0. The first one alone writes and prints.
        count: How many there are.
    """

    index: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.index == 0

    def rows(self, batch_size: int) -> npt.NDArray[np.int64]:
        """The rows of a global batch that this process makes, in their order.

        As many come from its beginning as from its end, at the mirrored places: so the two images
        that mixup and CutMix mix are made by one process, where its number of rows is even. Of an
        odd number, the one in the middle has its mirror image elsewhere.

        Args:
            batch_size: Images in the global batch, a multiple of `count`.
        """
        half, odd = divmod(batch_size // self.count, 2)
        front = np.arange(half * self.index, half * (self.index + 1))
        middle = half * self.count + self.index + np.arange(odd)
        return np.concatenate([front, middle, batch_size - 1 - front[::-1]])

    def highest(self, value: int) -> int:
        """The highest of all processes' values. All of them must ask, and wait for one another."""
        if self.count == 1:
            return value
        from jax.experimental import multihost_utils

        return int(multihost_utils.process_allgather(np.array(value, np.int32)).max())

    def gather(self, share: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
        """Puts together what all processes made, bit for bit. All of them must ask.

        Args:
            share: Rows `index`, `index + count`, … of the whole.
            size: Rows of the whole.

        Returns:
            The whole, of shape (size, …), on every process.
        """
        if self.count == 1:
            return share
        from jax.experimental import multihost_utils

        rows = -(-size // self.count)
        filled = np.zeros((rows, *share.shape[1:]), share.dtype)
        filled[: len(share)] = share
        as_bytes = filled.reshape(rows, -1).view(np.uint8)  # JAX would make float32 of float64
        everyones = np.asarray(multihost_utils.process_allgather(as_bytes))
        whole = np.ascontiguousarray(everyones.swapaxes(0, 1)).reshape(rows * self.count, -1)
        return whole.view(share.dtype).reshape(-1, *share.shape[1:])[:size]

    def alike(self, name: str, make: Callable[[], T], facts: Callable[[T], Mapping[str, Any]]) -> T:
        """Makes the same on every process, or raises on every process.

        Args:
            name: Of what is made, a different one for each call.
            make: Makes it.
            facts: What of it must be the same on all processes, as plain values of JSON.

        Raises:
            InputError: If `make` does, on this process or on another, or the facts differ.
        """
        if self.count == 1:
            return make()
        try:
            made = make()
            mine = _short(facts(made))
        except InputError as error:
            self._tell(name, {"error": str(error)})
            self._part(name)
            raise
        self._tell(name, {"facts": mine})
        try:
            for number in range(self.count):
                self._compare(mine, self._hear(name, number), number)
        except InputError:
            self._part(name)
            raise
        return made

    def part(self) -> None:
        """Ends the connection, when all processes are done with one another."""
        if self.count > 1:
            import jax

            jax.distributed.shutdown()  # type: ignore[no-untyped-call]

    def why_lost(self, error: BaseException) -> str | None:
        """What ended another process, if that is why this one failed; None if it is not."""
        if isinstance(error, InputError) or self.count == 1 or not _LOST.search(str(error)):
            return None
        return f"another process ended: {str(error).splitlines()[0]}"

    def _tell(self, name: str, answer: Mapping[str, Any]) -> None:
        _client().key_value_set(f"keras-resnet18/{name}/{self.index}", json.dumps(answer))

    def _hear(self, name: str, number: int) -> dict[str, Any]:
        key = f"keras-resnet18/{name}/{number}"
        try:
            answer: dict[str, Any] = json.loads(
                _client().blocking_key_value_get(key, _PATIENCE * 1000)
            )
        except RuntimeError as error:  # JAX's, of its coordination service
            raise InputError(
                f"process {number} of {self.count} does not answer: see what it printed, and start "
                f"all of them again. Received: {str(error).splitlines()[0]}"
            ) from None
        return answer

    def _compare(self, mine: Mapping[str, str], answer: dict[str, Any], number: int) -> None:
        if "error" in answer:
            raise InputError(f"process {number} of {self.count} ended: {answer['error']}")
        theirs = answer["facts"]
        for key in dict.fromkeys([*mine, *theirs]):
            if mine.get(key) != theirs.get(key):
                raise InputError(
                    "all processes must train the same: the same versions, files and settings on "
                    f"every machine. Received: {key} {mine.get(key)} on process {self.index}, "
                    f"{theirs.get(key)} on process {number}"
                )

    def _part(self, name: str) -> None:
        """Waits a little for the others to hear why: the first process's end cuts them off."""
        with contextlib.suppress(RuntimeError):
            _client().wait_at_barrier(f"keras-resnet18/{name}", _PARTING * 1000)
        if self.is_first:
            time.sleep(_HEAD_START)


ALONE = Processes()


def _client() -> Any:
    """JAX's key-value store, which has no public name; Orbax uses it in the same way."""
    from jax._src import distributed

    return distributed.global_state.client


def _short(facts: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested facts as one table of short texts."""
    table: dict[str, str] = {}
    for key, value in facts.items():
        if isinstance(value, Mapping) and value:
            table |= _short(value, f"{prefix}{key}.")
            continue
        text = json.dumps(value)
        if len(text) > _LONGEST:
            text = f"SHA-256 {hashlib.sha256(text.encode()).hexdigest()[:16]}"
        table[f"{prefix}{key}"] = text
    return table


# Training on all devices of this machine, or of several: Keras' `DataParallel` on JAX.

# Seconds in which all processes must have come.
_GATHERING = 120
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
    end = time.monotonic() + _GATHERING
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
    thread.join(_GATHERING)
    if thread.is_alive():
        raise InputError(
            f"not all processes came within {_GATHERING} s: start every one with the same "
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
        initialization_timeout=2 * _GATHERING,
        heartbeat_timeout_seconds=_HEARTBEAT,
        shutdown_timeout_seconds=_HEARTBEAT,
        cluster_detection_method="deactivate" if cluster.coordinator else None,
    )


def check_batch(batch_size: int, processes: Processes, *, mixes: bool) -> None:
    """Raises InputError unless all devices get as many images of every batch."""
    devices = device_count()
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
