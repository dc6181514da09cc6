"""Signals wait for the end of a step, and are as they were afterwards."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from keras_resnet18 import distributed
from keras_resnet18.fit.signals import stop_signals


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "ending", "code"),
    [
        (signal.SIGINT, KeyboardInterrupt, None),
        (signal.SIGTERM, SystemExit, 143),
        (signal.SIGHUP, SystemExit, 129),
    ],
)
def test_the_first_signal_waits_and_the_second_ends_at_once(number, ending, code):
    before = signal.getsignal(number)
    with pytest.raises(ending) as end, stop_signals() as stop, stop.held():
        stop.obey()  # nothing yet
        send(number)
        assert stop.signal == number
        with pytest.raises(ending):
            stop.obey()
        send(number)
        pytest.fail("the second signal did not end it")
    assert code is None or end.value.code == code
    assert signal.getsignal(number) is before


def test_outside_of_fit_the_first_signal_ends_at_once():
    with pytest.raises(SystemExit), stop_signals():
        send(signal.SIGTERM)


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with stop_signals() as stop:
            send(signal.SIGHUP)
            assert stop.signal is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_than_the_main_one_gets_no_handlers():
    before, seen = signal.getsignal(signal.SIGINT), []

    def enter():
        with stop_signals():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.fixture
def other(as_process, monkeypatch):
    """Makes this one of two processes; `other[0]` is the signal that the other one received."""
    as_process(0, 2)
    received = [0]
    monkeypatch.setattr(distributed, "highest", lambda value: max(value, received[0]))
    return received


def test_several_processes_end_at_the_step_at_which_all_know_of_it(other):
    with pytest.raises(SystemExit) as end, stop_signals() as stop, stop.held():
        send(signal.SIGTERM)
        stop.obey()  # the other process does not know of it yet
        assert stop.signal is None
        stop.agree()
        stop.obey()
        pytest.fail("they did not end")
    assert end.value.code == 143


def test_a_signal_of_another_process_ends_this_one_too(other):
    with pytest.raises(KeyboardInterrupt), stop_signals() as stop, stop.held():
        stop.agree()
        stop.obey()  # no signal
        other[0] = signal.SIGINT
        stop.agree()
        stop.obey()
