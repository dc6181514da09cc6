"""Run a command in a child process and report it if JAX aborts."""

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

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux' prctl
_HANDED_ON = ("SIGINT", "SIGTERM", "SIGHUP")


def watched(work: Callable[[], None]) -> None:
    """Does the work in a process of its own, and gives its exit status.

    Where another process of a training is gone, or does not belong to it, JAX ends this one by
    abort(), with a stack of C++ in the place of a message and of an exit status. Call it before
    anything is imported that starts threads.

    Args:
        work: What the command does; in the new process this function returns after it.

    Raises:
        InputError: If the process was ended by a signal.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _die_with(parent)
        os.setpgid(0, 0)  # a terminal's Ctrl-C comes once, from the parent
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
            f"this process was ended by {signal.Signals(os.WTERMSIG(status)).name}: if JAX did so, "
            "above it says why, another process ended, or the numbers of --processes and --process "
            "differ between them. Start all of them again, with --resume if the first epoch began"
        )
    os._exit(os.waitstatus_to_exitcode(status))  # the child has said what there is to say


@contextlib.contextmanager
def _leaving_at_once() -> Iterator[None]:
    """After an error, ends the process without JAX's farewell, in which it waits for the others.

    They in turn wait for what this one was to compute, until its connections are closed.
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
    """Ends this process when its parent is killed; only Linux can do it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:  # it was killed before
        os._exit(1)
