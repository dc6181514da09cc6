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
from keras_resnet18.fit import callbacks, resume, task, train as trainer
from keras_resnet18.fit.resume import Checkpoints, load_checkpoint, save_checkpoint
from keras_resnet18.recipe import Augment, Finetune, Optimizer, Recipe
from keras_resnet18.run import Run

QUIET = Console(quiet=True)
STEPS = 6  # of an epoch: 49 images in batches of 8
TESTS = Path(__file__).parents[1]

Act = Callable[[Checkpoints], None]


class Killed(BaseException):
    """In the place of a kill: nothing of the library expects it."""


def kill(*_: Any, **__: Any) -> None:
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
        max_minutes=60.0,
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


def act_at(patch: pytest.MonkeyPatch, method: str, epoch: int, step: int, act: Act) -> None:
    """Let a training save after every step, and do something once at one of them."""
    for name in ("EVERY", "AT_AN_EPOCH", "TIMES_ITS_COST"):
        patch.setattr(resume, name, 0)
    original, acted = getattr(Checkpoints, method), []

    def end(self: Checkpoints, number: int, logs: Any = None) -> None:
        original(self, number, logs)
        if (self._epoch, self._step) == (epoch, step) and not acted:
            acted.append(number)
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


def ask(number: int) -> Act:
    """Send a signal, which is then the only reason for a checkpoint."""

    def act(checkpoints: Checkpoints) -> None:
        resume.EVERY = resume.AT_AN_EPOCH = 60.0
        os.kill(os.getpid(), number)

    return act


def fill_disk(checkpoints: Checkpoints) -> None:
    """Let no file grow beyond a kilobyte."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))


def break_image(checkpoints: Checkpoints) -> None:
    broken = checkpoints._folder.parents[2] / "images" / "test" / "bee" / "0.png"
    broken.write_bytes(broken.read_bytes()[:-100])


UNWRITABLE = r"cannot be written, at epoch 3, step 3 of 6 \(learning rate \d.*checkpoint is whole"

# Where a training of three epochs is stopped, by what, how it ends, and where it goes on.
STOPS = [
    ("on_train_batch_end", (0, STEPS), kill, Killed, "", "epoch 1, step 6"),  # before validation
    ("on_train_batch_end", (1, 2), ask(signal.SIGINT), KeyboardInterrupt, "", "epoch 2, step 3"),
    ("on_test_batch_end", (1, STEPS), ask(signal.SIGTERM), SystemExit, "143", "epoch 2, step 6"),
    ("on_train_batch_end", (2, 2), fill_disk, InputError, UNWRITABLE, "epoch 3, step 2"),
    ("on_epoch_end", (3, 0), break_image, InputError, "test/bee/0", "epoch 4, step 0"),
]


def test_a_replacement_stopped_in_every_way_goes_on_bit_equal(images, scratch, whole, tmp_path):
    shutil.copytree(images, tmp_path / "images")
    old = Run(Path(shutil.copytree(whole["finetune"].path, tmp_path / "run")))
    before = old.metrics_file.read_bytes(), old.model_file.read_bytes()
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGINT)
    new = old.replacement
    go_on = functools.partial(train, tmp_path / "images", scratch, old.path, overwrite=True)
    where = "train/ (49 images)"
    for method, place, act, ending, words, next_place in STOPS:
        said = io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            act_at(patch, method, *place, act)
            try:
                with pytest.raises(ending, match=words or None) as error:
                    go_on(console=Console(file=said, width=500))
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert "\n" not in str(error.value)
        assert signal.getsignal(signal.SIGINT) is handler
        last = said.getvalue().splitlines()[-1]
        best = f"; its best model so far is {new.model_file}" if new.model_file.exists() else ""
        assert last == (
            f"{old.path} stays as it was: the training that is to replace it is unfinished: go on "
            f"with train(resume='{old.path}'){best}"
        )
        assert where in said.getvalue()
        kept = load_run(old.path)
        assert (kept.metrics_file.read_bytes(), kept.model_file.read_bytes()) == before
        go_on, where = functools.partial(train, resume=old.path), f"going on at {next_place}\n"
        keras.utils.set_random_seed(99)  # what went before does not count
    best_so_far = keras.saving.load_model(new.model_file).get_weights()
    for ours, theirs in zip(best_so_far, whole["scratch"].model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    shutil.copy(images / "test" / "bee" / "0.png", tmp_path / "images" / "test" / "bee")
    said = io.StringIO()
    assert_same(go_on(console=Console(file=said)), whole["scratch"])
    assert where in said.getvalue() and "epoch 3/3" not in said.getvalue()  # nothing is trained


def test_a_fine_tuning_goes_on_bit_equal(images, finetune, whole, tmp_path, monkeypatch):
    shutil.copy(finetune.finetune.weights, tmp_path / "base.safetensors")
    monkeypatch.chdir(tmp_path)
    go_on = functools.partial(train, images, finetune.with_weights("base.safetensors"), "run")
    for method, place in (
        ("on_train_batch_end", (1, 2)),  # the head
        ("on_epoch_end", (2, 0)),  # between the phases
        ("on_train_batch_end", (2, 3)),  # all weights
    ):
        with pytest.MonkeyPatch.context() as patch:
            act_at(patch, method, *place, kill)
            with pytest.raises(Killed):
                go_on(console=QUIET)
        go_on = functools.partial(train, resume=tmp_path / "run")
        keras.utils.set_random_seed(99)
        # it goes on anywhere, without the weights that it began with
        monkeypatch.chdir("/")
        (tmp_path / "base.safetensors").unlink(missing_ok=True)
    assert_same(run := go_on(console=QUIET), whole["finetune"])
    assert run.recipe.finetune.weights == str(tmp_path / "base.safetensors")


KILLED = """
import pytest, sys
from rich.console import Console
from keras_resnet18.machine import start_keras
start_keras()
from small import train_quickly
from keras_resnet18 import train
from keras_resnet18.fit import resume
train_quickly(pytest.MonkeyPatch())
resume.EVERY = resume.TIMES_ITS_COST = 0
step = resume.Checkpoints.on_train_batch_end
def say(self, batch, logs=None):
    step(self, batch, logs)
    print(self, flush=True)
