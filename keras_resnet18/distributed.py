"""Which process this is, of those that train one network together, and what they tell one another.

JAX connects them (`jax.distributed`) inside `together(cluster)`, where every process must call the
functions that exchange something. Elsewhere this process is the only one, and JAX is not imported.
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

# Seconds to wait for the others' answers; opening a large set of images takes minutes.
_PATIENCE = 900
# Seconds in which all processes must have started.
_GATHERING = 120
# Seconds without a sign of life after which JAX takes a process for dead, and ends the others.
_HEARTBEAT = 45
# Seconds that a process waits, before it ends, for the others to hear why.
_PARTING = 20
# Seconds that the first process ends after the others, which lose their connection with it.
_HEAD_START = 3

_LONGEST = 200  # characters of a value that is compared as text; a longer one by its SHA-256
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
    """Rows of a global batch that this process makes, in their order.

    Half of them come from the beginning of the batch and half from the mirrored places at its end:
    mixup and CutMix mix mirrored images, so that one process makes both where its number of rows is
    even. Of an odd number, the row in the middle has its mirror image elsewhere.

    Args:
        batch_size: Images in the global batch, a multiple of `count()`.
    """
    half, odd = divmod(batch_size // _place.count, 2)
    front = np.arange(half * _place.index, half * (_place.index + 1))
    middle = half * _place.count + _place.index + np.arange(odd)
    return np.concatenate([front, middle, batch_size - 1 - front[::-1]])


def highest(value: int) -> int:
    """Return the highest of all processes' values. Every process must call it."""
    if _place.count == 1:
        return value
    from jax.experimental import multihost_utils

    return int(multihost_utils.process_allgather(np.array(value, np.int32)).max())


def gather(share: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Join the rows of all processes, bit for bit. Every process must call it.

    Args:
        share: Rows `index()`, `index() + count()`, … of the whole.
        size: Number of rows of the whole.

    Returns:
        The whole, of shape (size, …), on every process.
    """
    if _place.count == 1:
        return share
    from jax.experimental import multihost_utils

    longest = -(-size // _place.count)
    filled = np.zeros((longest, *share.shape[1:]), share.dtype)
    filled[: len(share)] = share
    as_bytes = filled.reshape(longest, -1).view(np.uint8)  # JAX would make float32 of float64
    everyones = np.asarray(multihost_utils.process_allgather(as_bytes))
    whole = np.ascontiguousarray(everyones.swapaxes(0, 1)).reshape(longest * _place.count, -1)
    return whole.view(share.dtype).reshape(-1, *share.shape[1:])[:size]


def alike(name: str, make: Callable[[], T], facts: Callable[[T], Mapping[str, Any]]) -> T:
    """Make the same value on every process, or raise on every process.

    Args:
        name: Name of the value, a different one for each call.
        make: Makes it.
        facts: Gives what must be the same on all processes, as plain values of JSON.

    Raises:
        InputError: If `make` raises one on any process, or the facts differ.
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
    """End the connection, when all processes are done with one another."""
    if _place.count > 1:
        import jax

        jax.distributed.shutdown()  # type: ignore[no-untyped-call]


def _client() -> Any:
    """JAX's key-value store, which has no public name; Orbax uses it in the same way."""
    from jax._src import distributed

    return distributed.global_state.client


def _tell(name: str, answer: Mapping[str, Any]) -> None:
    _client().key_value_set(f"keras-resnet18/{name}/{_place.index}", json.dumps(answer))


def _hear(name: str, number: int) -> dict[str, Any]:
    key = f"keras-resnet18/{name}/{number}"
    try:
        answer: dict[str, Any] = json.loads(_client().blocking_key_value_get(key, _PATIENCE * 1000))
    except RuntimeError as error:  # JAX's, of its coordination service
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
    """Wait a little for the others to hear why this process ends."""
    with contextlib.suppress(RuntimeError):
        _client().wait_at_barrier(f"keras-resnet18/{name}", _PARTING * 1000)
    if is_first():
        time.sleep(_HEAD_START)


def _short(value: Any) -> str:
    """A value of JSON as a short text."""
    text = json.dumps(value)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return text if len(text) <= _LONGEST else f"SHA-256 {digest}"


# Connecting the processes, and sharing every batch among the devices of all of them.


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Where the processes of one training meet. JAX asks SLURM or Open MPI for what is None.

    Attributes:
        coordinator: `"HOST:PORT"` of process 0, with a port that is free there.
        processes: Number of processes.
        process: Number of this one, from 0.
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None

    def __post_init__(self) -> None:
        given = (self.coordinator, self.processes, self.process)
        if None in given and given != (None, None, None):
            raise InputError(
                "coordinator, processes and process go together; without all three, SLURM or Open "
                f"MPI says them. Received: {self}"
            )
        if self.coordinator is None or self.processes is None or self.process is None:
            return
        host, _, port = self.coordinator.rpartition(":")
        is_address = host and port.isdigit() and 0 < int(port) < 2**16
        if not is_address or not 0 <= self.process < self.processes:
            raise InputError(
                "coordinator must be HOST:PORT of process 0, such as node1:12345, and process from "
                f"0 to below processes, a different one for each. Received: {self}"
            )


@contextlib.contextmanager
def together(cluster: Cluster | None) -> Iterator[None]:
    """Connect the processes, and let Keras share every batch among all devices inside.

    Args:
        cluster: Where the processes meet; None for this process alone, with all of its devices.

    Raises:
        InputError: If the backend is not JAX, the processes do not start within two minutes, or
            they run different versions; if another process ends inside.
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
    if backend == "jax":  # TensorFlow reads the images on the CPU; it would take all GPUs' memory
        import tensorflow as tf

        with contextlib.suppress(RuntimeError):  # it has begun with them
            tf.config.set_visible_devices([], "GPU")
    try:
        if cluster is not None:
            import jax

            _place, facts = _connect(cluster), environment()
            same = {"processes": _place.count, **facts["packages"], "python": facts["python"]}
            # JAX's first look at the devices waits for as many processes as it was told of
            alike("start", lambda: same, dict)
            kinds = [device.device_kind for device in jax.local_devices()]
            alike("devices", lambda: kinds, lambda _: {"devices": kinds})
        if device_count() == 1:
            yield
            return
        # each process makes its own rows: Keras would let each make all
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
    """Start `jax.distributed`, which by itself ends a process that waits in vain by a crash."""
    import jax
    from jax._src import distributed

    failures: list[Exception] = []

    def start() -> None:
        try:
            jax.distributed.initialize(
                cluster.coordinator,
                cluster.processes,
                cluster.process,
                # at JAX's own timeout it prints C++'s stack: the one below is sooner
                initialization_timeout=2 * _GATHERING,
                heartbeat_timeout_seconds=_HEARTBEAT,
                shutdown_timeout_seconds=_HEARTBEAT,
                cluster_detection_method="deactivate" if cluster.coordinator else None,
            )
        except Exception as error:  # JAX raises ValueError, RuntimeError and its own
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
    """Raise InputError unless all devices get the same number of images of every batch."""
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
