"""`train`: from images and a recipe to a run; build, fit, evaluate, write."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.progress import Progress

from keras_resnet18.commands.images import AnySource, in_words, look
from keras_resnet18.commands.report import write_report
from keras_resnet18.commands.task import (
    Task,
    check_outside,
    check_unchanged,
    default_out,
    new_task,
    old_task,
    run_of_weights,
    settings_of,
)
from keras_resnet18.data.augment import augment
from keras_resnet18.data.mix import mix
from keras_resnet18.data.pipeline import eval_batches, steps_per_epoch, train_batches
from keras_resnet18.data.sources import check_spec
from keras_resnet18.data.splits import Source, Split, array_split
from keras_resnet18.device import device_name, dtype_policy, fastest_jit, missing_gpu
from keras_resnet18.errors import InputError
from keras_resnet18.evaluation.accuracy import Evaluation, broken_images_named, measure
from keras_resnet18.evaluation.predictions import write_predictions
from keras_resnet18.evaluation.table import print_classes
from keras_resnet18.figures.plots import plot_confusion, plot_curves
from keras_resnet18.fit.best import best_in_words, best_row
from keras_resnet18.fit.checkpoint import Checkpoint, load_checkpoint
from keras_resnet18.fit.folder import check_out, new_training, old_training, unfinished
from keras_resnet18.fit.history import Row
from keras_resnet18.fit.phases import Batches, Pair, train_network
from keras_resnet18.fit.signals import stop_signals
from keras_resnet18.model import resnet
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.recipe.recipe import Recipe
from keras_resnet18.run import Run, load_run
from keras_resnet18.staging import staged
from keras_resnet18.weights.endings import is_name
from keras_resnet18.weights.own import copy_weights
from keras_resnet18.weights.transfer import load_weights

_FEATURES_BATCH = 64

_BUILDERS: dict[str, Callable[..., keras.Model]] = {
    "resnet18": resnet.build_resnet18,
    "resnet34": resnet.build_resnet34,
    "plain18": resnet.build_plain18,
    "plain34": resnet.build_plain34,
}


def train(
    source: AnySource | None = None,
    recipe: Recipe | str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    weights: str | None = None,
    settings: Sequence[str] = (),
    split_seed: int = 0,
    on_bad_image: str = "raise",
    dedupe: bool = False,
    overwrite: bool = False,
    resume: str | os.PathLike[str] | None = None,
    console: Console | None = None,
) -> Run:
    """Trains a classifier and leaves a run.

    Training images train it; validation images choose the epoch that is kept; test images,
    which had no say in either, give the accuracy that is reported. Two calls with the same
    arguments give bit-equal weights on a CPU, also where the second was killed and resumed.

    Ctrl-C, SIGTERM and SIGHUP finish the step, save a checkpoint and raise KeyboardInterrupt or
    SystemExit.

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
        console: Where progress is printed; standard output by default,
            `rich.console.Console(quiet=True)` for silence.

    Returns:
        The run.

    Raises:
        InputError: If an argument cannot be used, before anything is written; if an image is
            broken, the training diverges or the run cannot be written.
    """
    console = console or Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    if resume is not None:
        choices = (recipe, out, weights, settings, split_seed, on_bad_image != "raise", dedupe)
        if any(choices) or overwrite:
            raise InputError(
                "a training is resumed as it was begun: with resume give the images at most, where "
                "they have moved, and nothing else"
            )
        return _resume(Path(resume), source, console)
    if source is None:
        raise InputError("train needs images, or the run to go on with. Received: neither")
    if not isinstance(source, Source):
        check_spec(source)
    path = Path(out) if out is not None else default_out(source)
    check_outside(path, source)
    check_out(path, overwrite=overwrite)
    open_images = functools.partial(
        look, console=console, split_seed=split_seed, on_bad_image=on_bad_image, dedupe=dedupe
    )
    task = new_task(source, recipe, weights, settings, open_images)
    model = _start(task, console)
    with new_training(path, overwrite=overwrite) as training:
        task.write(training, given := task.settings())
        results = _train(task, model, Run(path), training, given, None, console)
    return _finished(path, results, console)


Results = tuple[list[Row], Mapping[str, Evaluation], Split, keras.Model]


def _resume(path: Path, source: AnySource | None, console: Console) -> Run:
    if unfinished(Run(path)) is None:
        run = load_run(path)  # or the error that says what else it is
        console.print(f"{path} is finished: there is nothing to go on with")
        return run
    with old_training(Run(path)) as training:
        ended = training.metrics_file.is_file()  # its process was killed as it cleared up
        results = None if ended else _go_on(Run(path), training, source, console)
    return _finished(path, results, console)


def _go_on(run: Run, training: Run, source: AnySource | None, console: Console) -> Results:
    task = old_task(training, source)
    start = load_checkpoint(training.checkpoints_folder, console.print)
    before = start.settings if start is not None else settings_of(training)
    given = task.settings()
    for line in check_unchanged(before, given, run):
        console.print(line)
    training.write_json(
        training.environment_file, {**training.environment, "source": task.source.spec}
    )
    model = _start(task, console)
    console.print(f"going on at {start or 'the first step'}")
    return _train(task, model, run, training, given, start, console)


def _start(task: Task, console: Console) -> keras.Model:
    """Says what is trained on what, and builds the network."""
    console.print(f"{device_name()}, {task.policy}: {task.reason}")
    if (missing := missing_gpu()) is not None:
        console.print(missing)
    for line in (*task.source.notes, *in_words(task.images)):
        console.print(line)
    # Keras' initialisers draw from a global generator; everything else has seeds of its own.
    keras.utils.set_random_seed(task.recipe.seed)
    with dtype_policy(task.policy):
        return _build(task, console)


def _build(task: Task, console: Console) -> keras.Model:
    recipe = task.recipe
    build = functools.partial(
        _BUILDERS[recipe.network.name],
        input_shape=(*task.preprocess.size, 3),
        classes=len(task.source.classes),
        stem=recipe.network.stem,
        variant=recipe.network.variant,
        dropout=recipe.network.dropout,
    )
    if recipe.finetune is None:
        return build()
    weights = recipe.finetune.weights
    if (run := run_of_weights(recipe)) is not None:
        model = build()
        same = run.labels == task.source.classes
        console.print(f"{weights}: {copy_weights(model, run.model, classes_match=same)}")
    elif is_name(weights):  # the builder, for their normalisation
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)  # each training says it, not the first
            model = build(weights=weights)
        for warning in said:
            if issubclass(warning.category, UserWarning):
                console.print(str(warning.message))
    else:
        model = build()
        console.print(f"{weights}: {load_weights(model, weights, head='skip')}")
    return model


def _train(
    task: Task,
    model: keras.Model,
    run: Run,
    training: Run,
    settings: dict[str, Any],
    start: Checkpoint | None,
    console: Console,
) -> Results:
    """Fit, evaluate, write: what took longest is on the disk before what may fail is tried.

    Args:
        task: What the training is given.
        model: The network.
        run: The run as its user calls it.
        training: The run that is written, which may be the replacement of `run`.
        settings: `task.settings()`.
        start: The checkpoint to begin at, or None.
        console: Where progress is printed.
    """
    try:
        with stop_signals() as stop, broken_images_named():
            rows = train_network(
                model,
                task.recipe,
                _batches(task, console),
                training,
                settings=settings,
                start=start,
                stop=stop,
                console=console,
            )
            evaluate = functools.partial(
                measure, preprocess=task.preprocess, classes=task.source.classes
            )
            evaluations = {
                name: evaluate(model.predict_on_batch, task.source.splits[name])
                for name in ("validation", "test")
            }
            with staged(training.predictions_file) as new:
                write_predictions(evaluations["test"], new)
            figures = {name: evaluation.to_dict() for name, evaluation in evaluations.items()}
            kept = {"best_epoch": best_row(rows)["epoch"], "epochs": len(rows)}
            facts = task.images.facts
            about = {"left_out": len(facts["left_out"]), "findings": facts["findings"]}
            training.write_json(training.metrics_file, {**figures, **kept, "images": about})
    except BaseException:
        with contextlib.suppress(OSError):  # a terminal that hung up
            console.print(run.unfinished_in_words(training))
        raise
    _plot(training, rows, evaluations["test"], console)
    return rows, evaluations, task.source.splits["test"], model


def _batches(task: Task, console: Console) -> Batches:
    recipe, preprocess = task.recipe, task.preprocess
    training, validation = task.source.splits["train"], task.source.splits["validation"]
    size = min(recipe.batch_size, training.size)
    shuffled = functools.partial(train_batches, batch_size=size, seed=recipe.seed)
    in_order = functools.partial(eval_batches, batch_size=size)
    variation = dataclasses.asdict(recipe.augment)
    mixing = {name: variation.pop(name) for name in ("mixup", "cutmix")}
    vary = functools.partial(augment, preprocess=preprocess, **variation)
    mixed = functools.partial(mix, classes=len(task.source.classes), **mixing)

    def images(first_step: int) -> Pair:
        mix_or_not = mixed if any(mixing.values()) else None
        batches = shuffled(training, vary, first_step=first_step, mix=mix_or_not)
        return batches, in_order(validation, preprocess.resize_and_crop)

    def features(body: keras.Model, first_step: int) -> Pair:
        known = _features(body, training, preprocess, console)
        held_out = _features(body, validation, preprocess, console)
        batches = shuffled(known, lambda features, seed: features.whole(), first_step=first_step)
        return batches, in_order(held_out, lambda features: features)

    weights = _class_weights(task)
    return Batches(size, steps_per_epoch(training.size, size), weights, images, features)


def _class_weights(task: Task) -> Sequence[float] | None:
    """Inverse of each class's number of training images, 1 on average, where the recipe asks."""
    if task.recipe.optimizer.class_weights is None:
        return None
    labels = task.source.splits["train"].labels
    if labels is None:
        raise InputError(
            "class_weights='balanced' needs a source whose labels are known before its images are "
            f"read: export it as a folder, or leave it out. Received: {task.source.name}"
        )
    counts = np.bincount(labels, minlength=len(task.source.classes))
    weights: list[float] = (len(labels) / len(counts) / counts).tolist()
    return weights