resume.Checkpoints.on_train_batch_end = say
train(sys.argv[1], sys.argv[2], sys.argv[3], console=Console(quiet=True))
"""


def test_a_training_killed_in_an_epoch_goes_on_bit_equal(images, scratch, whole, tmp_path):
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
    with pytest.raises(InputError, match=r"is an unfinished run: go on with train\(resume="):
        load_run(tmp_path / "run")
    said = io.StringIO()
    assert_same(train(resume=tmp_path / "run", console=Console(file=said)), whole["scratch"])
    assert "going on at epoch 2, step " in said.getvalue()


def test_a_diverged_training_leaves_its_last_checkpoint(images, scratch, monkeypatch, tmp_path):
    def spoil(checkpoints: Checkpoints) -> None:
        weight = checkpoints.model.trainable_variables[0]
        weight.assign(np.full(weight.shape, np.nan))

    act_at(monkeypatch, "on_train_batch_end", 1, 2, spoil)
    printed, where = io.StringIO(), r"diverged at epoch 2, step 3 of 6 \(learning rate 0\.00"
    with pytest.raises(InputError, match=f"{where}.*lower optimizer.learning_rate") as error:
        train(images, scratch, tmp_path / "run", console=Console(file=printed, width=500))
    assert "\n" not in str(error.value)
    last = printed.getvalue().splitlines()[-1]
    assert "a new training takes its place with overwrite=True; its best model" in last
    assert "resume" not in last  # it would diverge again
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoints", QUIET)
    assert checkpoint is not None and (checkpoint.epoch, checkpoint.step) == (1, 2)
    assert all(np.isfinite(values).all() for values in checkpoint.values)


@pytest.fixture(scope="module")
def stopped_once(
    images: Path, scratch: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Images, and the folder of a training of them that was stopped in its second epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    copy = Path(shutil.copytree(images, folder / "images"))
    with pytest.MonkeyPatch.context() as patch:
        act_at(patch, "on_train_batch_end", 1, 2, kill)
        with pytest.raises(Killed):
            train(copy, scratch, folder / "run", console=QUIET)
    return copy, folder / "run"


@pytest.fixture
def stopped(stopped_once: tuple[Path, Path], tmp_path: Path) -> Run:
    """A copy of `stopped_once` to change; the images are beside it."""
    run = Run(Path(shutil.copytree(stopped_once[1], tmp_path / "run")))
    shutil.copytree(stopped_once[0], tmp_path / "images")
    run.write_json(run.environment_file, {**run.environment, "source": str(tmp_path / "images")})
    return run


def change_recipe(run: Run) -> None:
    text = run.recipe_file.read_text()
    run.recipe_file.write_text(text.replace("learning_rate = 0.002", "learning_rate = 0.003"))


def change_classes(run: Run) -> None:
    for split in ("train", "val", "test"):
        folder = Path(run.source or "") / split
        (folder / "bee").rename(folder / "wasp")


def remove_an_image(run: Run) -> None:
    (Path(run.source or "") / "train" / "bee" / "0.png").unlink()


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


def test_another_number_of_threads_and_a_missing_checkpoint_are_said(stopped, monkeypatch):
    environment, begun = task.environment, []

    def begin(*_: Any, **others: Any) -> None:
        begun.append(others["start"])
        raise Killed

    monkeypatch.setattr(task, "environment", lambda: {**environment(), "threads": 64})
    monkeypatch.setattr(trainer, "train_network", begin)
    shutil.rmtree(stopped.checkpoints_folder)
    said = io.StringIO()
    with pytest.raises(Killed):
        train(resume=stopped.path, console=Console(file=said, soft_wrap=True))
    assert f"in rounding: threads: {environment()['threads']}, now 64\n" in said.getvalue()
    assert "going on at the first step" in said.getvalue() and begun == [None]


def test_moved_images_are_found_and_a_damaged_checkpoint_is_passed_over(stopped, whole, tmp_path):
    newest = max(stopped.checkpoints_folder.iterdir())
    newest.write_bytes(newest.read_bytes()[:-200])
    moved = (tmp_path / "images").rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"images'.*have moved, give the source as well"):
        train(resume=stopped.path, console=QUIET)
    said = io.StringIO()
    run = train(moved, resume=stopped.path, console=Console(file=said, soft_wrap=True))
    assert f"{newest} is damaged" in said.getvalue()
    assert "going on at epoch 2, step 1\n" in said.getvalue()
    assert_same(run, whole["scratch"])
    assert run.source == str(moved)


def test_a_training_that_was_out_of_patience_stays_ended(images, scratch, tmp_path, monkeypatch):
    monkeypatch.setattr(callbacks, "best_row", lambda rows: rows[0])
    recipe = dataclasses.replace(scratch, epochs=5, patience=1)
    with pytest.MonkeyPatch.context() as patch:
        act_at(patch, "on_epoch_end", 2, 0, kill)
        with pytest.raises(Killed):
            train(images, recipe, tmp_path / "run", console=QUIET)
    said = io.StringIO()
    run = train(resume=tmp_path / "run", console=Console(file=said, width=200))
    assert [row["epoch"] for row in rows(run)] == ["1", "2"]
    assert "ended by patience=1 after epoch 2 of 5, at a learning rate of" in said.getvalue()


def test_time_of_earlier_processes_counts(stopped):
    checkpoint = load_checkpoint(stopped.checkpoints_folder, QUIET)
    assert checkpoint is not None
    late = dataclasses.replace(checkpoint, total_seconds=3600.0)
    save_checkpoint(late, stopped.checkpoints_folder)
    run = train(resume=stopped.path, console=QUIET)
    assert [row["epoch"] for row in rows(run)] == ["1"]


def test_a_training_out_of_time_keeps_what_it_has(images, scratch, tmp_path, monkeypatch):
    def fail(*arguments: object) -> None:
        raise RuntimeError("no font")

    hour = {"seconds_before": 3600.0}
    act_at(monkeypatch, "on_train_batch_end", 1, 2, lambda self: vars(self._ending).update(hour))
    monkeypatch.setattr(trainer, "plot_confusion", fail)
    said = io.StringIO()
    run = train(images, scratch, tmp_path / "run", console=Console(file=said, width=200))
    assert [(row["epoch"], row["steps"]) for row in rows(run)] == [("1", "6"), ("2", "3")]
    assert "ended by max_minutes=60 in epoch 2 of 3, at a learning rate of" in said.getvalue()
    assert "a plot could not be drawn (RuntimeError: no font)" in said.getvalue()
    assert load_run(run.path).metrics["epochs"] == 2
    assert run.curves_file.is_file() and not run.confusion_file.exists()


def test_a_finished_run_has_nothing_to_go_on_with(whole):
    said = io.StringIO()
    run = train(resume=whole["scratch"].path, console=Console(file=said, soft_wrap=True))
    finished = f"{run.path} is finished: there is nothing to go on with"
    assert said.getvalue() == f"{finished}; report('{run.path}') makes its page\n"
    assert run.metrics == whole["scratch"].metrics


@pytest.mark.parametrize("arguments", [{"out": "x"}, {"settings": ["seed=1"]}])
def test_a_training_is_resumed_as_it_was_begun(whole, arguments):
    with pytest.raises(InputError, match="resumed as it was begun"):
        train(resume=whole["scratch"].path, console=QUIET, **arguments)


def test_arrays_are_given_again(digits, quick_recipe, tmp_path, monkeypatch):
    source = from_arrays(digits[0][:150], digits[1][:150])
    recipe = dataclasses.replace(quick_recipe, epochs=1, image_size=None)
    monkeypatch.setattr(trainer, "train_network", kill)
    with pytest.raises(Killed):
        train(source, recipe, tmp_path / "run", console=QUIET)
    with pytest.raises(InputError, match="came from arrays: give them again"):
        train(resume=tmp_path / "run", console=QUIET)
    others = from_arrays(digits[0][1:151], digits[1][:150])
    with pytest.raises(InputError, match=r"images\.train: \d+ images, now \d+ others"):
        train(others, resume=tmp_path / "run", console=QUIET)
    with pytest.raises(Killed):  # it goes on
        train(source, resume=tmp_path / "run", console=QUIET)


def test_a_run_is_never_among_its_images(images, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(images, tmp_path / "images"))
    monkeypatch.chdir(copy)
    for source, out in ((".", None), (str(copy), copy / "train" / "run"), (Path(), "runs/x")):
        with pytest.raises(InputError, match=r"outside of its folder of images.*out=FOLDER"):
            train(source, out=out, console=QUIET)
    assert {path.name for path in copy.iterdir()} == {"train", "val", "test"}
