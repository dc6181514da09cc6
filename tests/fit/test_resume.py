"""A training stops between two steps, and goes on there from a checkpoint that is whole."""

from __future__ import annotations

import dataclasses
import errno
import io
import os
import signal
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from keras_resnet18 import distributed
from keras_resnet18.errors import InputError
from keras_resnet18.fit import phases, resume
from keras_resnet18.fit.callbacks import BestModel, EarlyEnd, History
from keras_resnet18.fit.resume import (
    Checkpoint,
    Checkpoints,
    Stop,
    load_checkpoint,
    save_checkpoint,
    stop_signals,
)
from keras_resnet18.recipe import Optimizer, Recipe

STEPS = 5


# signals


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


@pytest.mark.parametrize(
    ("mine", "other", "ending"),
    [(signal.SIGTERM, 0, SystemExit), (0, signal.SIGINT, KeyboardInterrupt)],
)
def test_several_processes_end_at_the_same_step(as_process, monkeypatch, mine, other, ending):
    as_process(0, 2)
    monkeypatch.setattr(distributed, "highest", lambda value: max(value, other))
    with pytest.raises(ending), stop_signals() as stop, stop.held():
        if mine:
            send(mine)
        stop.obey()  # the other process does not know of it yet
        stop.agree()
        stop.obey()
        pytest.fail("they did not end")


# checkpoints


def made(step):
    random = np.random.default_rng(step)
    return Checkpoint(
        phase=0,
        epoch=2,
        step=step,
        seconds=1.5,
        total_seconds=90.25,
        rows=[{"epoch": 1, "loss": float("nan")}, {"epoch": 2, "loss": 0.1 + 0.2}],
        settings={"classes": ["ant", "蝉"]},
        values=[random.random((40, 50), np.float32), np.array([1, 2], np.uint32), np.int64(7)],
        best=[random.random(3)],
    )


def same(a, b):
    """Whether two checkpoints have the same bits; NaN equals NaN."""
    plain = [dataclasses.replace(c, values=[], best=[]) for c in (a, b)]
    return repr(plain[0]) == repr(plain[1]) and all(
        np.array_equal(x, y) and np.asarray(x).dtype == y.dtype
        for x, y in zip([*a.values, *a.best], [*b.values, *b.best], strict=True)
    )


def load(folder):
    """The checkpoint, and the lines that were printed."""
    printed = io.StringIO()
    found = load_checkpoint(folder, Console(file=printed, soft_wrap=True))
    return found, printed.getvalue().splitlines()


def test_what_is_loaded_is_what_was_saved(tmp_path):
    assert load(tmp_path / "checkpoints") == (None, [])
    save_checkpoint(made(3), tmp_path / "checkpoints")
    loaded, said = load(tmp_path / "checkpoints")
    assert same(made(3), loaded)
    assert said == []


