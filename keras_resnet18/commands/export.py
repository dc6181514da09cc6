"""A run's model in the formats that ship, calibrated and proved on the run's own images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import tensorflow as tf

from keras_resnet18.data.pipeline import eval_batches
from keras_resnet18.data.splits import Order, Source
from keras_resnet18.errors import InputError
from keras_resnet18.evaluation.accuracy import broken_images_named
from keras_resnet18.exporters.onnx import export_onnx
from keras_resnet18.exporters.saved_model import export_saved_model
from keras_resnet18.exporters.tflite import (
    CALIBRATION_IMAGES,
    MIN_CALIBRATION_IMAGES,
    export_tflite,
)
from keras_resnet18.names import SplitName
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.run import Run
from keras_resnet18.runtime.classifier import open_images
from keras_resnet18.runtime.exported import check_onnx_extra
from keras_resnet18.staging import check_parent
from keras_resnet18.tflite_file.metadata import check_about
from keras_resnet18.verification.report import ExportReport

# Each format, and what its file or folder is called.
FORMATS = {
    "saved_model": "saved_model",
    "tflite": "model.tflite",
    "tflite-float16": "model-float16.tflite",
    "tflite-dynamic": "model-dynamic.tflite",
    "tflite-int8": "model-int8.tflite",
    "onnx": "model.onnx",
}

# Enough to see a lost point of accuracy, and on a phone-sized image under a minute.
CHECK_IMAGES = 1000

_BATCH_SIZE = 32


def export_run(
    run: Run,
    formats: Sequence[str] = ("all",),
    out: str | os.PathLike[str] | None = None,
    *,
    data: str | None = None,
    check_images: int = CHECK_IMAGES,
    about: Mapping[str, str] | None = None,
    note: Callable[[str], None] = print,
) -> Iterator[ExportReport]:
    """Exports one format after the other, each with its proof.

    int8 is calibrated on training images; every export is compared with the model on test
    images. `labels.txt` and `preprocess.json` are copied beside the files.

    Args:
        run: A finished one.
        formats: Some of `FORMATS`, or `["all"]`: those that can be had here.
        out: The folder to write to; `export` in the run by default.
        data: The source of the images; by default the one that the run was trained on.
        check_images: How many test images to compare on, at the most.
        about: What the .tflite files' metadata is to say, as `export_tflite` takes it; without a
            name, that of the run's folder.
        note: Is given a line for each format that `"all"` leaves out, and why.

    Returns:
        A report for each format, as soon as it is written.

    Raises:
        InputError: If a format is unknown, or asked for without the extra that it needs, the
            images are not those of the run, one is broken, or the folder holds somebody else's
            files of the same names.
        ExportError: If an export does not give the model's answers.
    """
    for name in formats:
        if name not in (*FORMATS, "all"):
            raise InputError(f"a format is one of {', '.join(FORMATS)}, all. Received: {name!r}")
    if check_images < 1:
        raise InputError(f"check_images must be 1 or more. Received: check_images={check_images}")
    folder = Path(out or run.export_folder)
    _check_folder(run, folder)
    check_about(about := {"name": run.path.resolve().name, **(about or {})})
    source = open_images(data or run.source, run.labels)
    lacking = _lacking(source)
    for name in formats:
        if name in lacking:
            raise InputError(lacking[name])
    if "all" in formats:
        for line in lacking.values():
            note(f"left out: {line}")
        formats = [name for name in FORMATS if name not in lacking]
    return _export(run, tuple(dict.fromkeys(formats)), folder, source, check_images, about)


def _lacking(source: Source) -> dict[str, str]:
    """The formats that cannot be had here, each with a line that says what it lacks."""
    lacking = {}
    images = source.splits["train"].size
    if images < MIN_CALIBRATION_IMAGES:
        lacking["tflite-int8"] = (
            f"tflite-int8 needs {MIN_CALIBRATION_IMAGES} training images or more to calibrate "
            f"on. Received: {images}: add some, or take tflite-dynamic, which needs none"
        )
    try:
        check_onnx_extra()
    except InputError as error:
        lacking["onnx"] = str(error)
    return lacking


def _check_folder(run: Run, folder: Path) -> None:
    """Raises InputError if `folder` holds a labels.txt or preprocess.json of somebody else."""
    check_parent(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"exports need a folder. Received: {folder}, which is a file")
    labels, preprocess = (folder / file.name for file in (run.labels_file, run.preprocess_file))
    if not labels.exists() and not preprocess.exists():
        return
    try:
        Preprocess.read(preprocess)
    except InputError:
        raise InputError(
            f"{folder} holds a {labels.name} or {preprocess.name} that no export left, so nothing "
            "is written there: give another folder"
        ) from None


def _export(
    run: Run,
    formats: Sequence[str],
    out: Path,
    source: Source,
    check_images: int,
    about: Mapping[str, str],
) -> Iterator[ExportReport]:
    calibration = _shuffled(run, source, "train", CALIBRATION_IMAGES)
    check = _shuffled(run, source, "test", check_images)
    for name in formats:
        path = out / FORMATS[name]
        with broken_images_named():
            if name == "saved_model":
                report = export_saved_model(
                    run.model, path, labels=run.labels, preprocess=run.preprocess, check=check
                )
            elif name == "onnx":
                report = export_onnx(run.model, path, labels=run.labels, check=check)
            else:
                report = export_tflite(
                    run.model,
                    path,
                    labels=run.labels,
                    quantize=name.removeprefix("tflite").removeprefix("-") or None,
                    calibration=calibration,
                    check=check,
                    about=about,
                )
        for file in (run.labels_file, run.preprocess_file):
            run.write_text(out / file.name, file.read_text(encoding="utf-8"))
        yield report


def _shuffled(run: Run, source: Source, kind: SplitName, count: int) -> tf.data.Dataset:
    """`count` images of a split, drawn from all of its classes, always the same ones."""
    return eval_batches(
        source.splits[kind],
        run.preprocess.resize_and_crop,
        batch_size=_BATCH_SIZE,
        order=Order(seed=0, epoch=0),
        limit=count,
    )
