"""Run a command in a child process, and report it if JAX aborts."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from keras_resnet18.errors import InputError

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl
_HANDED_ON = ("SIGINT", "SIGTERM", "SIGHUP")


def watched(work: Callable[[], None]) -> None:
    """Run `work` in a child process, where alone this function returns; exit with its status.

    If another process of a training disappears or does not belong to it, JAX aborts this one and
    prints a C++ stack trace; the parent raises InputError then. Call it before anything is imported
    that starts threads.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _die_with(parent)
        os.setpgid(0, 0)  # so that a terminal's Ctrl-C comes only from the parent
        with _leaving_at_once():
            work()
        return

    def hand_on(number: int, frame: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for name in _HANDED_ON:
        if signal.getsignal(number := getattr(signal, name)) is not signal.SIG_IGN:
            signal.signal(number, hand_on)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        raise InputError(
            f"this process was ended by {signal.Signals(os.WTERMSIG(status)).name}. If JAX printed "
            "the reason above, another process ended, or --processes and --process do not match. "
            "Start all processes again, with --resume if the first epoch began"
        )
    os._exit(os.waitstatus_to_exitcode(status))  # the child has printed its messages


@contextlib.contextmanager
def _leaving_at_once() -> Iterator[None]:
    """After an error, exit without JAX's shutdown, which waits for the other processes.

    Those wait for results of this process until its connections are closed.
    """

    def leave(status: int) -> None:
        sys.stdout.flush()
        os._exit(status)

    try:
        yield
    except BaseException as error:
        status = error.code if isinstance(error, SystemExit) else 1
        interrupted = isinstance(error, KeyboardInterrupt)
        atexit.register(leave, 130 if interrupted else int(status or 0))
        raise


def _die_with(parent: int) -> None:
    """Let this process end when its parent is killed. Only Linux supports it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:  # it was already killed
        os._exit(1)
