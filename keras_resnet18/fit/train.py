"""`train`: build, fit and evaluate a network, and write a run."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

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
from keras_resnet18.classify.calibration import Calibration, calibrate
from keras_resnet18.classify.table import print_classes
from keras_resnet18.data.folds import check_folds
from keras_resnet18.data.sources import check_spec
from keras_resnet18.data.splits import Source, Split
from keras_resnet18.distributed import Cluster, sharing_in_words, together
from keras_resnet18.errors import DivergedError, InputError, path_of, within
from keras_resnet18.files import staged
from keras_resnet18.fit.callbacks import Row, best_in_words, best_row
from keras_resnet18.fit.folder import (
    check_out,
    left_in_words,
    new_training,
    old_training,
    unfinished,
)
from keras_resnet18.fit.folds import train_folds
from keras_resnet18.fit.network import build_network, divide_logits, logits_of
from keras_resnet18.fit.phases import train_network
from keras_resnet18.fit.resume import Checkpoint, load_checkpoint, stop_signals
from keras_resnet18.fit.task import (
    Task,
    check_outside,
    check_unchanged,
    default_out,
    new_task,
    old_task,
    same_everywhere,
)
from keras_resnet18.fit.twin import alone
from keras_resnet18.machine import device_name, fastest_jit, missing_gpu
from keras_resnet18.recipe import Recipe
from keras_resnet18.reports.plots import plot_confusion, plot_curves
from keras_resnet18.reports.report import write_report
from keras_resnet18.run import Run, load_run, resume_call

# What to do about a broken training or validation image; a broken test image may be repaired.
_OF_TRAINING = (
    " A training can only resume with the same images: without this one, or with another in its "
    'place, train again with overwrite=True; on_bad_image="skip" leaves out all broken images.'
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
    folds: int | None = None,
    overwrite: bool = False,
    resume: str | os.PathLike[str] | None = None,
    cluster: Cluster | None = None,
    console: Console | None = None,
) -> Run:
    """Train a classifier and write a run.

    Training images train the network, validation images choose the epoch to keep, and test images
    measure the reported accuracy. Two calls with the same arguments give bit-equal weights on a
    CPU, even if the second is killed and resumed.

    Ctrl-C, SIGTERM and SIGHUP finish the step, save a checkpoint and raise KeyboardInterrupt or
    SystemExit.

    With Keras on JAX, all devices of this machine share every batch, and with `cluster` those of
    several machines. The recipe's batch size is that of the shared batch.

    Args:
        source: Images: a folder `class/…`, a folder of IDX files, `"hf:OWNER/NAME"`, `"tfds:NAME"`,
            `"digits"`, or the result of `from_arrays`. With `resume`, only if they have moved.
        recipe: A `Recipe`, the name of one, or the path of a TOML file; by default chosen for the
            images.
        out: Folder to write, by default in `saved_models/` and named after the images.
        weights: Weights to fine-tune instead of the recipe's: a name such as `"imagenet"`, or the
            path of a checkpoint or of a run. A run also provides network, input size and
            preprocessing, and its head if the classes are the same. Implies the recipe
            `"finetune"` if none is given.
        settings: Changes of the recipe, as for `Recipe.changed`, such as
            `["optimizer.learning_rate=0.05"]`.
        split_seed: Seed of the hash that assigns images to missing splits.
        on_bad_image: `"raise"` refuses broken images: before the first epoch in validation and
            test, and in all splits of sets of up to 1 GB of files. `"skip"` decodes all images
            first, and leaves broken ones out and lists them.
        dedupe: Whether to leave out validation and test images that have the same pixels as
            others, also in another format. Decodes all images first.
        folds: Number of folds, 2 to 10, for cross-validation of few images. One training per fold
            leaves it out and is measured on it; the final training uses all images. Folds are
            stratified, and keep groups and copies together. Each training has the recipe's whole
            length and keeps its last epoch. Existing validation and test splits are not used.
        overwrite: Whether to replace a run in `out`, once the new one is finished.
        resume: Folder of an unfinished run to continue, instead of a new one in `out`.
        cluster: How the processes of a training on several machines connect. Each calls `train`
            with the same arguments, and the first one writes.
        console: Where to print messages and progress; None for standard output,
            `rich.console.Console(quiet=True)` for nothing.

    Returns:
        The run. It may not exist on processes other than the first.

    Raises:
        InputError: If an argument cannot be used, before anything is written; if an image is
            broken, the training diverges, the run cannot be written or another process ends.
    """
    console = console or Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    if resume is not None:
        choices = (recipe, out, weights, settings, split_seed, on_bad_image != "raise", dedupe)
        if any(choices) or overwrite or folds is not None:
            raise InputError(
                "a training is resumed as it was begun: with resume give at most the images, if "
                "they have moved, and nothing else"
            )
        run = Run(path_of(resume, "the folder of an unfinished run as resume"))
        work = functools.partial(_resume, run, source)
    else:
        settings = [settings] if isinstance(settings, str) else settings
        whole = isinstance(split_seed, int) and split_seed >= 0
        within("split_seed", split_seed, whole, "a whole number, 0 or more")
        if folds is not None:
            check_folds(folds)
            if dedupe or cluster is not None:
                raise InputError(
                    "folds keep copies together, and train on one machine: leave out dedupe and "
                    f"cluster. Received: dedupe={dedupe}, cluster={cluster}"
                )
        if source is None:
            raise InputError("train needs images, or the run to go on with. Received: neither")
        if not isinstance(source, Source):
            check_spec(source)
        path = default_out(source) if out is None else path_of(out, "a folder to write as out")
        run = Run(path)
        check_outside(path, source)
        check_out(path, overwrite=overwrite)
        open_images = functools.partial(
            look,
            source,
            split_seed=split_seed,
            on_bad_image=on_bad_image,
            dedupe=dedupe,
            folds=folds,
        )
        choose = functools.partial(new_task, open_images, recipe, weights, settings)
        work = functools.partial(_begin, run, choose, overwrite)
    with together(cluster):
        first = distributed.is_first()
        results = work(console if first else Console(quiet=True))
    return _finished(run, results, console) if first else run


class Results(NamedTuple):
    """Results of a training."""

    rows: list[Row]
    best_epoch: int
    calibration: Calibration
    evaluations: Mapping[str, Evaluation]  # of validation and test images, or of all folds
    images: Split  # test images; all with folds
    model: keras.Model

    @property
    def tested(self) -> Evaluation:
        """The evaluation that is reported."""
        return list(self.evaluations.values())[-1]


def _begin(
    run: Run, choose: Callable[[Console], Task], overwrite: bool, console: Console
) -> Results | None:
    """Begin a training; None on processes other than the first."""
    task, start = distributed.alike("task", lambda: (choose(console), None), _facts)
    model = _build(task, console)  # before an old run is touched
    first = distributed.is_first()
    folder = new_training(run.path, overwrite=overwrite) if first else contextlib.nullcontext(run)
    with folder as training:
        if first:
            task.write(training)
        return _train(task, start, model, run, training, console)


def _resume(run: Run, source: AnySource | None, console: Console) -> Results | None:
    """Continue an unfinished training; None if it is finished, and on other processes."""
    what = f"an unfinished training in {run.path}"
    found = distributed.alike("run", lambda: unfinished(run), lambda found: {what: bool(found)})
    if found is None:
        load_run(run.path)  # raises unless it is a finished run
        return None
    first = distributed.is_first()
    with old_training(run) if first else contextlib.nullcontext(found) as training:
        if training.metrics_file.is_file():  # its process was killed during the cleaning up
            return None

        def again() -> tuple[Task, Checkpoint | None]:
            task = old_task(training, source, console)
            start = load_checkpoint(training.checkpoints_folder, console)
            from_files = {
                "classes": list(training.spec.labels),
                "environment": training.environment,
            }
            before = start.settings if start else {**task.settings, **from_files}
            check_unchanged(before, task.settings, run, console)
            return task, start

        task, start = distributed.alike("task", again, _facts)
        if first:
            changed = ("source", "images", "findings")  # maybe, since the training began
            now = {key: task.settings["environment"][key] for key in changed}
            training.write_json(training.environment_file, {**training.environment, **now})
        model = _build(task, console, resumed=start is not None)
        if task.images.folds is None or start is not None:
            console.print(f"going on at {start or 'the first step'}")
        return _train(task, start, model, run, training, console)


def _facts(given: tuple[Task, Checkpoint | None]) -> dict[str, object]:
    """Facts that all processes must share when they begin."""
    task, start = given
    return {**same_everywhere(task.settings), "checkpoint": str(start)}


def _build(task: Task, console: Console, *, resumed: bool = False) -> keras.Model:
    """Describe the training, and build the network."""
    console.print(f"{device_name()}, {task.policy}: {task.policy.reason}")
    for line in (missing_gpu(), sharing_in_words(task.batch_size)):
        if line is not None:
            console.print(line)
    source = task.source
    for line in (*source.split_notes, *source.notes, *in_words(task.images, task.preprocess)):
        console.print(line)
    if (folds := task.images.folds) is not None:
        finetune = task.recipe.finetune
        epochs = task.recipe.epochs + (finetune.head_epochs if finetune else 0)
        console.print(
            f"{folds.count} trainings that leave out a fold each, then the one that ships, on all "
            f"{len(folds.numbers):,} images; epochs of each: {epochs}"
        )
    return build_network(task, console, resumed=resumed)


def _train(
    task: Task,
    start: Checkpoint | None,
    model: keras.Model,
    run: Run,
    training: Run,
    console: Console,
) -> Results | None:
    """Fit, evaluate and write; costly results are on disk before anything that may fail.

    `training` is the run that is written: `run`, or its replacement. Returns None on processes
    other than the first.
    """
    if distributed.count() > 1:
        console.print(
            f"if a process ends, all do: go on with {resume_call(run.path)} on each of them"
        )
    try:
        with stop_signals() as stop, broken_images_named():
            with broken_images_named(_OF_TRAINING):
                held_out = means = None
                if task.images.folds is not None:
                    held_out = train_folds(task, training, stop=stop, console=console)
                    means = held_out.rows
                    model = build_network(task, Console(quiet=True), resumed=start is not None)
                    console.print(
                        f"the training that ships: {task.source.split_notes[0]}; validation is the "
                        "folds' mean"
                    )
                rows = train_network(
                    model, task, training, start=start, stop=stop, console=console, held_out=means
                )
            model, splits = alone(model), task.source.splits
            if held_out is not None:
                best, (found, evaluations) = rows[-1], held_out.calibrated(task)
                divide_logits(model, found.temperature, training)
            else:
                best, validation = best_row(rows), splits["validation"]
                found = calibrate(*logits_of(model, validation, task.preprocess, console))
                divide_logits(model, found.temperature, training)
                model.compile(jit_compile=fastest_jit())
                evaluations = {
                    name: measure(model.predict_on_batch, splits[name], task.spec(found.threshold))
                    for name in ("validation", "test")
                }
            distributed.part()
            if not distributed.is_first():
                return None
            results = Results(rows, best["epoch"], found, evaluations, splits["test"], model)
            _write(task, results, training)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the terminal may be gone
            # resuming at the last checkpoint would diverge at the same step
            diverged = isinstance(error, DivergedError)
            console.print(left_in_words(run, training, diverged=diverged))
        raise
    _plot(training, results, console)
    return results


def _write(task: Task, results: Results, run: Run) -> None:
    """Write the results of a training; the metrics are last, and mark the run as finished."""
    run.write_text(run.spec_file, task.spec(results.calibration.threshold).to_json())
    with staged(run.predictions_file) as new:
        write_predictions(results.tested, new)
    facts, splits = task.images.facts, task.source.splits
    used = [splits["train"]] if task.images.folds else splits.values()  # each image once
    metrics = {
        **{name: evaluation.to_dict() for name, evaluation in results.evaluations.items()},
        "best_epoch": results.best_epoch,
        "epochs": len(results.rows),
        "calibration": results.calibration.to_dict(),
        "images": {
            "compared": sum(split.size for split in used),
            "compared_by": facts["compared_by"],
            "left_out": len(facts["left_out"]),
            "findings": facts["findings"],
        },
    }
    run.write_json(run.metrics_file, metrics)


def _plot(run: Run, results: Results, console: Console) -> None:
    """Draw curves and confusion matrix. A failure is printed and does not fail the run."""
    rows, test, finetune = results.rows, results.tested, run.recipe.finetune
    head_epochs = finetune.head_epochs if finetune else 0
    try:
        with staged(run.curves_file) as new:
            plot_curves(rows, results.best_epoch, new, head_epochs=head_epochs)
        with staged(run.confusion_file) as new:
            plot_confusion(test.labels, test.predictions, run.spec.labels, new)
    except Exception as error:
        console.print(f"a plot could not be drawn ({type(error).__name__}: {error})")


def _finished(run: Run, results: Results | None, console: Console) -> Run:
    """Open the finished run, print its figures, and write its report."""
    run = load_run(run.path)
    if results is None:
        page = "" if run.report_file.is_file() else f"; report({str(run.path)!r}) makes its page"
        console.print(f"{run.path} is finished: there is nothing to go on with{page}")
        return run
    if run.folds is None:
        console.print(best_in_words(results.rows))
    of = "validation images" if run.folds is None else "images of the folds"
    for line in results.calibration.in_words(of):
        console.print(line)
    for name, evaluation in results.evaluations.items():
        name = name if run.folds is None else f"{run.folds}-fold"
        console.print(f"{name:10} accuracy {evaluation}")
    for note in results.tested.notes():
        console.print(f"{'':10} {note}")
    print_classes(console, results.tested.per_class, str(run.metrics_file))
    try:
        console.print(f"report: {write_report(run, results.images, results.model)}")
    except Exception as error:  # does not fail the run
        console.print(f"the page could not be made ({type(error).__name__}: {error})")
    console.print(f"run: {run.path}")
    return run
