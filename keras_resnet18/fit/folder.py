"""Folder of a training: locked during it; a finished run in it is replaced at the end."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from keras_resnet18.errors import InputError
from keras_resnet18.files import EXPORTS, check_parent, is_leftover
from keras_resnet18.run import Run, resume_call
from keras_resnet18.spec import LABELS_FILE, SPEC_FILE


def check_out(path: Path, *, overwrite: bool) -> None:
    """Raise InputError unless `path` is free, or holds a run that may be replaced."""
    run = Run(path)
    check_parent(path)
    if not path.exists():
        return
    if path.is_dir() and all(
        x.name == run.lock_file.name or is_leftover(x) for x in path.iterdir()
    ):
        return
    if not run.recipe_file.is_file() or not run.environment_file.is_file():
        raise InputError(
            f"{path} exists and is not a run, so it is not touched: give another out=FOLDER"
        )
    if overwrite:
        return
    if unfinished(run):
        with _locked(run):  # raises if another process trains there
            pass
        raise InputError(
            f"{path} holds an unfinished training: go on with {resume_call(path)}, or begin again "
            "with overwrite=True"
        )
    raise InputError(
        f"{path} holds a run: give another out=FOLDER, or replace it with overwrite=True"
    )


def unfinished(run: Run) -> Run | None:
    """The training that `resume` continues: the replacement of a finished run, or the run itself.

    A training that has metrics has ended; only the replacing or the cleaning up is left.
    """
    new = run.replacement
    if new.recipe_file.is_file() or new.metrics_file.is_file():
        return new
    ended = (run.finished or run.lacks_metrics) and not _checkpoints(run)
    return run if run.recipe_file.is_file() and not ended else None


def left_in_words(run: Run, training: Run, *, diverged: bool) -> str:
    """Describe what a stopped training leaves, and how to continue unless it would diverge again.

    `training` is the run that was written: `run`, or its replacement.
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
    """Yield an empty run for a training to write, which is at `path` after the body.

    A finished run at `path` stays intact until then: the new one is written to a hidden folder in
    it. If the body raises or the process is killed, its files stay for `old_training`. Only a run's
    own files are ever removed. An existing folder is used, also a link or a mount point.
    """
    run = Run(path)
    with _locked(run):
        check_out(path, overwrite=overwrite)
        new = run.replacement if run.finished else run
        for file in new.files:
            file.unlink(missing_ok=True)
        _remove(new.checkpoints_folder, _checkpoints(new))
        _remove_results(new)
        new.path.mkdir(exist_ok=True)
        yield new
        _finish(run, new)


@contextlib.contextmanager
def old_training(run: Run) -> Iterator[Run]:
    """Yield the unfinished training of a run; ends as `new_training` does."""
    with _locked(run):
        training = unfinished(run)
        if training is None:
            raise InputError(f"{run.path} is finished: there is nothing to go on with")
        yield training
        _finish(run, training)


def _finish(run: Run, training: Run) -> None:
    """Remove the checkpoints, and move a replacement to its place.

    A replacement with metrics is complete. The metrics are moved last, so that after a kill
    `resume` finishes the move.
    """
    _remove(training.checkpoints_folder, _checkpoints(training))
    if training.path == run.path:
        return
    if training.recipe_file.exists():  # moves first; until then a kill repeats this
        _remove_results(run)
        for file in (run.curves_file, run.confusion_file, run.report_file):
            file.unlink(missing_ok=True)  # the new run may lack them
        if run.has_own_card:
            run.card_file.unlink()
        training.recipe_file.replace(run.recipe_file)
    for events in _events(training):
        moved = run.path / events.relative_to(training.path)
        moved.parent.mkdir(parents=True, exist_ok=True)
        events.replace(moved)
    for file in run.files:
        if (new := training.path / file.name).exists():
            new.replace(file)
    shutil.rmtree(training.path)


@contextlib.contextmanager
def _locked(run: Run) -> Iterator[None]:
    """Allow one training at a time in a folder. A lock is released when its process dies."""
    made = not run.path.exists()
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run.lock_file)
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"another process trains in {run.path}: wait for it, or give another out=FOLDER"
        ) from None
    except OSError as error:
        raise InputError(
            f"the folder {run.path} cannot be written: {error.strerror}. Give another one"
        ) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows does not remove an open file
            run.lock_file.unlink()
        lock.release()
        with contextlib.suppress(OSError):
            run.lock_file.unlink(missing_ok=True)
            if made:
                run.path.rmdir()  # if nothing was written


def _checkpoints(run: Run) -> list[Path]:
    """Checkpoints, intact, damaged or half written, and results of folds."""
    return [
        entry
        for entry in run.checkpoints_folder.glob("*")
        if any(map(entry.match, ("epoch*-step*.npz*", "fold[0-9]*"))) or is_leftover(entry)
    ]


def _events(run: Run) -> list[Path]:
    events = run.tensorboard_folder.glob("*/events.out.tfevents.*")
    return [path for path in events if not path.parent.is_symlink()]


def _remove_results(run: Run) -> None:
    """Remove TensorBoard's events, and exports, which would be taken for those of a new model."""
    _remove(run.tensorboard_folder, _events(run))
    exports = [run.export_folder / export.file for export in EXPORTS.values()]
    if any(path.exists() for path in exports):
        reports = [path.with_name(f"{path.name}.json") for path in exports]
        copies = [run.export_folder / name for name in (LABELS_FILE, SPEC_FILE)]
        _remove(run.export_folder, [*exports, *reports, *copies])


def _remove(folder: Path, paths: list[Path]) -> None:
    """Remove files and folders, and the folders in `folder` and itself that are empty then."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for parent in (*{path.parent for path in paths} - {folder}, folder):
        with contextlib.suppress(OSError):
            parent.rmdir()  # fails if it is not empty
