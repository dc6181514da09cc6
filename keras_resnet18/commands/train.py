"""The one path from labelled images to a classifier: build, fit, evaluate, write."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.progress import Progress

from keras_resnet18.data.augment import augment
from keras_resnet18.data.pipeline import eval_batches, steps_per_epoch, train_batches
from keras_resnet18.data.sources import open_source
from keras_resnet18.data.splits import Source, Split, array_split
from keras_resnet18.device import (
    device_name,
    dtype_policy,
    fastest_jit,
    recommended_policy,
)
from keras_resnet18.errors import InputError
from keras_resnet18.evaluation.accuracy import Evaluation, broken_images_named, measure
from keras_resnet18.figures.plots import plot_confusion, plot_curves
from keras_resnet18.fit.finetune import frozen_batch_norm, head_recipe, split_head
from keras_resnet18.fit.fit import KeepBest, fit_model
from keras_resnet18.fit.progress import History, ProgressLine
from keras_resnet18.machine import environment
from keras_resnet18.model import resnet
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.recipe.recipe import Recipe, load_recipe
from keras_resnet18.run import DEFAULT_FOLDER, Run, check_run_path, new_run, save_model
from keras_resnet18.staging import staged
from keras_resnet18.weights.catalogue import find_weights
from keras_resnet18.weights.endings import is_name
from keras_resnet18.weights.transfer import load_weights

# Up to here the stem of ImageNet's networks would leave too little of an image.
_SMALL_SIDE = 64

_FEATURES_BATCH = 64

_BUILDERS: dict[str, Callable[..., keras.Model]] = {
    "resnet18": resnet.build_resnet18,
    "resnet34": resnet.build_resnet34,
    "plain18": resnet.build_plain18,
    "plain34": resnet.build_plain34,
}


def train(
    source: Source | str | os.PathLike[str],
    recipe: Recipe | str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    weights: str | None = None,
    settings: Sequence[str] = (),
    overwrite: bool = False,
    console: Console | None = None,
) -> Run:
    """Trains a classifier and leaves a run.

    Training images train it; validation images choose the epoch that is kept; test images,
    which had no say in either, give the accuracy that is reported. Two calls with the same
    arguments give bit-equal weights on a CPU.

    Args:
        source: Images: a folder `class/…`, a folder of IDX files, `"tfds:NAME"`, `"digits"`, or
            what `keras_resnet18.data.sources` made of arrays.
        recipe: A `Recipe`, the name of one, or the path of a TOML file; by default the one that
            suits the images.
        weights: What to fine-tune instead of the recipe's: a name such as `"imagenet"`, or the path
            of a checkpoint. Without a recipe it means `"finetune"`.
        settings: Changes of the recipe, as `Recipe.changed` takes them, such as
            `["optimizer.learning_rate=0.05"]`.
        out: The folder to write, by default one in `saved_models/` with the source's name.
        overwrite: Whether a run that is there is replaced, once the new one is whole.
        console: Where progress is printed; standard output by default,
            `rich.console.Console(quiet=True)` for silence.

    Returns:
        The run.

    Raises:
        InputError: If anything that was given cannot be used; before that, nothing is written.
    """
    console = console or Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    if recipe is None and weights is not None:
        recipe = "finetune"
    if recipe is not None:  # before the images are looked at
        recipe = _adapted(load_recipe(recipe), weights, settings)
    out = Path(out) if out is not None else default_out(source)
    check_run_path(out, overwrite=overwrite)
    source = source if isinstance(source, Source) else open_source(os.fspath(source))
    recipe = recipe or _adapted(load_recipe(default_recipe(source)), weights, settings)
    preprocess = _preprocess(recipe, source)
    policy, reason = _policy(recipe.precision)

    console.print(f"{device_name()}, {policy}: {reason}")
    for note in source.notes:
        console.print(note)
    # Keras' initialisers draw from a global generator; everything else has seeds of its own.
    keras.utils.set_random_seed(recipe.seed)
    with dtype_policy(policy):
        model = _build(recipe, preprocess, len(source.classes), console)

    with new_run(out, overwrite=overwrite) as run:
        run.write_text(run.recipe_file, recipe.to_toml())
        run.write_text(run.labels_file, "".join(f"{label}\n" for label in source.classes))
        run.write_json(run.preprocess_file, preprocess.to_dict())
        run.write_json(
            run.environment_file,
            {
                "source": source.spec,
                "device": device_name(),
                "precision": policy,
                "precision_reason": reason,
                **environment(),
            },
        )
        with broken_images_named():
            rows, best_epoch = _fit(model, source, recipe, preprocess, run, console)
            evaluations = {
                kind: measure(model.predict_on_batch, source.splits[kind], preprocess)
                for kind in ("validation", "test")
            }
        _write_results(run, model, rows, best_epoch, evaluations)
    _print_summary(console, run, len(rows), best_epoch, evaluations)
    return run


def _adapted(recipe: Recipe, weights: str | None, settings: Sequence[str]) -> Recipe:
    return (recipe if weights is None else recipe.with_weights(weights)).changed(settings)


def default_out(source: Source | str | os.PathLike[str]) -> Path:
    """Where a run goes that was given no folder: named after its images."""
    if isinstance(source, Source):
        name = source.spec or source.name
    else:
        name = os.fspath(source)
        if Path(name).is_dir():
            name = Path(name).resolve().name  # of "." too
    return DEFAULT_FOLDER / (Path(name.replace(":", "-")).name or "run")


def default_recipe(source: Source) -> str:
    """The name of the recipe that suits these images."""
    if source.spec == "digits":
        return "digits"
    small = source.image_size is not None and max(source.image_size) <= _SMALL_SIDE
    return "small-images" if small else "photos"


def _preprocess(recipe: Recipe, source: Source) -> Preprocess:
    """Preprocessing of published weights, or the default; the recipe's values take precedence."""
    size = (recipe.image_size,) * 2 if recipe.image_size else source.image_size
    if size is None:
        raise InputError(
            "a recipe needs image_size unless all images have one size. "
            f"Received: recipe {recipe.name!r} without image_size; add --set image_size=32"
        )
    if recipe.finetune is None:
        preprocess = Preprocess(size=size, crop_ratio=1.0)
    elif is_name(recipe.finetune.weights):
        preprocess = dataclasses.replace(
            find_weights(recipe.finetune.weights).preprocess, size=size
        )
    else:
        preprocess = Preprocess(size=size)
    if recipe.crop_ratio is not None:
        preprocess = dataclasses.replace(preprocess, crop_ratio=recipe.crop_ratio)
    return preprocess