def _features(body: keras.Model, split: Split, preprocess: Preprocess, console: Console) -> Split:
    """What the network makes of each image, computed once."""
    batches = eval_batches(split, preprocess.resize_and_crop, batch_size=_FEATURES_BATCH)
    body.compile(jit_compile=fastest_jit())
    features, labels = [], []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("features", total=split.size)
        for images, targets in batches:
            features.append(body.predict_on_batch(images))
            labels.append(targets.numpy())
            progress.advance(task, len(targets))
    return array_split(np.concatenate(features), np.concatenate(labels))


def _plot(run: Run, rows: list[Row], test: Evaluation, console: Console) -> None:
    """Draws curves and confusion matrix; a plot that fails is said, and costs nothing else."""
    finetune = run.recipe.finetune
    head_epochs = finetune.head_epochs if finetune else 0
    try:
        with staged(run.curves_file) as new:
            plot_curves(rows, best_row(rows)["epoch"], new, head_epochs=head_epochs)
        with staged(run.confusion_file) as new:
            plot_confusion(test.labels, test.predictions, run.labels, new)
    except Exception as error:
        console.print(f"a plot could not be drawn ({type(error).__name__}: {error})")


def _finished(path: Path, results: Results | None, console: Console) -> Run:
    run = load_run(path)
    if results is not None:
        rows, evaluations, images, model = results
        console.print(best_in_words(rows))
        for name, evaluation in evaluations.items():
            console.print(f"{name:10} accuracy {evaluation}")
        for note in evaluations["test"].notes():
            console.print(f"{'':10} {note}")
        print_classes(console, evaluations["test"].per_class, str(run.metrics_file))
        _report(run, images, model, console)
    console.print(f"everything lies in {run.path}")
    return run


def _report(run: Run, images: Split, model: keras.Model, console: Console) -> None:
    """Writes the page and the model card; a fault is said, and costs nothing else."""
    try:
        console.print(f"a page to look at: {write_report(run, images, model)}")
    except Exception as error:
        console.print(f"the page could not be made ({type(error).__name__}: {error})")
