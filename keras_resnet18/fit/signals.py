"""Signals that end a training: the step is finished and saved first, a second one ends at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from keras_resnet18 import distributed

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class Stop:
    """A request to end, such as Ctrl-C.

    Attributes:
        signal: Number of the signal, or None. Of several processes each has the same one, which
            `agree` finds out.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._received: int | None = None
        self._held = False

    def agree(self) -> None:
        """Hears of the signals of other processes; all of them must call it between two steps."""
        if distributed.count() > 1:
            self.signal = distributed.highest(self._received or 0) or None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Inside, the first signal only sets `signal`; call `obey` between steps."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def obey(self) -> None:
        """Raises KeyboardInterrupt for SIGINT, SystemExit(128 + signal) for another signal."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(128 + self.signal)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, self._received = self._received is None, number
        if distributed.count() == 1 or not (first and self._held):
            self.signal = number
        if not (first and self._held):
            self.obey()


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """Receives SIGINT, SIGTERM and SIGHUP inside, and restores their handlers.

    A signal that the process ignores stays ignored (`nohup`). Outside of the main thread, where
    Python allows no handlers, nothing is received.
    """
    stop = Stop()
    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in _NAMES:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, stop._handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