def _build(recipe: Recipe, preprocess: Preprocess, classes: int, console: Console) -> keras.Model:
    build = functools.partial(
        _BUILDERS[recipe.network.name],
        input_shape=(*preprocess.size, 3),
        classes=classes,
        stem=recipe.network.stem,
        variant=recipe.network.variant,
        dropout=recipe.network.dropout,
    )
    if recipe.finetune is None:
        return build()
    weights = recipe.finetune.weights
    if is_name(weights):  # the builder, for their normalisation
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


def _policy(precision: str) -> tuple[str, str]:
    if precision == "auto":
        recommended = recommended_policy()
        return str(recommended), recommended.reason
    return precision, "as the recipe says"


def _fit(
    model: keras.Model,
    source: Source,
    recipe: Recipe,
    preprocess: Preprocess,
    run: Run,
    console: Console,
) -> tuple[list[dict[str, Any]], int]:
    """Trains; returns a row for each epoch, and which epoch the model has the weights of."""
    training, validation = source.splits["train"], source.splits["validation"]
    batch_size = min(recipe.batch_size, training.size)
    shuffled = functools.partial(train_batches, batch_size=batch_size, seed=recipe.seed)
    in_order = functools.partial(eval_batches, batch_size=batch_size)
    vary = functools.partial(
        augment,
        size=preprocess.size,
        resized_crop=recipe.augment.resized_crop,
        shift=recipe.augment.shift,
        flip=recipe.augment.flip,
        erase=recipe.augment.erase,
    )
    head_epochs = recipe.finetune.head_epochs if recipe.finetune else 0
    history = History(batch_size, run.write_history)
    progress = ProgressLine(console, history, epochs=head_epochs + recipe.epochs)
    best = KeepBest(model)
    fit = functools.partial(
        fit_model,
        steps_per_epoch=steps_per_epoch(training.size, batch_size),
        callbacks=[
            history,
            progress,
            best,
            keras.callbacks.TensorBoard(run.tensorboard_folder, write_graph=False),
        ],
    )
    try:
        if recipe.finetune:
            body, head = split_head(model)
            known = _features(body, training, preprocess, console)
            held_out = _features(body, validation, preprocess, console)
            fit(
                head,
                head_recipe(recipe, recipe.finetune),
                shuffled(known, lambda features, seed: features),
                in_order(held_out, lambda features: features),
            )
        if recipe.epochs:
            with frozen_batch_norm(model) if recipe.finetune else contextlib.nullcontext():
                fit(
                    model,
                    recipe,
                    shuffled(training, vary),
                    in_order(validation, preprocess.resize_and_crop),
                    first_epoch=head_epochs,
                )
    finally:
        progress.stop()
    return history.rows, best.epoch


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


def _write_results(
    run: Run,
    model: keras.Model,
    rows: list[dict[str, Any]],
    best_epoch: int,
    evaluations: dict[str, Evaluation],
) -> None:
    test, finetune = evaluations["test"], run.recipe.finetune
    with staged(run.curves_file) as new:
        plot_curves(rows, best_epoch, new, head_epochs=finetune.head_epochs if finetune else 0)
    with staged(run.confusion_file) as new:
        plot_confusion(test.labels, test.predictions, run.labels, new)
    with staged(run.model_file) as new:
        save_model(model, new)
    run.write_json(
        run.metrics_file,
        {
            **{kind: evaluation.to_dict() for kind, evaluation in evaluations.items()},
            "best_epoch": best_epoch,
            "epochs": len(rows),
        },
    )


def _print_summary(
    console: Console, run: Run, epochs: int, best_epoch: int, evaluations: dict[str, Evaluation]
) -> None:
    console.print(f"kept epoch {best_epoch} of {epochs}, of the lowest validation loss")
    for kind, evaluation in evaluations.items():
        console.print(f"{kind:10} accuracy {evaluation}")
    console.print(f"everything lies in {run.path}")
