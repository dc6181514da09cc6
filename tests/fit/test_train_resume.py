"""A training that was stopped at any moment goes on as if it had not been stopped."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from rich.console import Console
from small import build_tiny, train_quickly

from keras_resnet18 import from_arrays, load_run, report, save_weights, train
from keras_resnet18.errors import InputError
from keras_resnet18.fit import callbacks as ending
from keras_resnet18.fit import resume, task
from keras_resnet18.fit import train as trainer
from keras_resnet18.fit.resume import Checkpoints
from keras_resnet18.recipe import Augment, Finetune, Optimizer, Recipe
from keras_resnet18.run import Run

QUIET = Console(quiet=True)
STEPS = 6  # of an epoch: 49 images in batches of 8
TESTS = Path(__file__).parents[1]

Act = Callable[[Checkpoints], None]


class Killed(BaseException):
    """In the place of a kill: nothing of the library expects it."""


def kill(checkpoints: Checkpoints) -> None:
    raise Killed


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        train_quickly(patch)
        yield


@pytest.fixture(scope="module")
def scratch(quick_recipe: Recipe) -> Recipe:
    """All that is random: order, augmentation, dropout; and all that goes on from step to step."""
    return dataclasses.replace(
        quick_recipe,
        optimizer=dataclasses.replace(
            quick_recipe.optimizer, clip_norm=1.0, class_weights="balanced"
        ),
        augment=Augment(shift=1, flip=True, mixup=0.2, cutmix=1.0, jitter=0.2),
        network=dataclasses.replace(quick_recipe.network, dropout=0.3),
    )


@pytest.fixture(scope="module")
def finetune(scratch: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Two epochs of the head, two of all weights, with loss scaling and AdamW."""
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_weights(build_tiny(input_shape=(16, 16, 3), classes=3, stem="", dropout=0), path)
    return dataclasses.replace(
        scratch,
        epochs=2,
        precision="mixed_float16",
        optimizer=Optimizer(name="adamw", learning_rate=0.002),
        finetune=Finetune(str(path), head_epochs=2, head_learning_rate=0.01),
    )


@pytest.fixture(scope="module")
def whole(
    images: Path, scratch: Recipe, finetune: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Run]:
    """The trainings that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    return {
        name: train(images, recipe, folder / name, console=QUIET)
        for name, recipe in (("scratch", scratch), ("finetune", finetune))
    }


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets a training save after every step, and do something after one of them."""
    monkeypatch.setattr(resume, "TIMES_ITS_COST", 0)
    monkeypatch.setattr(resume, "EVERY", 0)
    monkeypatch.setattr(resume, "AT_AN_EPOCH", 0)

    return functools.partial(stop_after, monkeypatch)


def stop_after(patch: pytest.MonkeyPatch, method: str, count: int, act: Act) -> None:
    """Lets a callback do something once, after so many calls of one of its methods."""
    original, calls = getattr(Checkpoints, method), []

    def end(self: Checkpoints, number: int, logs: Any = None) -> None:
        original(self, number, logs)
        calls.append(number)
        if len(calls) == count:
            act(self)

    patch.setattr(Checkpoints, method, end)


