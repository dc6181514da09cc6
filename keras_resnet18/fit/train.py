"""`train`: from images and a recipe to a run; build, fit, evaluate, write."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
from rich.console import Console

from keras_resnet18 import distributed
from keras_resnet18.checking.images import AnySource, in_words, look
from keras_resnet18.classify.accuracy import (
    Evaluation,
    broken_images_named,
    measure,
    write_predictions,
)
from keras_resnet18.classify.calibration import Calibration
from keras_resnet18.classify.table import print_classes
from keras_resnet18.data.sources import check_spec
from keras_resnet18.data.splits import Source, Split
from keras_resnet18.distributed import Cluster, check_batch, sharing_in_words, together
from keras_resnet18.errors import DivergedError, InputError, path_of, within
from keras_resnet18.files import staged
from keras_resnet18.fit.batches import batch_size_of, class_weights, make_batches
from keras_resnet18.fit.calibrate import calibrate_network
from keras_resnet18.fit.callbacks import Row, best_in_words, best_row
from keras_resnet18.fit.folder import (
    check_out,
    new_training,
    old_training,
    training_of_another,
    unfinished,
)
from keras_resnet18.fit.network import build_network
from keras_resnet18.fit.phases import train_network
from keras_resnet18.fit.resume import Checkpoint, load_checkpoint
from keras_resnet18.fit.signals import stop_signals
from keras_resnet18.fit.task import (
    Task,
    check_outside,
    check_unchanged,
    default_out,
    new_task,
    old_task,
    same_everywhere,
    settings_of,
)
from keras_resnet18.fit.twin import alone
from keras_resnet18.machine import device_name, dtype_policy, missing_gpu
from keras_resnet18.recipe import Recipe
from keras_resnet18.reports.plots import plot_confusion, plot_curves
from keras_resnet18.reports.report import write_report
from keras_resnet18.run import Run, load_run

# What to do about a broken training or validation image; one of the test may be mended.
_OF_TRAINING = (
    " A training goes on with the same images alone: without this one, or with another in its "
    "place, train again with --overwrite; --on-bad-image skip leaves out all that are broken."
)


def train(
    source: AnySource | None = None,
    recipe: Recipe | str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    weights: str | None = None,
    settings: str | Sequence[str] = (),
    split_seed: int = 0,
    on_bad_image: str = "raise",
    dedupe: bool = False,
    overwrite: bool = False,
    resume: str | os.PathLike[str] | None = None,
    cluster: Cluster | None = None,
    console: Console | None = None,
) -> Run:
    """Trains a classifier and leaves a run.

    Training images train it; validation images choose the epoch that is kept; test images,
    which had no say in either, give the accuracy that is reported. Two calls with the same
    arguments give bit-equal weights on a CPU, also where the second was killed and resumed.

    Ctrl-C, SIGTERM and SIGHUP finish the step, save a checkpoint and raise KeyboardInterrupt or
    SystemExit.

    With Keras on JAX all devices share every batch: those of this machine, and with `cluster` those
    of several. The recipe's batch is the one that they share.

    Args:
        source: Images: a folder `class/…`, a folder of IDX files, `"tfds:NAME"`, `"digits"`, or
            what `from_arrays` makes of arrays. To resume, only where they have moved.
        recipe: A `Recipe`, the name of one, or the path of a TOML file; by default the one that
            suits the images.
        out: Folder to write, by default one in `saved_models/` named after the images.
        weights: Weights to fine-tune in place of the recipe's: a name such as `"imagenet"`, or the
            path of a checkpoint or of a run, whose network, input size and preprocessing are
            taken too, and its head where the classes are the same. Without a recipe it means
            `"finetune"`.
        settings: Changes of the recipe, as `Recipe.changed` takes them, such as
            `["optimizer.learning_rate=0.05"]`.
        split_seed: Seed of the hash that carves the splits that the images lack.
        on_bad_image: `"raise"` refuses a broken image, in validation and test before the first
            epoch; `"skip"` decodes all images first and leaves the broken ones out, by name.
        dedupe: Whether to leave out validation and test images that are copies of others.
        overwrite: Whether to replace a run in `out`, which stays there until the new one is whole.
        resume: Folder of an unfinished run to go on with, in place of a new one in `out`.
        cluster: Where the processes of a training on several machines meet; each of them calls
            `train` with the same arguments, and the first one writes.
        console: Where progress is printed; standard output by default,
            `rich.console.Console(quiet=True)` for silence.

    Returns:
        The run; on another process than the first it may not be there.

    Raises:
        InputError: If an argument cannot be used, before anything is written; if an image is
            broken, the training diverges, the run cannot be written or another process ends.
    """
    console = console or Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    if resume is not None:
        choices = (recipe, out, weights, settings, split_seed, on_bad_image != "raise", dedupe)
        if any(choices) or overwrite:
            raise InputError(
                "a training is resumed as it was begun: with resume give the images at most, where "
                "they have moved, and nothing else"
            )
        path = Path(resume)
        with together(cluster):
            quiet = _quiet(console)
            if not _is_unfinished(Run(path)):
                run = load_run(path)  # or the error that says what else it is
                page = "" if run.report_file.is_file() else f"; {run.report_command} makes its page"
                quiet.print(f"{path} is finished: there is nothing to go on with{page}")
                return run
            results, first = _resume(Run(path), source, quiet), distributed.is_first()
        return _finished(path, results, console) if first else Run(path)
    settings = [settings] if isinstance(settings, str) else settings
    whole = isinstance(split_seed, int) and split_seed >= 0
    within("split_seed", split_seed, whole, "a whole number, 0 or more")
    if source is None:
        raise InputError("train needs images, or the run to go on with. Received: neither")
    if not isinstance(source, Source):
        check_spec(source)
    path = default_out(source) if out is None else path_of(out, "a folder to write as out")
    check_outside(path, source)
    check_out(path, overwrite=overwrite)
    with together(cluster):
        quiet = _quiet(console)
        open_images = functools.partial(
            look, console=quiet, split_seed=split_seed, on_bad_image=on_bad_image, dedupe=dedupe
        )

        def given() -> Given:
            task = new_task(source, recipe, weights, settings, open_images)
            check_batch(batch_size_of(task), mixes=task.recipe.augment.mixes)
            return Given(task, task.settings(), None)

        new = distributed.alike("task", given, Given.facts)
        model = _start(new.task, quiet)
        if distributed.is_first():
            writing = new_training(path, overwrite=overwrite)
        else:
            writing = training_of_another(Run(path))
        with writing as training:
            if distributed.is_first():
                new.task.write(training, new.settings)
            results = _train(new, model, Run(path), training, quiet)
        first = distributed.is_first()
    return _finished(path, results, console) if first else Run(path)


class Given(NamedTuple):
    """What a training begins with.

    Attributes:
        task: What it is given.
        settings: `task.settings()`.
        start: The checkpoint to begin at, or None.
    """

    task: Task
    settings: dict[str, Any]
    start: Checkpoint | None

    def facts(self) -> dict[str, Any]:
        """What must be the same on all processes."""
        return {**same_everywhere(self.settings), "checkpoint": str(self.start)}


class Results(NamedTuple):
    """What a training ends with.

    Attributes:
        rows: Its history.
        calibration: Of the network.
        evaluations: On validation and test images.
        images: The test images.
        model: The network.
    """

    rows: list[Row]
    calibration: Calibration
    evaluations: Mapping[str, Evaluation]
    images: Split
    model: keras.Model


def _quiet(console: Console) -> Console:
    """The console of the first process, and none for the others."""
    return console if distributed.is_first() else Console(quiet=True)


def _is_unfinished(run: Run) -> bool:
    """Whether there is something to go on with, which all processes must see."""
    what = f"an unfinished training in {run.path}"
    return distributed.alike(
        "run", lambda: unfinished(run) is not None, lambda found: {what: found}
    )


def _resume(run: Run, source: AnySource | None, console: Console) -> Results | None:
    """Goes on with an unfinished training."""
    with old_training(run) if distributed.is_first() else training_of_another(run) as training:
        if training.metrics_file.is_file():  # its process was killed as it cleared up
            return None

        def given() -> Given:
            task = old_task(training, source, console)
            check_batch(batch_size_of(task), mixes=task.recipe.augment.mixes)
            start = load_checkpoint(training.checkpoints_folder, console.print)
            before = start.settings if start is not None else settings_of(training)
            settings = task.settings()
            for line in check_unchanged(before, settings, run):
                console.print(line)
            return Given(task, settings, start)

        old = distributed.alike("task", given, Given.facts)
        if distributed.is_first():
            kept = ("source", "images", "findings")  # that may be others than when it began
            now = {key: old.settings["environment"][key] for key in kept}
            environment = {**training.environment, **now}
            training.write_json(training.environment_file, environment)
        model = _start(old.task, console)
        console.print(f"going on at {old.start or 'the first step'}")
        return _train(old, model, run, training, console)


def _start(task: Task, console: Console) -> keras.Model:
    """Says what is trained on what, and builds the network."""
    console.print(f"{device_name()}, {task.policy}: {task.reason}")
    for line in (missing_gpu(), sharing_in_words(batch_size_of(task))):
        if line is not None:
            console.print(line)
    for line in (*task.source.notes, *in_words(task.images, task.preprocess)):
        console.print(line)
    class_weights(task)  # or the error that says why there are none
    # Keras' initialisers draw from a global generator; everything else has seeds of its own.
    keras.utils.set_random_seed(task.recipe.seed)
    with dtype_policy(task.policy):
        return build_network(task, console)


def _train(
    given: Given,
    model: keras.Model,
    run: Run,
    training: Run,
    console: Console,
) -> Results | None:
    """Fit, evaluate, write: what took longest is on the disk before what may fail is tried.

    Args:
        given: What the training begins with.
        model: The network.
        run: The run as its user calls it.
        training: The run that is written, which may be the replacement of `run`.
        console: Where progress is printed.
    """
    task = given.task
    if distributed.count() > 1:
        console.print(
            f"if a process ends, all do: go on with {run.resume_command} --distributed, on each"
        )
    try:
        with stop_signals() as stop, broken_images_named():
            with broken_images_named(_OF_TRAINING):
                rows = train_network(
                    model,
                    task.recipe,
                    make_batches(task, console),
                    training,
                    settings=given.settings,
                    start=given.start,
                    stop=stop,
                    console=console,
                )
            model = alone(model)
            splits = task.source.splits
            calibration = calibrate_network(model, splits["validation"], task.preprocess, training)
            spec = task.spec(calibration.threshold)
            evaluations = {
                name: measure(model.predict_on_batch, splits[name], spec)
                for name in ("validation", "test")
            }
            distributed.part()
            if not distributed.is_first():
                return None
            training.write_text(training.spec_file, spec.to_json())
            with staged(training.predictions_file) as new:
                write_predictions(evaluations["test"], new)
            figures = {name: evaluation.to_dict() for name, evaluation in evaluations.items()}
            kept = {"best_epoch": best_row(rows)["epoch"], "epochs": len(rows)}
            images = task.images.facts
            about = {
                "compared": task.source.folder is not None,  # of files alone copies are looked for
                "left_out": len(images["left_out"]),
                "findings": images["findings"],
            }
            facts = {"calibration": calibration.to_dict(), "images": about}
            training.write_json(training.metrics_file, {**figures, **kept, **facts})
    except BaseException as error:
        # going on from the last checkpoint would diverge at the same step
        diverged = isinstance(error, DivergedError)
        words = run.diverged_in_words if diverged else run.unfinished_in_words
        with contextlib.suppress(OSError):  # a terminal that hung up
            console.print(words(training))
        raise
    _plot(training, rows, evaluations["test"], console)
    return Results(rows, calibration, evaluations, splits["test"], model)


def _plot(run: Run, rows: list[Row], test: Evaluation, console: Console) -> None:
    """Draws curves and confusion matrix; a plot that fails is said, and costs nothing else."""
    finetune = run.recipe.finetune
    head_epochs = finetune.head_epochs if finetune else 0
    try:
        with staged(run.curves_file) as new:
            plot_curves(rows, best_row(rows)["epoch"], new, head_epochs=head_epochs)
        with staged(run.confusion_file) as new:
            plot_confusion(test.labels, test.predictions, run.spec.labels, new)
    except Exception as error:
        console.print(f"a plot could not be drawn ({type(error).__name__}: {error})")


def _finished(path: Path, results: Results | None, console: Console) -> Run:
    run = load_run(path)
    if results is not None:
        console.print(best_in_words(results.rows))
        for line in results.calibration.in_words():
            console.print(line)
        for name, evaluation in results.evaluations.items():
            console.print(f"{name:10} accuracy {evaluation}")
        test = results.evaluations["test"]
        for note in test.notes():
            console.print(f"{'':10} {note}")
        print_classes(console, test.per_class, str(run.metrics_file))
        _report(run, results.images, results.model, console)
    console.print(f"everything lies in {run.path}")
    return run


def _report(run: Run, images: Split, model: keras.Model, console: Console) -> None:
    """Writes the page and the model card; a fault is said, and costs nothing else."""
    try:
        console.print(f"a page to look at: {write_report(run, images, model)}")
    except Exception as error:
        console.print(f"the page could not be made ({type(error).__name__}: {error})")
