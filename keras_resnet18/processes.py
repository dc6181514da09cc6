"""`Processes`: those that train one network together, what each makes, and how they speak.

JAX connects them (`jax.distributed`); nothing of this package runs between them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from keras_resnet18.errors import InputError

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