def assert_same(run: Run, other: Run) -> None:
    """Bit-equal weights and metrics, and equal histories but for the times."""
    for ours, theirs in zip(run.model.get_weights(), other.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert run.metrics == other.metrics
    assert rows(run) == rows(other)
    assert {path.name for path in run.path.iterdir()} == {p.name for p in other.path.iterdir()}


def rows(run: Run) -> list[dict[str, str]]:
    with run.history_file.open(newline="") as file:
        return [
            {key: value for key, value in row.items() if key != "images_per_second"}
            for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize(
    ("name", "method", "count"),
    [
        ("scratch", "on_train_batch_end", STEPS),  # before validation
        ("scratch", "on_epoch_end", 1),
        ("scratch", "on_epoch_end", 3),  # before the evaluation
        ("finetune", "on_train_batch_end", STEPS + 2),
        ("finetune", "on_epoch_end", 2),  # between the phases
        ("finetune", "on_train_batch_end", 2 * STEPS + 3),
    ],
)
def test_a_resumed_training_has_the_bits_of_one_that_nothing_stopped(
    images, scratch, finetune, whole, stop_at, tmp_path, name, method, count
):
    recipe = {"scratch": scratch, "finetune": finetune}[name]
    stop_at(method, count, kill)
    with pytest.raises(Killed):
        train(images, recipe, tmp_path / "run", console=QUIET)
    keras.utils.set_random_seed(99)  # what went before does not count
    assert_same(train(resume=tmp_path / "run", console=QUIET), whole[name])


KILLED = """
import sys
from pathlib import Path
from rich.console import Console
from small import build_tiny, train_quickly
from keras_resnet18.machine import start_keras
start_keras()
from keras_resnet18 import train
from keras_resnet18.fit import network
from keras_resnet18.fit import train as trainer
from keras_resnet18.fit import callbacks as ending, resume
from keras_resnet18.fit.resume import Checkpoints
network.BUILDERS["resnet18"] = build_tiny
resume.EVERY = resume.TIMES_ITS_COST = 0
step = Checkpoints.on_train_batch_end
def say(self, batch, logs=None):
    step(self, batch, logs)
    print(self, flush=True)
Checkpoints.on_train_batch_end = say
train(sys.argv[1], sys.argv[2], sys.argv[3], console=Console(quiet=True))
"""


def test_a_training_killed_in_the_middle_of_an_epoch_goes_on_bit_equal(
    images, scratch, whole, tmp_path
):
    (tmp_path / "recipe.toml").write_text(scratch.to_toml())
    words = [str(images), str(tmp_path / "recipe.toml"), str(tmp_path / "run")]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, *words],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [TESTS, TESTS.parent]))},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch 2, step 3 of 6"):
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(InputError, match="is an unfinished run: go on with"):
        load_run(tmp_path / "run")
    said = io.StringIO()
    assert_same(train(resume=tmp_path / "run", console=Console(file=said)), whole["scratch"])
    assert "going on at epoch 2, step " in said.getvalue()


@pytest.mark.parametrize(
    ("method", "count", "number"),
    [
        ("on_train_batch_end", STEPS + 2, signal.SIGINT),
        ("on_test_batch_end", 2, signal.SIGTERM),  # in validation
    ],
)
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(
    images, scratch, whole, stop_at, monkeypatch, tmp_path, method, count, number
):
    handler = signal.getsignal(number)
    stop_at(method, count, lambda checkpoints: os.kill(os.getpid(), number))
    monkeypatch.setattr(resume, "EVERY", 1e9)  # the signal alone makes it save
    monkeypatch.setattr(resume, "AT_AN_EPOCH", 1e9)
    said = io.StringIO()
    with pytest.raises((KeyboardInterrupt, SystemExit)) as end:
        train(images, scratch, tmp_path / "run", console=Console(file=said, soft_wrap=True))
    if number == signal.SIGINT:
        assert end.type is KeyboardInterrupt
    else:
        assert end.value.code == 128 + number
    assert signal.getsignal(number) is handler
    best = tmp_path / "run" / "model.keras"
    assert said.getvalue().splitlines()[-1] == (
        f"{tmp_path / 'run'} is an unfinished run: go on with keras-resnet18 train --resume "
        f"{tmp_path / 'run'}; its best model so far is {best}"
    )
    assert keras.saving.load_model(best).output_shape == (None, 3)
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1
    assert_same(train(resume=tmp_path / "run", console=QUIET), whole["scratch"])