def test_the_newest_two_are_kept(tmp_path):
    for step in (9, 10, 100):
        save_checkpoint(made(step), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert load(tmp_path)[0].step == 100


@pytest.mark.parametrize("position", range(5, 100, 6))
@pytest.mark.parametrize("harm", ["flip", "cut"])
def test_a_damaged_newest_one_is_set_aside_and_the_one_before_is_used(tmp_path, position, harm):
    for step in (1, 2):
        save_checkpoint(made(step), tmp_path)
    newest = max(tmp_path.iterdir())
    data = bytearray(newest.read_bytes())
    at = len(data) * position // 100
    if harm == "flip":
        data[at] ^= 0x10
    else:
        del data[at:]
    newest.write_bytes(data)
    loaded, said = load(tmp_path)
    if harm == "flip" and not said:  # in the time that the zip format notes for each file
        assert same(loaded, made(2))
        return
    assert same(loaded, made(1))
    (line,) = said
    assert newest.name in line and "damaged" in line
    assert not newest.exists()  # or it would be kept in the place of a good one
    assert newest.with_name(f"{newest.name}.damaged").read_bytes() == data


def test_where_none_is_whole_a_training_does_not_begin_anew_without_a_word(tmp_path):
    for step in (1, 2):
        save_checkpoint(made(step), tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(b"garbage")
    for _ in range(2):
        with pytest.raises(InputError, match=r"no checkpoint .* is whole.*step00000001\.npz\.dam"):
            load(tmp_path)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"garbage"] * 2


@pytest.mark.parametrize("errno_", ["ESTALE", "EIO", "EACCES"])
def test_a_disk_that_does_not_answer_costs_no_checkpoint(tmp_path, monkeypatch, errno_):
    save_checkpoint(made(1), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(path, **options):
        raise OSError(getattr(errno, errno_), "the disk does not answer", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(resume.np, "load", fail)
        with pytest.raises(InputError, match="cannot be read: the disk does not answer"):
            load(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert same(load(tmp_path)[0], made(1))


def test_a_checkpoint_of_another_version_is_refused_and_stays(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(resume, "_VERSION", 0)
        save_checkpoint(made(1), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match=r"by the version .* of format 0, not 1"):
        load(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


# what resuming relies on in Keras, which its documentation does not promise


def build():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dropout(0.3), keras.layers.Dense(2, activation="softmax")]
    model = keras.Sequential([keras.Input((2,)), *layers])
    recipe = Recipe(epochs=1, optimizer=Optimizer(learning_rate=0.1, warmup_epochs=0))
    phases.compile_model(model, recipe, steps_per_epoch=STEPS)
    return model


def batches(first_step=0):
    """An endless dataset whose batch g is a function of g, and the numbers that were taken."""
    taken = []

    def batch(g):
        taken.append(int(g))
        return np.full((4, 2), g, np.float32) / STEPS

    def example(g):
        inputs = tf.ensure_shape(tf.numpy_function(batch, [g], tf.float32), (4, 2))
        return inputs, tf.stack([g % 2, (g + 1) % 2, g % 2, 1])

    return tf.data.Dataset.range(first_step, 2**40).map(example), taken


def fit(model, folder, stop, start=None, first_step=0):
    history = History(4, lambda rows: None)
    best = BestModel(model, history, Path(folder) / "model.keras")
    ending = EarlyEnd(Recipe(), history, STEPS)
    checkpoints = Checkpoints(
        Path(folder), model, history, best, ending, settings={}, stop=stop, start=start
    )
    if start is not None:
        history.rows, history.first_step = start.rows, start.step
        assert checkpoints.restore(model) == (start.epoch, start.step)
    training, taken = batches(first_step)
    validation = batches()[0].take(1)
    callbacks = [history, best, ending, checkpoints]
    phases.fit(model, (training, validation), STEPS, (0, 1), callbacks)
    return history, taken, best


class Interrupt(Stop):
    """A request to end that comes in the second step."""

    asked = 0

    def obey(self):
        self.asked += 1
        if self.asked == 2:
            raise KeyboardInterrupt


def test_fit_takes_exactly_the_steps_that_are_left(tmp_path, monkeypatch):
    """`fit` calls `model.train_function`, which exists when training begins, once a step.

    test_portability.py runs it on JAX as well, where the trainer has the state.

    If a new Keras fails here, `Checkpoints._skip_steps` needs another way to skip.
    """
    monkeypatch.setattr(resume, "EVERY", 0)
    monkeypatch.setattr(resume, "TIMES_ITS_COST", 0)
    whole = build()
    history, _, best = fit(whole, tmp_path / "whole", Stop())
    rows, kept = history.rows, best.weights
    with pytest.raises(KeyboardInterrupt):
        fit(build(), tmp_path / "stopped", Interrupt())
    start, _ = load(tmp_path / "stopped")
    assert start is not None and (start.epoch, start.step) == (0, 2)
    resumed = build()
    history, taken, best = fit(resumed, tmp_path / "stopped", Stop(), start, first_step=2)
    assert taken[0] == 2
    assert int(resumed.optimizer.iterations.numpy()) == STEPS
    ours, theirs = [*resumed.get_weights(), *best.weights], [*whole.get_weights(), *kept]
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, other)
    for ours, theirs in zip(history.rows, rows, strict=True):
        del ours["images_per_second"], theirs["images_per_second"]
        assert ours == theirs
