"""Processes that train one network together: the rank of this one, and exchanges between them.

JAX connects them (`jax.distributed`) inside `together(cluster)`, where every process must call the
collective functions. Elsewhere this process is the only one, and JAX is not imported.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from keras_resnet18.errors import InputError
from keras_resnet18.machine import device_count, environment

T = TypeVar("T")

# Times in seconds
_PATIENCE = 900  # to wait for an answer; opening a large set of images takes minutes
_GATHERING = 120  # for all processes to start
_HEARTBEAT = 45  # without a heartbeat, until JAX considers a process dead and ends the others
_PARTING = 20  # to wait, before ending, until the others have read why
_HEAD_START = 3  # by which the first process outlives the others, which connect through it

_LONGEST = 200  # characters; longer values are compared by their SHA-256
_LOST = re.compile("gloo|nccl|peer|coordination|heartbeat|barrier|distributed", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class _Place:
    index: int = 0
    count: int = 1


_place = _Place()  # set by `together`


def is_first() -> bool:
    """Whether this is the process that writes and prints."""
    return _place.index == 0


def index() -> int:
    """Number of this process, from 0."""
    return _place.index


def count() -> int:
    """Number of processes."""
    return _place.count


def rows(batch_size: int) -> npt.NDArray[np.int64]:
    """Rows of a global batch that this process makes, in order.

    `batch_size`, the size of the global batch, must be a multiple of `count()`. Half of the rows
    are at the beginning of the batch and half at the mirrored positions at its end: mixup and
    CutMix mix mirrored images. If the number of rows is odd, the mirror image of the middle one is
    on another process.
    """
    half, odd = divmod(batch_size // _place.count, 2)
    front = np.arange(half * _place.index, half * (_place.index + 1))
    middle = half * _place.count + _place.index + np.arange(odd)
    return np.concatenate([front, middle, batch_size - 1 - front[::-1]])


def highest(value: int) -> int:
    """Maximum over all processes. Every process must call it."""
    if _place.count == 1:
        return value
    from jax.experimental import multihost_utils

    return int(multihost_utils.process_allgather(np.array(value, np.int32)).max())


def gather(share: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Join the rows of all processes to an array of `size` rows. Every process must call it.

    `share` has the rows `index()`, `index() + count()`, …, which are kept bit for bit.
    """
    if _place.count == 1:
        return share
    from jax.experimental import multihost_utils

    longest = -(-size // _place.count)
    filled = np.zeros((longest, *share.shape[1:]), share.dtype)
    filled[: len(share)] = share
    as_bytes = filled.reshape(longest, -1).view(np.uint8)  # JAX converts float64 to float32
    everyones = np.asarray(multihost_utils.process_allgather(as_bytes))
    whole = np.ascontiguousarray(everyones.swapaxes(0, 1)).reshape(longest * _place.count, -1)
    return whole.view(share.dtype).reshape(-1, *share.shape[1:])[:size]


def alike(name: str, make: Callable[[], T], facts: Callable[[T], Mapping[str, Any]]) -> T:
    """Make a value on every process, or raise InputError on all if one fails or they differ.

    Each call needs another name. `facts` returns what must be equal everywhere, as JSON values.
    """
    if _place.count == 1:
        return make()
    try:
        made = make()
        mine = {key: _short(value) for key, value in facts(made).items()}
    except InputError as error:
        _tell(name, {"error": str(error)})
        _wait_for_others(name)
        raise
    _tell(name, {"facts": mine})
    try:
        for number in range(_place.count):
            _compare(mine, _hear(name, number), number)
    except InputError:
        _wait_for_others(name)
        raise
    return made


def part() -> None:
    """Disconnect from the other processes."""
    if _place.count > 1:
        import jax

        jax.distributed.shutdown()  # type: ignore[no-untyped-call]


def _client() -> Any:
    """JAX's key-value store. It has no public name; Orbax accesses it in the same way."""
    from jax._src import distributed

    return distributed.global_state.client


def _tell(name: str, answer: Mapping[str, Any]) -> None:
    _client().key_value_set(f"keras-resnet18/{name}/{_place.index}", json.dumps(answer))


def _hear(name: str, number: int) -> dict[str, Any]:
    key = f"keras-resnet18/{name}/{number}"
    try:
        answer: dict[str, Any] = json.loads(_client().blocking_key_value_get(key, _PATIENCE * 1000))
    except RuntimeError as error:  # from JAX's coordination service
        raise InputError(
            f"process {number} of {_place.count} does not answer: see what it printed, and start "
            f"all of them again. Received: {str(error).splitlines()[0]}"
        ) from None
    return answer


def _compare(mine: Mapping[str, str], answer: dict[str, Any], number: int) -> None:
    if "error" in answer:
        raise InputError(f"process {number} of {_place.count} ended: {answer['error']}")
    theirs = answer["facts"]
    for key in dict.fromkeys([*mine, *theirs]):
        if mine.get(key) != theirs.get(key):
            raise InputError(
                "all processes must train the same: the same versions, files and settings on "
                f"every machine. Received: {key} {mine.get(key)} on process {_place.index}, "
                f"{theirs.get(key)} on process {number}"
            )


def _wait_for_others(name: str) -> None:
    """Wait until the other processes have read why this one ends."""
    with contextlib.suppress(RuntimeError):
        _client().wait_at_barrier(f"keras-resnet18/{name}", _PARTING * 1000)
    if is_first():
        time.sleep(_HEAD_START)


def _short(value: Any) -> str:
    """Format a JSON value for comparison."""
    text = json.dumps(value)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return text if len(text) <= _LONGEST else f"SHA-256 {digest}"


# Connecting the processes, and sharing every batch among all of their devices.


@dataclasses.dataclass(frozen=True)
class Cluster:
    """How the processes of one training connect; with None, JAX asks SLURM or Open MPI.

    Attributes:
        coordinator: `"HOST:PORT"` of process 0, with a free port.
        processes: Number of processes.
        process: Number of this process, from 0.
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None

    def __post_init__(self) -> None:
        if self.coordinator is None or self.processes is None or self.process is None:
            if (self.coordinator, self.processes, self.process) == (None, None, None):
                return
            raise InputError(
                "coordinator, processes and process go together; without all three, SLURM or Open "
                f"MPI provides them. Received: {self}"
            )
        host, _, port = self.coordinator.rpartition(":")
        is_address = host and port.isdigit() and 0 < int(port) < 2**16
        if not is_address or not 0 <= self.process < self.processes:
            raise InputError(
                "coordinator must be HOST:PORT of process 0, such as node1:12345, and process from "
                f"0 to below processes, a different one for each. Received: {self}"
            )


@contextlib.contextmanager
def together(cluster: Cluster | None) -> Iterator[None]:
    """Connect the processes of a cluster, and share every batch among all devices inside.

    Raises InputError if the processes cannot connect, differ in version, or one of them ends.
    """
    import keras

    global _place
    before = _place
    backend = keras.config.backend()
    if cluster is not None and backend != "jax":
        raise InputError(
            "several processes need Keras on JAX: set KERAS_BACKEND=jax, with pip install "
            "'keras-resnet18[jax-cuda]'; tf.distribute does not work under Keras 3. Received: "
            f"KERAS_BACKEND={backend}"
        )
    if backend == "jax":  # TensorFlow, which reads the images, would allocate all GPU memory
        import tensorflow as tf

        with contextlib.suppress(RuntimeError):  # it has initialized them already
            tf.config.set_visible_devices([], "GPU")
    try:
        if cluster is not None:
            import jax

            _place, facts = _connect(cluster), environment()
            same = {"processes": _place.count, **facts["packages"], "python": facts["python"]}
            # before JAX's first use of the devices, which waits for all processes
            alike("start", lambda: same, dict)
            kinds = [device.device_kind for device in jax.local_devices()]
            alike("devices", lambda: kinds, lambda _: {"devices": kinds})
        if device_count() == 1:
            yield
            return
        # each process makes only its own rows; by default Keras makes each process make all
        with keras.distribution.DataParallel(auto_shard_dataset=False).scope():
            yield
    except Exception as error:
        if isinstance(error, InputError) or _place.count == 1 or not _LOST.search(str(error)):
            raise
        raise InputError(
            f"another process ended: {str(error).splitlines()[0]}. Start all of them again, and "
            "resume the run if its first epoch began"
        ) from error
    finally:
        _place = before


def _connect(cluster: Cluster) -> _Place:
    """Start `jax.distributed` in a thread, because JAX's own timeout aborts the process."""
    import jax
    from jax._src import distributed

    failures: list[Exception] = []

    def start() -> None:
        try:
            jax.distributed.initialize(
                cluster.coordinator,
                cluster.processes,
                cluster.process,
                # later than the timeout below: JAX prints a C++ stack trace
                initialization_timeout=2 * _GATHERING,
                heartbeat_timeout_seconds=_HEARTBEAT,
                shutdown_timeout_seconds=_HEARTBEAT,
                cluster_detection_method="deactivate" if cluster.coordinator else None,
            )
        except Exception as error:  # ValueError, RuntimeError or JAX's own
            failures.append(error)

    thread = threading.Thread(target=start, daemon=True)
    thread.start()
    thread.join(_GATHERING)
    if thread.is_alive():
        raise InputError(
            f"not all processes came within {_GATHERING} s: start every one with the same "
            "coordinator and number of processes, and open the port on the coordinator. "
            f"Received: {cluster}"
        )
    if failures:
        raise InputError(
            "JAX cannot connect the processes: outside of SLURM and Open MPI give coordinator, "
            f"processes and process. Received: {cluster} ({failures[0]})"
        )
    return _Place(distributed.global_state.process_id, distributed.global_state.num_processes)


def check_batch(batch_size: int, *, mixes: bool) -> None:
    """Raise InputError unless the batch can be divided equally among all devices."""
    devices = device_count()
    pairs = 2 * _place.count if mixes and _place.count > 1 else 1
    unit = math.lcm(devices, pairs)
    if batch_size % unit == 0:
        return
    below = batch_size - batch_size % unit
    fits = [str(size) for size in (below, below + unit) if size]
    mixing = f" and {_place.count} processes that mix images in pairs" if pairs > 1 else ""
    raise InputError(
        f"a batch must be a multiple of {unit}, for {devices} devices{mixing}: set "
        f"batch_size to {' or '.join(fits)}. Received: a batch of {batch_size} images"
    )


def sharing_in_words(batch_size: int) -> str | None:
    """Describe how the devices share every batch; None for one device."""
    devices = device_count()
    if devices == 1:
        return None
    where = f" of {_place.count} processes" if _place.count > 1 else ""
    return (
        f"{devices} devices{where} share every batch: {batch_size // devices} of {batch_size} "
        "images each"
    )