def fill_disk(checkpoints: Checkpoints) -> None:
    """Lets no file grow beyond a kilobyte."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))


def turn_read_only(checkpoints: Checkpoints) -> None:
    """Moves the checkpoints away, to where a folder cannot be made: root may write anywhere."""
    checkpoints._folder.rename(checkpoints._folder.with_name("kept"))
    checkpoints._folder.touch()


@pytest.mark.parametrize("harm", [fill_disk, turn_read_only])
def test_a_place_that_cannot_be_written_is_a_clear_stop_and_costs_no_checkpoint(
    images, scratch, whole, stop_at, monkeypatch, tmp_path, harm
):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    stop_at("on_train_batch_end", STEPS + 2, harm)
    try:
        with pytest.raises(InputError) as error:
            train(images, scratch, tmp_path / "run", console=QUIET)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot be written, at epoch 2, step 3 of 6 (learning rate 0.0" in str(error.value)
    assert "\n" not in str(error.value)
    run = Run(tmp_path / "run")
    if harm is turn_read_only:
        run.checkpoints_folder.unlink()
        (run.path / "kept").rename(run.checkpoints_folder)
    assert len(list(run.checkpoints_folder.iterdir())) == 2
    if harm is fill_disk:
        assert_same(train(resume=run.path, console=QUIET), whole["scratch"])


def test_a_training_that_diverges_names_the_step_and_the_rate(images, scratch, stop_at, tmp_path):
    stop_at("on_epoch_end", 99, kill)
    hot = dataclasses.replace(scratch.optimizer, learning_rate=1e30)
    recipe = dataclasses.replace(scratch, optimizer=hot)
    with pytest.raises(InputError) as error:
        train(images, recipe, tmp_path / "run", console=QUIET)
    text = str(error.value)
    assert "diverged at epoch 1, step " in text and "(learning rate 9.7e+29)" in text
    assert "lower optimizer.learning_rate" in text and "\n" not in text


def test_a_diverged_training_leaves_its_last_good_checkpoint(images, scratch, stop_at, tmp_path):
    def spoil(checkpoints: Checkpoints) -> None:
        weight = checkpoints.model.trainable_variables[0]
        weight.assign(np.full(weight.shape, np.nan))

    stop_at("on_train_batch_end", STEPS + 2, spoil)
    printed = io.StringIO()
    with pytest.raises(InputError, match="diverged at epoch 2, step 3 of 6"):
        train(images, scratch, tmp_path / "run", console=Console(file=printed, width=500))
    last = printed.getvalue().splitlines()[-1]
    assert "model.keras; with --overwrite a new training takes its place" in last
    assert "--resume" not in last  # it would diverge again
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    assert newest.name == "epoch00001-step00000002.npz"
    with np.load(newest) as file:
        assert all(np.isfinite(file[name]).all() for name in file.files)


@pytest.fixture(scope="module")
def stopped_once(
    images: Path, scratch: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Images, and the folder of a training of them that was stopped in its second epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    copy = Path(shutil.copytree(images, folder / "images"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resume, "TIMES_ITS_COST", 0)
        patch.setattr(resume, "EVERY", 0)
        stop_after(patch, "on_train_batch_end", STEPS + 2, kill)
        with pytest.raises(Killed):
            train(copy, scratch, folder / "run", console=QUIET)
    return copy, folder / "run"


@pytest.fixture
def stopped(stopped_once: tuple[Path, Path], tmp_path: Path) -> Run:
    """A copy of `stopped_once` to change; the images lie beside it."""
    run = Run(Path(shutil.copytree(stopped_once[1], tmp_path / "run")))
    shutil.copytree(stopped_once[0], tmp_path / "images")
    run.write_json(run.environment_file, {**run.environment, "source": str(tmp_path / "images")})
    return run


def change_recipe(run: Run) -> None:
    text = run.recipe_file.read_text()
    run.recipe_file.write_text(text.replace("learning_rate = 0.002", "learning_rate = 0.003"))


def change_classes(run: Run) -> None:
    images = Path(run.source or "")
    for split in ("train", "val", "test"):
        (images / split / "bee").rename(images / split / "wasp")


def remove_an_image(run: Run) -> None:
    (Path(run.source or "") / "train" / "bee" / "0.png").unlink()


def change_an_image(run: Run) -> None:
    with (Path(run.source or "") / "val" / "bee" / "0.png").open("ab") as file:
        file.write(b"more")


def change_pixels(run: Run) -> None:
    """The file keeps its size."""
    file = Path(run.source or "") / "train" / "bee" / "0.png"
    content = file.read_bytes()
    file.write_bytes(content[:-40] + bytes(28) + content[-12:])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_pixels, "images.train: 49 images, now 49 others"),
        (change_recipe, "recipe.optimizer.learning_rate: 0.002, now 0.003"),
        (change_classes, "classes: ['ant', 'bee', '蝉'], now ['ant', 'wasp', '蝉']"),
        (remove_an_image, "images.train: 49 images, now 48 images"),
        (change_an_image, "images.validation: 9 images, now 9 others"),
    ],
)
def test_a_training_does_not_go_on_with_something_else(stopped, change, words):
    change(stopped)
    with pytest.raises(InputError) as error:
        train(resume=stopped.path, console=QUIET)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert stopped.checkpoints_folder.is_dir()


def test_other_test_images_are_said_and_looked_at(stopped):
    folder = Path(stopped.source or "")
    shutil.copy(folder / "train" / "ant" / "0.png", folder / "test" / "bee" / "copy.png")
    said = io.StringIO()
    run = train(resume=stopped.path, console=Console(file=said, soft_wrap=True))
    n = run.metrics["test"]["n"]
    assert f"other images than when the training began: images.test: {n - 1} images, now {n}" in (
        said.getvalue()
    )
    assert "the same image in more than one class: 1, such as " in said.getvalue()
    assert run.metrics["images"]["findings"]
    assert run.environment["images"]["test"]["n"] == n
    assert report(run).is_file()


def test_another_number_of_threads_is_said(stopped, monkeypatch):
    environment = task.environment
    monkeypatch.setattr(task, "environment", lambda: {**environment(), "threads": 64})
    monkeypatch.setattr(trainer, "train_network", lambda *_, **__: kill(_[0]))
    said = io.StringIO()
    with pytest.raises(Killed):
        train(resume=stopped.path, console=Console(file=said, soft_wrap=True))
    threads = environment()["threads"]
    assert f"in rounding: threads: {threads}, now 64\n" in said.getvalue()


def test_images_that_have_moved_are_named_and_the_run_knows_where(stopped, whole, tmp_path):
    moved = (tmp_path / "images").rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"images'.*--data"):
        train(resume=stopped.path, console=QUIET)
    run = train(moved, resume=stopped.path, console=QUIET)
    assert_same(run, whole["scratch"])
    assert run.source == str(moved)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(stopped, whole):
    newest = max(stopped.checkpoints_folder.iterdir())
    newest.write_bytes(newest.read_bytes()[:-200])
    said = io.StringIO()
    run = train(resume=stopped.path, console=Console(file=said, soft_wrap=True))
    assert f"the checkpoint {newest} is damaged" in said.getvalue()
    assert "going on at epoch 2, step 1\n" in said.getvalue()
    assert_same(run, whole["scratch"])


def test_without_a_checkpoint_it_begins_at_the_first_step(stopped, whole):
    shutil.rmtree(stopped.checkpoints_folder)
    said = io.StringIO()
    run = train(resume=stopped.path, console=Console(file=said))
    assert "going on at the first step" in said.getvalue()
    assert_same(run, whole["scratch"])


def test_a_training_that_was_out_of_patience_stays_ended(
    images, scratch, stop_at, tmp_path, monkeypatch
):
    monkeypatch.setattr(ending, "best_row", lambda rows: rows[0])
    recipe = dataclasses.replace(scratch, epochs=5, patience=1)
    said = io.StringIO()
    patient = train(images, recipe, tmp_path / "patient", console=Console(file=said, width=200))
    assert [row["epoch"] for row in rows(patient)] == ["1", "2"]
    assert "ended by patience=1 after epoch 2 of 5, at a learning rate of" in said.getvalue()
    stop_at("on_epoch_end", 2, kill)
    with pytest.raises(Killed):
        train(images, recipe, tmp_path / "run", console=QUIET)
    assert_same(train(resume=tmp_path / "run", console=QUIET), patient)


def test_a_training_out_of_time_ends_between_two_steps_and_keeps_what_it_has(
    images, scratch, stop_at, tmp_path
):
    recipe = dataclasses.replace(scratch, max_minutes=60.0, patience=None)

    def an_hour_passes(checkpoints: Checkpoints) -> None:
        checkpoints._ending.resume(3600.0)

    stop_at("on_train_batch_end", STEPS + 2, an_hour_passes)
    said = io.StringIO()
    run = train(images, recipe, tmp_path / "run", console=Console(file=said, width=200))
    assert [(row["epoch"], row["steps"]) for row in rows(run)] == [("1", "6"), ("2", "3")]
    assert "ended by max_minutes=60 in epoch 2 of 3, at a learning rate of" in said.getvalue()
    assert run.metrics["epochs"] == 2
    assert run.model_file.is_file()


def test_time_of_earlier_processes_counts(images, scratch, stop_at, tmp_path):
    recipe = dataclasses.replace(scratch, max_minutes=60.0)

    def an_hour_passes(checkpoints: Checkpoints) -> None:
        checkpoints._ending.resume(3600.0)
        checkpoints._save(checkpoints._values(checkpoints.model.metrics_variables))
        raise Killed

    stop_at("on_epoch_end", 1, an_hour_passes)
    with pytest.raises(Killed):
        train(images, recipe, tmp_path / "run", console=QUIET)
    run = train(resume=tmp_path / "run", console=QUIET)
    assert [row["epoch"] for row in rows(run)] == ["1"]


def test_a_finished_run_has_nothing_to_go_on_with(whole):
    said = io.StringIO()
    run = train(resume=whole["scratch"].path, console=Console(file=said, soft_wrap=True))
    finished = f"{run.path} is finished: there is nothing to go on with"
    assert said.getvalue() == f"{finished}; keras-resnet18 report {run.path} makes its page\n"
    assert run.metrics == whole["scratch"].metrics


@pytest.mark.parametrize(
    "arguments", [{"recipe": "digits"}, {"out": "x"}, {"settings": ["seed=1"]}, {"overwrite": True}]
)
def test_a_training_is_resumed_as_it_was_begun(whole, arguments):
    with pytest.raises(InputError, match="resumed as it was begun"):
        train(resume=whole["scratch"].path, console=QUIET, **arguments)


def test_an_overwriting_training_that_was_killed_goes_on_in_place(
    images, scratch, whole, stop_at, tmp_path
):
    old = Run(Path(shutil.copytree(whole["finetune"].path, tmp_path / "run")))
    before = old.metrics_file.read_bytes(), old.model_file.read_bytes()
    stop_at("on_train_batch_end", STEPS + 2, kill)
    said = io.StringIO()
    with pytest.raises(Killed):
        console = Console(file=said, soft_wrap=True)
        train(images, scratch, old.path, overwrite=True, console=console)
    kept = load_run(old.path)
    assert (kept.metrics_file.read_bytes(), kept.model_file.read_bytes()) == before
    assert f"go on with keras-resnet18 train --resume {old.path};" in said.getvalue()
    assert_same(train(resume=old.path, console=QUIET), whole["scratch"])


def test_arrays_are_given_again(digits, quick_recipe, stop_at, tmp_path):
    source = from_arrays(digits[0][:150], digits[1][:150])
    recipe = dataclasses.replace(quick_recipe, epochs=1, image_size=None)
    stop_at("on_train_batch_end", 3, kill)
    with pytest.raises(Killed):
        train(source, recipe, tmp_path / "run", console=QUIET)
    with pytest.raises(InputError, match="came from arrays: give them again"):
        train(resume=tmp_path / "run", console=QUIET)
    others = from_arrays(digits[0][1:151], digits[1][:150])
    with pytest.raises(InputError, match=r"images\.train: \d+ images, now \d+ others"):
        train(others, resume=tmp_path / "run", console=QUIET)
    run = train(source, resume=tmp_path / "run", console=QUIET)
    assert run.metrics["epochs"] == 1 and run.source is None


def test_a_plot_that_fails_costs_nothing_but_itself(images, scratch, monkeypatch, tmp_path):
    def fail(*arguments: object) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr(trainer, "plot_confusion", fail)
    said = io.StringIO()
    recipe = dataclasses.replace(scratch, epochs=1)
    run = train(images, recipe, tmp_path / "run", console=Console(file=said, soft_wrap=True))
    assert "a plot could not be drawn (RuntimeError: no font)" in said.getvalue()
    assert load_run(run.path).metrics["epochs"] == 1
    assert run.curves_file.is_file() and not run.confusion_file.exists()


def test_a_broken_test_image_costs_neither_the_model_nor_the_training(
    images, scratch, whole, stop_at, tmp_path
):
    copy = Path(shutil.copytree(images, tmp_path / "images"))
    broken = copy / "test" / "bee" / "0.png"
    stop_at("on_epoch_end", 3, lambda _: broken.write_bytes(broken.read_bytes()[:-100]))
    with pytest.raises(InputError, match=r"test/bee/0\.png"):
        train(copy, scratch, tmp_path / "run", console=QUIET)
    run = Run(tmp_path / "run")
    kept = keras.saving.load_model(run.model_file).get_weights()
    for ours, theirs in zip(kept, whole["scratch"].model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    shutil.copy(images / "test" / "bee" / "0.png", broken)
    said = io.StringIO()
    assert_same(train(resume=run.path, console=Console(file=said)), whole["scratch"])
    assert "epoch 3/3" not in said.getvalue()  # nothing is trained again


def test_a_run_never_lies_among_its_images(images, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(images, tmp_path / "images"))
    monkeypatch.chdir(copy)
    for source, out in ((".", None), (str(copy), copy / "train" / "run"), (Path(), "runs/x")):
        with pytest.raises(InputError, match=r"outside of its folder of images.*--out"):
            train(source, out=out, console=QUIET)
    assert {path.name for path in copy.iterdir()} == {"train", "val", "test"}
