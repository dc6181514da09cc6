"""The one path from labelled pictures to a classifier: build, fit, evaluate, write."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import keras
from rich.console import Console

from keras_resnet18.data.augment import augment
from keras_resnet18.data.pipeline import eval_batches, steps_per_epoch, train_batches
from keras_resnet18.data.sources import open_source
from keras_resnet18.data.splits import Source
from keras_resnet18.errors import InputError
from keras_resnet18.evaluate import Evaluation, broken_pictures_named, evaluate
from keras_resnet18.fit.fit import compile_model, fit_model
from keras_resnet18.fit.precision import device_name, dtype_policy, recommended_policy
from keras_resnet18.fit.progress import History, ProgressLine
from keras_resnet18.machine import environment
from keras_resnet18.model import resnet
from keras_resnet18.plots import plot_confusion, plot_curves
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.recipe import Recipe, load_recipe
from keras_resnet18.run import DEFAULT_FOLDER, Run, check_run_path, create_run
from keras_resnet18.staging import staged

# Up to here the stem of ImageNet's networks would leave too little of a picture.
_SMALL_SIDE = 64

_BUILDERS = {
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
    overwrite: bool = False,
    console: Console | None = None,
) -> Run:
    """Trains a classifier and leaves a run.

    Training pictures train it; validation pictures choose the epoch that is kept; test pictures,
    which had no say in either, give the accuracy that is reported. Two calls with the same
    arguments give bit-equal weights on a CPU.

    Args:
        source: Pictures: a folder `class/…`, a folder of IDX files, `"tfds:NAME"`, `"digits"`, or
            what `keras_resnet18.data.sources` made of arrays.
        recipe: A `Recipe`, the name of one, or the path of a TOML file; by default the one that
            suits the pictures.
        out: The folder to write, by default one in `saved_models/` with the source's name.
        overwrite: Whether a run that is there is replaced.
        console: Where progress is printed; standard output by default,
            `rich.console.Console(quiet=True)` for silence.

    Returns:
        The run.

    Raises:
        InputError: If anything that was given cannot be used; before that, nothing is written.
    """
    console = console or Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    if recipe is not None:
        recipe = load_recipe(recipe)  # before the pictures are looked at
    out = Path(out) if out is not None else default_out(source)
    check_run_path(out, overwrite=overwrite)
    source = source if isinstance(source, Source) else open_source(os.fspath(source))
    recipe = recipe or load_recipe(default_recipe(source))
    preprocess = Preprocess(size=_image_size(recipe, source), crop_ratio=recipe.crop_ratio)
    policy, reason = _policy(recipe.precision)

    console.print(f"{device_name()}, {policy}: {reason}")
    for note in source.notes:
        console.print(note)
    # Keras' initialisers draw from a global generator; everything else has seeds of its own.
    keras.utils.set_random_seed(recipe.seed)
    with dtype_policy(policy):
        model = _BUILDERS[recipe.network.name](
            input_shape=(*preprocess.size, 3),
            classes=len(source.classes),
            stem=recipe.network.stem,
            variant=recipe.network.variant,
            dropout=recipe.network.dropout,
        )

    run = create_run(out, overwrite=overwrite)
    run.write_text(run.recipe_file, recipe.to_toml())
    run.write_text(run.labels_file, "".join(f"{label}\n" for label in source.classes))
    run.write_json(run.preprocess_file, preprocess.to_dict())
    run.write_json(
        run.environment_file,
        {
            "source": _lasting_name(source),
            "device": device_name(),
            "precision": policy,
            "precision_reason": reason,
            **environment(),
        },
    )
    with broken_pictures_named():
        rows, best_epoch = _fit(model, source, recipe, preprocess, run, console)
        evaluations = {
            kind: evaluate(model.predict_on_batch, source.splits[kind], preprocess)
            for kind in ("validation", "test")
        }
    _write_results(run, model, rows, best_epoch, evaluations)
    _print_summary(console, run, len(rows), best_epoch, evaluations)
    return run


def default_out(source: Source | str | os.PathLike[str]) -> Path:
    """Where a run goes that was given no folder: named after its pictures."""
    name = source.name if isinstance(source, Source) else os.fspath(source)
    if Path(name).is_dir():
        name = Path(name).resolve().name  # of "." too
    return DEFAULT_FOLDER / (Path(name.replace(":", "-")).name or "run")


def default_recipe(source: Source) -> str:
    """The name of the recipe that suits these pictures."""
    if source.name == "digits":
        return "digits"
    small = source.image_size is not None and max(source.image_size) <= _SMALL_SIDE
    return "small-images" if small else "photos"


def _image_size(recipe: Recipe, source: Source) -> tuple[int, int]:
    if recipe.image_size is not None:
        return recipe.image_size, recipe.image_size
    if source.image_size is None:
        raise InputError(
            "the pictures are not known to share one size, so the recipe must say which one to "
            f"bring them to. Received: recipe {recipe.name!r} without image_size; add "
            "--set image_size=32"
        )
    return source.image_size


def _policy(precision: str) -> tuple[str, str]:
    if precision == "auto":
        recommended = recommended_policy()
        return str(recommended), recommended.reason
    return precision, "as the recipe says"


def _lasting_name(source: Source) -> str | None:
    """The name that opens a source again, also from another working directory."""
    if source.name == "digits" or source.name.startswith("tfds:"):
        return source.name
    return str(Path(source.name).resolve()) if Path(source.name).is_dir() else None


def _fit(
    model: keras.Model,
    source: Source,
    recipe: Recipe,
    preprocess: Preprocess,
    run: Run,
    console: Console,
) -> tuple[list[dict[str, Any]], int]:
    """Trains; returns a row for each epoch, and which epoch the model has the weights of."""
    training = source.splits["train"]
    batch_size = min(recipe.batch_size, training.size)
    steps = steps_per_epoch(training.size, batch_size)
    compile_model(model, recipe, steps_per_epoch=steps)
    vary = functools.partial(
        augment,
        size=preprocess.size,
        resized_crop=recipe.augment.resized_crop,
        shift=recipe.augment.shift,
        flip=recipe.augment.flip,
        erase=recipe.augment.erase,
    )
    history = History(batch_size, run.write_history)
    progress = ProgressLine(console, history)
    try:
        best_epoch = fit_model(
            model,
            train_batches(training, vary, batch_size=batch_size, seed=recipe.seed),
            eval_batches(
                source.splits["validation"], preprocess.resize_and_crop, batch_size=batch_size
            ),
            epochs=recipe.epochs,
            steps_per_epoch=steps,
            callbacks=[
                history,
                progress,
                keras.callbacks.TensorBoard(run.tensorboard_folder, write_graph=False),
            ],
        )
    finally:
        progress.stop()
    return history.rows, best_epoch


def _write_results(
    run: Run,
    model: keras.Model,
    rows: list[dict[str, Any]],
    best_epoch: int,
    evaluations: dict[str, Evaluation],
) -> None:
    test = evaluations["test"]
    with staged(run.curves_file) as new:
        plot_curves(rows, best_epoch, new)
    with staged(run.confusion_file) as new:
        plot_confusion(test.labels, test.predictions, run.labels, new)
    # Saved uncompiled, so that any Keras 3 opens it: the loss and the schedule are ours.
    model.compiled = False
    with staged(run.model_file) as new:
        model.save(new)
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
    console.print(f"kept epoch {best_epoch} of {epochs}, the best on the validation pictures")
    for kind, evaluation in evaluations.items():
        console.print(f"{kind:10} accuracy {evaluation}")
    console.print(f"everything lies in {run.path}")
