"""`report`: writes the HTML page and the model card of a run."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix

from keras_resnet18.checking.findings import is_left_out_copy
from keras_resnet18.classify.accuracy import Predictions, notes, read_predictions
from keras_resnet18.classify.calibration import Reliability, is_at_the_end, reliability
from keras_resnet18.classify.classifier import of_training, open_images
from keras_resnet18.classify.page import page
from keras_resnet18.classify.table import percent
from keras_resnet18.data.splits import Split
from keras_resnet18.errors import InputError
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.reports.card import write_card
from keras_resnet18.reports.plots import curve_svg, reliability_svg
from keras_resnet18.run import Run, load_run

_TEMPLATE = Path(__file__).parent / "report.html"
_MISTAKES, _CONFUSIONS = 12, 15  # numbers of rows on the page
_SMALLEST_MAP = 3  # side of an activation map; a smaller one cannot show a place in the image


def report(run: Run | str | os.PathLike[str], *, data: str | None = None) -> Path:
    """Write `report.html`, one file that needs no network, and a model card.

    The page shows the accuracy with its interval, the hardest mistakes with class activation maps,
    the classes, confused pairs, calibration, curves, and how the run was made. The model card,
    `README.md`, has Hugging Face's metadata; a README.md of somebody else is not replaced.

    Args:
        run: A run, or the path of its folder.
        data: Source of the run's test images, if they have moved.

    Returns:
        Path of the page.

    Raises:
        InputError: If the run is damaged, or its test images are missing or have changed.
    """
    run = run if isinstance(run, Run) else load_run(run)
    if run.origin is not None:
        raise InputError(
            "a report is written into the run's folder: download it with hf download OWNER/NAME "
            f"--local-dir FOLDER. Received: {run.origin}"
        )
    images = None  # arrays are not kept
    if data is not None or run.source is not None:
        source = open_images(run.spec, run, data)
        images = source.splits["test"]
        if not of_training(run, source, ["test"]):
            raise InputError(
                f"a report shows the {run.figures['n']} images that the run was tested on: "
                f"give their place as data=SOURCE. Received: {data} with {images.size:,} other "
                "images"
            )
    return write_report(run, images)


def write_report(run: Run, images: Split | None, model: keras.Model | None = None) -> Path:
    """Write the page and the card of a run; without `images`, no mistakes are shown."""
    run.write_text(run.report_file, page(_TEMPLATE, contents(run, images, model)))
    write_card(run)
    return run.report_file


def contents(run: Run, images: Split | None, model: keras.Model | None) -> dict[str, Any]:
    """Collect the values of the template report.html."""
    figures, metrics, folds = run.figures, run.metrics, run.folds
    found = _predictions(run, images)
    matrix = confusion_matrix(found.labels, found.predictions, labels=range(len(run.spec.labels)))
    mistakes = [] if images is None else _mistakes(run, found, images, model)
    curves, calibration = _calibration(metrics.get("calibration"), figures, found, folds)
    return {
        "name": run.path.absolute().name,
        "figures": figures,
        "notes": notes(figures),
        "folds": folds,
        "image": "test image" if folds is None else "image",
        "wrong": int((found.labels != found.predictions).sum()),
        "mistakes": mistakes,
        "has_maps": bool(mistakes) and mistakes[0]["activation"] is not None,
        "matrix": matrix,
        "confused": confusions(matrix),
        "reliability": reliability_svg(curves),
        "calibration": calibration,
        "data_check": _data_check(metrics["images"], folds),
        "curves": _curves(run),
        "made": _made(run),
        "command": _command(run),
        "recipe": run.recipe.to_toml(),
    }


def _predictions(run: Run, images: Split | None) -> Predictions:
    """Read predictions.csv, and check that it fits the figures and the order of the images."""
    figures = run.figures
    found = read_predictions(run.predictions_file, run.trained_labels)
    right = float((found.labels == found.predictions).mean())
    same_order = images is None or images.names in (None, found.names)
    if not same_order or abs(right - figures["accuracy"]) > 1e-6 or len(found[0]) != figures["n"]:
        raise InputError(
            f"{run.predictions_file.name} and {run.metrics_file.name} must be as `train` wrote "
            f"them: copy them from a backup, or train again. Received: {run.path} with "
            f"{len(found[0]):,} images in {'the same' if same_order else 'another'} order, "
            f"{right:.2%} right, for {figures['n']:,} images and {figures['accuracy']:.2%}"
        )
    return found


def confusions(matrix: npt.NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """True class, predicted class and number of images of the most frequent confusions."""
    wrong = matrix - np.diag(np.diag(matrix))
    most = np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSIONS]
    pairs = (divmod(int(i), len(matrix)) for i in most)
    return [(true, predicted, n) for true, predicted in pairs if (n := int(wrong[true, predicted]))]


def _mistakes(
    run: Run, found: Predictions, images: Split, model: keras.Model | None
) -> list[dict[str, Any]]:
    """The wrongly predicted images with the highest probabilities."""
    wrong = np.flatnonzero(found.labels != found.predictions)
    wrong = wrong[(-found.probabilities[wrong]).argsort(kind="stable")][:_MISTAKES]
    if not len(wrong):
        return []
    pixels = images_at(images, run.preprocess, wrong.tolist())
    maps = None
    if run.folds is None:  # networks of folds, which gave the answers, are not kept
        maps = activation_maps(model or run.model, np.stack(pixels), found.predictions[wrong])
    return [
        {
            "path": f"image {i}" if found.names[i] == str(i) else found.names[i],
            "true": run.spec.labels[found.labels[i]],
            "predicted": run.spec.labels[found.predictions[i]],
            "probability": float(found.probabilities[i]),
            "image": image,
            "activation": None if maps is None else maps[position],
        }
        for position, (i, image) in enumerate(zip(wrong, pixels, strict=True))
    ]


def images_at(
    split: Split, preprocess: Preprocess, indices: Sequence[int]
) -> list[npt.NDArray[np.uint8]]:
    """Read images of a split, prepared for the network, in the order of `indices`."""
    images = {row: preprocess.resize_and_crop(x).numpy() for row, x in split.some(indices)}
    return [images[i] for i in indices]


def activation_maps(
    model: keras.Model, pixels: npt.NDArray[np.uint8], classes: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32] | None:
    """Compute class activation maps (Zhou et al. 2016, arXiv:1512.04150) of one class per image.

    With a global average and one dense layer they are Grad-CAM's up to a factor, and need no
    gradient.

    Returns:
        float32 (n, map height, map width), 0 to 1; None for a network with another head, or with
        maps smaller than 3 by 3.
    """
    maps = model.get_layer("head_pool").input
    kernel = keras.ops.convert_to_numpy(model.get_layer("predictions").kernel)
    plain_head = len(maps.shape) == 4 and maps.shape[-1] == len(kernel)
    if not plain_head or min(maps.shape[1:3]) < _SMALLEST_MAP:
        return None
    features = keras.Model(model.inputs[0], maps)(pixels, training=False)
    features = keras.ops.convert_to_numpy(keras.ops.cast(features, "float32"))
    found = np.einsum("nhwc,cn->nhw", features, kernel[:, classes]).clip(0)
    scaled: npt.NDArray[np.float32] = found / np.maximum(found.max((1, 2), keepdims=True), 1e-12)
    return scaled


def _calibration(
    said: Mapping[str, Any] | None,
    figures: Mapping[str, Any],
    found: Predictions,
    folds: int | None,
) -> tuple[dict[str, Reliability], dict[str, str]]:
    """Reliability curves by name, and the figures beside their plot."""
    curves, facts = {}, {}
    images, tested = ("validation images", "test images") if folds is None else ("images",) * 2
    if said is not None and said["threshold"] is None:
        facts["temperature"] = f"1: {said['n']:,} {images} are too few for another"
        curves[images] = Reliability.from_dict(said["after"])
    elif said is not None:
        facts["temperature"] = f"{said['temperature']:.3g}, from {said['n']:,} {images}"
        if is_at_the_end(said["temperature"]):
            facts["temperature"] += ", the end of the searched range: probabilities say little"
        curves[f"{images}, before"] = Reliability.from_dict(said["before"])
        curves[f"{images}, calibrated"] = Reliability.from_dict(said["after"])
    if folds is None:  # with folds, it is the calibrated curve
        curves[tested] = reliability(found.probabilities, found.labels == found.predictions)
    for name, one in curves.items():
        facts[f"calibration error (ECE), {name}"] = percent(one.ece, 1)
    if figures["threshold"] is not None:
        facts["score threshold"] = percent(figures["threshold"], 1)
        facts[f"{tested} answered at it"] = percent(figures["coverage"], 1)
        facts["accuracy of these"] = percent(figures["accuracy_answered"], 1)
    return curves, facts


def _data_check(facts: Mapping[str, Any], folds: int | None) -> list[str]:
    """Findings about the images before the training, one per line."""
    lines = [finding["text"] for finding in facts["findings"]]
    if facts["left_out"]:
        lines.append(f"left out of the training and its figures: {facts['left_out']:,} images")
    if facts["compared_by"] is None:
        places = "two splits" if folds is None else "two folds"
        lines.append(f"the images are not files: images in {places} were not searched for")
    elif not {"in two classes", "in two splits"} & {one["kind"] for one in facts["findings"]}:
        by, places = facts["compared_by"], f"two classes{' or two splits' * (folds is None)}"
        line = f"no image is in {places}: {facts['compared']:,} compared by their {by}"
        more = "; `keras-resnet18 check` compares their pixels" if by != "pixels" else ""
        lines.append(line + more)
    return lines


def _curves(run: Run) -> dict[str, bytes]:
    """Plots of loss and accuracy, by their descriptions."""
    rows, finetune = run.history, run.recipe.finetune
    head_epochs, best = finetune.head_epochs if finetune else 0, run.metrics["best_epoch"]
    others = "validation images" if run.folds is None else "images left out, as the folds' mean"
    return {
        f"{name} over {len(rows)} epochs; at the end {rows[-1][name]:.3g} on training images and "
        f"{rows[-1][f'validation_{name}']:.3g} on {others}": curve_svg(
            rows, name, best, head_epochs=head_epochs
        )
        for name in ("loss", "accuracy")
    }


def _made(run: Run) -> dict[str, str]:
    """Source, network, time, versions and device, by name."""
    environment, metrics, network = run.environment, run.metrics, run.recipe.network
    sizes = {kind: split["n"] for kind, split in environment["images"].items()}
    batch = min(run.recipe.batch_size, sizes["train"])
    # from the steps, because a time limit may end the last epoch early
    seconds = sum(row["steps"] * batch / row["images_per_second"] for row in run.history)
    listed = ", ".join(f"{kind} {n:,}" for kind, n in sizes.items())
    if run.folds is not None:
        listed = f"{sizes['train']:,}, all of which train; {run.folds} folds"
    return {
        "images": f"{run.source or 'arrays'} ({listed})",
        "network": f"{network.name}, stem {network.stem}, input "
        + "×".join(map(str, run.preprocess.size)),
        "recipe": run.recipe.name,
        "epochs": f"{metrics['epochs']}; epoch {metrics['best_epoch']} is kept",
        "training time": f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min",
        "finished": f"{datetime.fromtimestamp(run.metrics_file.stat().st_mtime):%Y-%m-%d}",
        **{key: environment[key] for key in ("precision", "device", "python")},
        **environment["packages"],
    }


def _command(run: Run) -> str:
    """Command that trains this run again with the recipe in its folder."""
    words = ["keras-resnet18", "train", run.source or "IMAGES"]
    words += ["--recipe", str(run.recipe_file.absolute())]
    options = run.source_options
    if options["split_seed"]:
        words += ["--split-seed", str(options["split_seed"])]
    words += ["--folds", str(run.folds)] * (run.folds is not None)
    copies = [is_left_out_copy(reason) for reason in options["leave_out"].values()]
    words += ["--dedupe"] * any(copies) + ["--on-bad-image", "skip"] * (not all(copies))
    return shlex.join([*words, "--out", "again"])
