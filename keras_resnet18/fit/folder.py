"""Folder of a training: locked while it lasts, and a finished run in it replaced at its end."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from keras_resnet18.errors import InputError
from keras_resnet18.files import EXPORTS, check_parent, is_leftover
from keras_resnet18.run import Run, resume_call
from keras_resnet18.spec import LABELS_FILE, SPEC_FILE


def check_out(path: Path, *, overwrite: bool) -> None:
    """Raise InputError unless `new_training` would find the place free, or a run to replace."""
    run = Run(path)
    check_parent(path)
    if not path.exists() or (path.is_dir() and not any(map(_is_content, path.iterdir()))):
        return
    if not run.recipe_file.is_file() or not run.environment_file.is_file():
        raise InputError(
            f"{path} exists and is not a run, so it is not touched: give another folder as out"
        )
    if overwrite:
        return
    if unfinished(run):
        with _locked(run):  # or the error that another process trains there
            pass
        raise InputError(
            f"{path} holds an unfinished training: go on with {resume_call(path)}, or begin again "
            "with overwrite=True"
        )
    raise InputError(
        f"{path} holds a run: give another folder as out, or replace it with overwrite=True"
    )


def unfinished(run: Run) -> Run | None:
    """The training that `resume` goes on with: the replacement of a finished run, or the run.

    A training with metrics has ended: only its replacement or its clearing up is left to do.
    """
    new = run.replacement
    if new.recipe_file.is_file() or new.metrics_file.is_file():
        return new
    ended = (run.finished or run.lacks_metrics) and not any(_checkpoints(run))
    return run if run.recipe_file.is_file() and not ended else None


def left_in_words(run: Run, training: Run, *, diverged: bool) -> str:
    """Say what a training that stopped leaves, and how to go on.

    Args:
        run: The run as its user calls it.
        training: The run that was written, which may be the replacement of `run`.
        diverged: Whether going on would diverge again.
    """
    model = training.model_file
    best = f"; its best model so far is {model}" if model.is_file() else ""
    if diverged:
        return f"{run.path}: a new training takes its place with overwrite=True{best}"
    what = f"{run.path} is an unfinished run"
    if training.path != run.path:
        what = f"{run.path} stays as it was: the training that is to replace it is unfinished"
    return f"{what}: go on with {resume_call(run.path)}{best}"


@contextlib.contextmanager
def new_training(path: Path, *, overwrite: bool = False) -> Iterator[Run]:
    """An empty run for a training to write, which is at `path` when the body has ended.

    A finished run at `path` stays there, whole, until then: the new one is written in a hidden
    folder inside of it. If the body raises or the process is killed, what it wrote stays for
    `old_training`.

    Args:
        path: Folder of the run. A folder that is there is used, also a link or a mount point.
        overwrite: Whether to replace a run that is there. Nothing but a run's own files is removed.

    Raises:
        InputError: If the place is taken, the folder cannot be made, or another process trains
            there.
    """
    run = Run(path)
    with _locked(run):
        check_out(path, overwrite=overwrite)
        new = run.replacement if run.finished else run
        _remove_files(new)
        new.path.mkdir(exist_ok=True)
        yield new
        _finish(run, new)


@contextlib.contextmanager
def old_training(run: Run) -> Iterator[Run]:
    """The unfinished training of a run, to go on with; ends as `new_training` does.

    Raises:
        InputError: If another process trains there.
    """
    with _locked(run):
        training = unfinished(run)
        if training is None:
            raise InputError(f"{run.path} is finished: there is nothing to go on with")
        yield training
        _finish(run, training)


def _finish(run: Run, training: Run) -> None:
    """Remove the checkpoints, and move a replacement to its place.

    A replacement with metrics is whole. They are moved last, so that after a kill `resume` ends
    what was begun.
    """
    _remove_checkpoints(training)
    if training.path == run.path:
        return
    if training.recipe_file.exists():  # the first to move: until then this is repeated after a kill
        _remove_exports(run)
        _remove_events(run)
        for file in (run.curves_file, run.confusion_file, run.report_file):
            file.unlink(missing_ok=True)  # the new run's may have failed
        if run.has_own_card:
            run.card_file.unlink()
        training.recipe_file.replace(run.recipe_file)
    for events in training.tensorboard_folder.rglob("events.out.tfevents.*"):
        moved = run.path / events.relative_to(training.path)
        moved.parent.mkdir(parents=True, exist_ok=True)
        events.replace(moved)
    for file in run.files:
        if (new := training.path / file.name).exists():
            new.replace(file)
    shutil.rmtree(training.path)


@contextlib.contextmanager
def _locked(run: Run) -> Iterator[None]:
    """Allow one training at a time in a folder. The lock of a process that died is free."""
    made = not run.path.exists()
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run.lock_file)
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"another process trains in {run.path}: wait for it, or give another folder as out"
        ) from None
    except OSError as error:
        raise InputError(
            f"the folder {run.path} cannot be written: {error.strerror}. Give another one"
        ) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows does not remove a file that is open
            run.lock_file.unlink()
        lock.release()
        with contextlib.suppress(OSError):
            run.lock_file.unlink(missing_ok=True)
            if made:
                run.path.rmdir()  # if nothing was written


def _is_content(entry: Path) -> bool:
    return not is_leftover(entry) and entry.name != Run(entry.parent).lock_file.name


def _remove_files(run: Run) -> None:
    """Remove what a training and `export` left in a run, and nothing else."""
    for file in run.files:
        file.unlink(missing_ok=True)
    _remove_checkpoints(run)
    _remove_events(run)
    _remove_exports(run)


def _checkpoints(run: Run) -> list[Path]:
    """Checkpoints, whole, damaged or half written, and what is known of folds."""
    return [
        entry
        for entry in run.checkpoints_folder.glob("*")
        if any(map(entry.match, ("epoch*-step*.npz*", "fold*"))) or is_leftover(entry)
    ]


def _remove_checkpoints(run: Run) -> None:
    _remove(_checkpoints(run), run.checkpoints_folder)


def _remove_events(run: Run) -> None:
    for folder in run.tensorboard_folder.glob("*/"):
        _remove(folder.glob("events.out.tfevents.*"), folder)
    _remove([], run.tensorboard_folder)


def _remove_exports(run: Run) -> None:
    """Remove files of the old model, which beside a new one would be taken for its exports."""
    exports = [run.export_folder / export.file for export in EXPORTS.values()]
    if any(path.exists() for path in exports):
        copies = [run.export_folder / name for name in (LABELS_FILE, SPEC_FILE)]
        reports = [path.with_name(f"{path.name}.json") for path in exports]
        _remove([*exports, *reports, *copies], run.export_folder)


def _remove(paths: Iterable[Path], folder: Path) -> None:
    """Remove files and folders, and the folder that they were in if it is empty then."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()  # refuses what is not empty
