"""Class activation maps (Zhou et al. 2016, arXiv:1512.04150)."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from sklearn.metrics import confusion_matrix

from keras_resnet18.checking.findings import is_left_out_copy
from keras_resnet18.classify.accuracy import (
    Predictions,
    measure,
    notes,
    read_predictions,
    write_predictions,
)
from keras_resnet18.classify.calibration import Reliability, is_at_the_end, reliability
from keras_resnet18.classify.classifier import of_training, open_classifier, open_images
from keras_resnet18.data.splits import Split
from keras_resnet18.errors import InputError
from keras_resnet18.files import staged
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.reports.card import write_card
from keras_resnet18.reports.page import Mistake, Report, page
from keras_resnet18.reports.plots import curve_svg, reliability_svg
from keras_resnet18.run import Run, load_run

_SMALLEST_SIDE = 3  # of a map; a smaller one says nothing about the place


def activation_maps(
    model: Any, pixels: npt.NDArray[np.uint8], classes: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32] | None:
    """Where in each image the network finds a class: the last maps times the class's weights.

    With a global average and one dense layer this is Grad-CAM up to a factor, without a gradient.

    Args:
        model: A `keras.Model` with the layers `head_pool` and `predictions`.
        pixels: uint8 (n, height, width, 3).
        classes: A class for each image, (n,).

    Returns:
        float32 (n, map height, map width), 0 where nothing speaks for the class, 1 at most; None
        for a network with another head, or with maps smaller than 3 by 3.
    """
    import keras

    maps = model.get_layer("head_pool").input
    kernel = keras.ops.convert_to_numpy(model.get_layer("predictions").kernel)
    if (
        len(maps.shape) != 4
        or maps.shape[-1] != len(kernel)
        or min(maps.shape[1:3]) < (_SMALLEST_SIDE)
    ):
        return None
    features = keras.Model(model.inputs[0], maps)(pixels, training=False)
    features = keras.ops.convert_to_numpy(keras.ops.cast(features, "float32"))
    found = np.einsum("nhwc,cn->nhw", features, kernel[:, classes]).clip(0)
    highest: npt.NDArray[np.float32] = found.max((1, 2), keepdims=True)
    scaled: npt.NDArray[np.float32] = np.divide(
        found, highest, out=np.zeros_like(found), where=highest > 0
    )
    return scaled


# Which images a classifier gets wrong, and which classes it takes for which.


class Confusion(NamedTuple):
    """Two classes, by number, and how many images of the first were taken for the second."""

    true: int
    predicted: int
    n: int


def hardest_mistakes(found: Predictions, most: int) -> list[int]:
    """Numbers of the wrongly predicted images, those of the highest probability first."""
    wrong = np.flatnonzero(found.labels != found.predictions)
    order = (-found.probabilities[wrong]).argsort(kind="stable")
    return [int(i) for i in wrong[order][:most]]


def confusions(found: Predictions, most: int) -> list[Confusion]:
    """The pairs of classes that are most often confused, the most frequent first."""
    wrong = found.labels != found.predictions
    pairs = np.stack([found.labels[wrong], found.predictions[wrong]], axis=1)
    kinds, counts = np.unique(pairs, axis=0, return_counts=True)
    order = (-counts).argsort(kind="stable")[:most]
    return [Confusion(int(kinds[i, 0]), int(kinds[i, 1]), int(counts[i])) for i in order]


def images_at(
    split: Split, preprocess: Preprocess, indices: Sequence[int]
) -> list[npt.NDArray[np.uint8]]:
    """Some images of a split as the network gets them, in the order of `indices`."""
    wanted = tf.constant(sorted(indices), tf.int64)
    chosen = split.elements(None, 0).enumerate().filter(lambda i, _: tf.reduce_any(i == wanted))
    images = chosen.map(lambda _, element: preprocess.resize_and_crop(split.fetch(element)[0]))
    by_index = dict(zip(sorted(indices), images.as_numpy_iterator(), strict=True))
    return [by_index[i] for i in indices]


# `report`: what a run learned and how well, as a page and as a model card.

_MISTAKES, _CONFUSIONS = 12, 15  # that the page shows


def report(run: Run | str | os.PathLike[str], *, data: str | None = None) -> Path:
    """Writes `report.html`, one file for a browser without a network, and a model card.

    The page shows the accuracy with its interval, the hardest mistakes with class activation maps,
    the classes, confused pairs, calibration, curves, and how the run was made. `README.md`, the
    model card, has Hugging Face's metadata; a README.md of somebody else's is not replaced.

    Args:
        run: A run, or the path of its folder.
        data: The source of the run's test images, where they have moved.

    Returns:
        Path of the page.

    Raises:
        InputError: If the run is damaged, or its images are not found or are others.
    """
    run = run if isinstance(run, Run) else load_run(run)
    images = None  # of arrays nothing is left
    if data is not None or run.source is not None:
        source = open_images(run.spec, run, data)
        images = source.splits["test"]
        if not of_training(run, source, ["test"]):
            tested = _environment(run, "images", {}).get("test", {}).get("n", "?")
            raise InputError(
                f"a report shows the {tested} images that the run was tested on: give their "
                f"place with --data. Received: {data} with {images.size:,} others"
            )
    return write_report(run, images)


def write_report(run: Run, images: Split | None, model: Any = None) -> Path:
    """Writes the page and the card of a run.

    Args:
        run: The run.
        images: Its test images; None leaves the images of mistakes out.
        model: The network, where it is open already.
    """
    try:
        figures, contents = _contents(run, images, model)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"a report is made of what `train` wrote: copy {run.metrics_file.name} and "
            f"{run.environment_file.name} from a backup, or train again. Received: {run.path}, "
            f"which is damaged ({type(error).__name__}: {error})"
        ) from None
    run.write_text(run.report_file, page(contents))
    write_card(run, figures)
    return run.report_file


def _contents(run: Run, images: Split | None, model: Any) -> tuple[Mapping[str, Any], Report]:
    """The figures of the test images, and all that the page shows."""
    figures, found = _answers(run, images)
    wrong = int((found.labels != found.predictions).sum())
    mistakes = [] if images is None else _mistakes(run, found, images, model)
    matrix = confusion_matrix(found.labels, found.predictions, labels=range(len(run.spec.labels)))
    confused = confusions(found, _CONFUSIONS)
    calibration, facts = _calibration(run, figures, found)
    return figures, Report(
        name=run.path.absolute().name,
        figures=figures,
        notes=notes(figures),
        mistakes=mistakes,
        mistakes_note=_about_mistakes(wrong, len(found.labels), mistakes, images is None),
        matrix=matrix,
        confused=[(run.spec.labels[a], run.spec.labels[b], n) for a, b, n in confused],
        curves=_curves(run),
        calibration=calibration,
        calibration_facts=facts,
        data_check=_data_check(run),
        made=_made(run),
        command=_command(run),
        recipe=run.recipe.to_toml(),
        version=_environment(run, "packages", {}).get("keras-resnet18", "of an unknown version"),
    )


def _answers(run: Run, images: Split | None) -> tuple[Mapping[str, Any], Predictions]:
    """Figures and predictions of the test images, measured again where the run lacks them."""
    figures = run.metrics["test"]
    if run.predictions_file.is_file() and "coverage" in figures:  # of older runs not
        kept = read_predictions(run.predictions_file, run.spec.labels)
        _check_predictions(run, figures, kept, images)
        return figures, kept
    if images is None:
        raise InputError(
            f"a report needs {run.predictions_file.name} or the images. Received: {run.path} "
            "without the one, trained on arrays: give the images with --data, or train again"
        )
    classifier = open_classifier(run)
    found = measure(classifier.predict, images, classifier.spec)
    with staged(run.predictions_file) as new:
        write_predictions(found, new)
    return found.to_dict(), read_predictions(run.predictions_file, run.spec.labels)


def _check_predictions(
    run: Run, figures: Mapping[str, Any], found: Predictions, images: Split | None
) -> None:
    """Raises InputError unless rows and figures are of one another, and of the images in order."""
    n, accuracy = figures["n"], figures["accuracy"]
    right = int((found.labels == found.predictions).sum())
    if len(found.labels) != n:
        fault = f"{len(found.labels):,} rows for {n:,} images"
    elif abs(right - accuracy * n) > 1e-3:
        fault = f"{right:,} of {n:,} right for an accuracy of {accuracy:.2%}"
    elif not ((found.probabilities >= 0) & (found.probabilities <= 1)).all():
        fault = "probabilities that are none"
    elif images is not None and images.names not in (None, found.names):
        fault = "rows in another order than the images"
    else:
        return
    raise InputError(
        f"{run.predictions_file.name} and {run.metrics_file.name} must be as `train` wrote them: "
        f"remove the first, and `report` measures again. Received: {run.path} with {fault}"
    )


def _mistakes(run: Run, found: Predictions, images: Split, model: Any) -> list[Mistake]:
    wrong = hardest_mistakes(found, _MISTAKES)
    if not wrong:
        return []
    pixels = images_at(images, run.preprocess, wrong)
    maps = activation_maps(model or run.model, np.stack(pixels), found.predictions[wrong])
    return [
        Mistake(
            path=f"test image {i}" if found.names[i] == str(i) else found.names[i],
            true=run.spec.labels[found.labels[i]],
            predicted=run.spec.labels[found.predictions[i]],
            probability=float(found.probabilities[i]),
            image=image,
            activation=None if maps is None else maps[position],
        )
        for position, (i, image) in enumerate(zip(wrong, pixels, strict=True))
    ]


def _about_mistakes(wrong: int, n: int, mistakes: Sequence[Mistake], no_images: bool) -> str:
    if not wrong:
        return f"None: all {n:,} test images were given their class."
    if no_images:
        return f"{wrong:,} of {n:,} test images. The run was trained on arrays, which it lacks."
    shown = f"the {len(mistakes)} most certain ones of {wrong:,} that are wrong"
    if wrong == len(mistakes):
        shown = f"the {wrong:,} that {'are' if wrong > 1 else 'is'} wrong"
    text = f"Of {n:,} test images, {shown}, cropped as the network got them."
    if mistakes[0].activation is None:
        return text
    return f"{text} Beside each image, bright, what spoke for the answer (class activation map)."


def _curves(run: Run) -> dict[str, bytes]:
    rows, finetune = run.history, run.recipe.finetune
    if not rows:
        return {}
    head_epochs, best = finetune.head_epochs if finetune else 0, run.metrics["best_epoch"]
    last = rows[-1]
    return {
        f"{name} over {len(rows)} epochs; at the end {last[name]:.3g} on training images and "
        f"{last[f'validation_{name}']:.3g} on validation images": curve_svg(
            rows, name, best, head_epochs=head_epochs
        )
        for name in ("loss", "accuracy")
    }


def _calibration(
    run: Run, figures: Mapping[str, Any], found: Predictions
) -> tuple[dict[str, bytes], dict[str, str]]:
    """The plot of reliability, and the figures beside it."""
    said = run.metrics.get("calibration")
    curves, facts = {}, {}
    if said is not None:
        facts["temperature"] = f"{said['temperature']:.3g}, from {said['n']:,} validation images"
        if is_at_the_end(said["temperature"]):
            facts["temperature"] += ", the end of the range: its answers say little"
        for name, key in (("before", "before"), ("calibrated", "after")):
            curves[f"validation images, {name}"] = Reliability.from_dict(said[key])
        if said["threshold"] is None:
            facts["temperature"] = f"1: {said['n']:,} validation images are too few for another"
            curves = {"validation images": curves["validation images, calibrated"]}
    curves["test images"] = reliability(found.probabilities, found.labels == found.predictions)
    for name, one in curves.items():
        facts[f"calibration error (ECE), {name}"] = f"{one.ece:.1%}"
    if figures["threshold"] is not None:
        facts["score threshold"] = f"{figures['threshold']:.1%}"
        facts["test images answered at it"] = f"{figures['coverage']:.1%}"
        if figures["accuracy_answered"] is not None:
            facts["of these right"] = f"{figures['accuracy_answered']:.1%}"
    plot = reliability_svg({k: (x.probability, x.accuracy, x.n) for k, x in curves.items()})
    alt = "Fraction of right answers against the probability of the predicted class, in ten bins"
    return {alt: plot}, facts


def _data_check(run: Run) -> list[str]:
    """What was found about the images before the training, a line each."""
    facts = run.metrics.get("images", {})
    lines = [finding["text"] for finding in facts.get("findings", [])]
    if facts.get("left_out"):
        lines.append(f"left out of the training and its figures: {facts['left_out']:,} images")
    if not facts.get("compared"):
        lines.append("the images are no files: whether some are in two splits was not looked for")
    return lines


def _made(run: Run) -> dict[str, str]:
    images, packages = _environment(run, "images", {}), _environment(run, "packages", {})
    sizes = ", ".join(f"{kind} {split['n']:,}" for kind, split in images.items())
    network = run.recipe.network
    metrics = run.metrics
    date = datetime.fromtimestamp(run.metrics_file.stat().st_mtime)
    return {
        "images": f"{run.source or 'arrays'} ({sizes})",
        "network": f"{network.name}, stem {network.stem}, input "
        + "×".join(map(str, run.preprocess.size)),
        "recipe": run.recipe.name,
        "epochs": f"{metrics['epochs']}, of which epoch {metrics['best_epoch']} is kept",
        "training time": _time(run, images.get("train", {}).get("n", 0)),
        "finished": f"{date:%Y-%m-%d}",
        "precision": _environment(run, "precision", "unknown"),
        "device": _environment(run, "device", "unknown"),
        "python": _environment(run, "python", "unknown"),
        **packages,
    }


def _time(run: Run, size: int) -> str:
    """Time of the training steps alone, from the speed of each epoch."""
    batch = max(1, min(run.recipe.batch_size, size))
    images = max(1, size // batch) * batch
    seconds = sum(images / row["images_per_second"] for row in run.history)
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _command(run: Run) -> str:
    """The command that trains this run again; its recipe lies in the run."""
    source = shlex.quote(run.source) if run.source else "IMAGES"
    recipe = shlex.quote(str(run.recipe_file.absolute()))
    words = [f"keras-resnet18 train {source} --recipe {recipe}"]
    options = run.source_options
    if options["split_seed"]:
        words.append(f"--split-seed {options['split_seed']}")
    copies = [is_left_out_copy(reason) for reason in options["leave_out"].values()]
    if any(copies):
        words.append("--dedupe")
    if not all(copies):
        words.append("--on-bad-image skip")
    return " ".join([*words, "--out again"])


def _environment(run: Run, key: str, default: Any) -> Any:
    return run.environment.get(key, default)
