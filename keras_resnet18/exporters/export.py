"""`export`: writes a run's model in several formats, verified on the run's test images."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from keras_resnet18.classify.accuracy import broken_images_named
from keras_resnet18.classify.classifier import open_images
from keras_resnet18.classify.evaluate import Whole, open_others, whole_of
from keras_resnet18.classify.exported import check_onnx_extra
from keras_resnet18.data.folds import is_whole
from keras_resnet18.errors import ExportError, InputError, listed, one_of, within
from keras_resnet18.exporters.compare import ExportReport, write_report
from keras_resnet18.exporters.onnx import export_onnx
from keras_resnet18.exporters.saved_model import export_saved_model
from keras_resnet18.exporters.tflite import (
    CALIBRATION_IMAGES,
    MIN_CALIBRATION_IMAGES,
    export_tflite,
)
from keras_resnet18.files import EXPORTS, check_parent
from keras_resnet18.recipe import SplitName
from keras_resnet18.run import Run, load_run
from keras_resnet18.spec import LABELS_FILE, SPEC_FILE, ClassifierSpec
from keras_resnet18.tflite_file import check_about

# Enough to detect a loss of one point of accuracy, in under a minute with photos of a phone
CHECK_IMAGES = 1000

# Splits to compare on, which the model was not trained on
HELD_OUT: tuple[SplitName, ...] = ("test", "validation")

# Formats that can be compared on noise
_CHECKED_ON_NOISE = tuple(name for name, x in EXPORTS.items() if x.max_difference is not None)


def export(
    run: Run | str | os.PathLike[str],
    formats: Sequence[str] | str = "all",
    out: str | os.PathLike[str] | None = None,
    *,
    data: str | None = None,
    check_images: int = CHECK_IMAGES,
    about: Mapping[str, str] | None = None,
    note: Callable[[str], None] = print,
) -> list[ExportReport]:
    """Exports a run's model and compares each file with it on test and validation images.

    The model of a run of folds was trained on all images: agreement and coverage are measured on
    them, and accuracy is not measured.

    int8 is calibrated on training images. `classifier.json` and `labels.txt` are written beside the
    files. If the run's images cannot be opened, `"all"` exports the formats that need no images and
    compares them on noise. A format that fails does not stop the others.

    Args:
        run: A finished run, or its folder.
        formats: One or more names of `files.EXPORTS`, or `"all"` for all that can be made here.
        out: Destination folder, by default `export` in the run.
        data: Source of the images to compare on, by default the one that the run was trained on.
            All images of another source are used, also for calibration if the run's own cannot be
            opened.
        check_images: Maximum number of images to compare on: test images first, then validation
            images. The accuracy of file and model is that on these images; `metrics.json` has the
            accuracy on the test images alone.
        about: Metadata fields of the .tflite files, as for `export_tflite`. The default name is
            that of the run's folder.
        note: Function that receives a line for each reason that `"all"` leaves out formats, and a
            line if files are compared on noise because the images cannot be opened.

    Returns:
        A report for each format.

    Raises:
        InputError: If a format is unknown or cannot be made here, the images are not those of the
            run, or the folder has files of the same names from another program.
        ExportError: If a file does not give the model's answers. If some of several formats fail,
            for any reason, the error is raised after all were tried: the message names those that
            failed, and the attribute `reports` has the reports of the others.
    """
    run = run if isinstance(run, Run) else load_run(run)
    formats = [formats] if isinstance(formats, str) else formats
    for name in formats:
        one_of("format", name, (*EXPORTS, "all"))
    within("check_images", check_images, check_images >= 1, "1 or more")
    if out is None and run.origin is not None:
        raise InputError(
            "a run of the Hub is exported to a folder on this machine: give out=FOLDER. "
            f"Received: {run.origin}"
        )
    out = Path(out or run.export_folder)
    _check_folder(out)
    folder_name = Path(run.origin or run.path.resolve()).name.encode("utf-8", "replace").decode()
    check_about(about := {"name": folder_name, **(about or {})})
    images, unopened = _open(run, data)
    lacking = _lacking(images, unopened)
    for name in formats:
        if name in lacking:
            raise InputError(lacking[name])
    if "all" in formats:
        for line in dict.fromkeys(lacking.values()):
            note(f"left out: {line}")
        formats = [name for name in EXPORTS if name not in lacking]
    elif images is None:
        note(f"compared on noise, and not on test images: {unopened}")
    reports = []
    failures: dict[str, list[str]] = {}  # formats by error message
    asked = dict.fromkeys(formats)
    for name in asked:
        try:
            reports.append(_export(run, name, out, images, check_images, about))
        except InputError as error:
            if len(asked) == 1:
                raise
            failures.setdefault(str(error), []).append(name)
    if failures:
        lines = (f"{', '.join(names)} failed: {error}" for error, names in failures.items())
        raise ExportError(". ".join(lines), reports)
    return reports


class _Images(NamedTuple):
    """Images by their use.

    Attributes:
        check: Images to compare on.
        calibration: Images to calibrate int8.
        validation: Images for the thresholds of quantized files; None if the model was trained on
            all images, whose probabilities are too high.
        seen: Whether the model was trained on those to compare on.
    """

    check: Whole
    calibration: Whole
    validation: Whole | None
    seen: bool = False


def _open(run: Run, data: str | None) -> tuple[_Images | None, str | None]:
    """Returns the images, or None and the reason; raises InputError if `data` was given."""
    others = open_others(run, data)
    try:
        source = open_images(run.spec, run, data if others is None else None)
    except InputError as error:
        if others is not None:
            return _Images(others, others, others), None
        if data is not None:
            raise
        return None, str(error)

    def of(*splits: SplitName) -> Whole:
        return whole_of(source, run.spec.labels, splits)

    if is_whole(source):
        return _Images(others or of("train"), of("train"), None, seen=others is None), None
    return _Images(others or of(*HELD_OUT), of("train"), of("validation")), None


def _lacking(images: _Images | None, unopened: str | None) -> dict[str, str]:
    """Formats that cannot be made here, with a one-line reason."""
    lacking = {}
    if images is None:
        line = (
            f"tflite-dynamic and tflite-int8 need images; {', '.join(_CHECKED_ON_NOISE)} do not. "
            f"{unopened}"
        )
        lacking = {name: line for name in EXPORTS if name not in _CHECKED_ON_NOISE}
    elif (count := images.calibration.size) < MIN_CALIBRATION_IMAGES:
        lacking["tflite-int8"] = (
            f"tflite-int8 needs {MIN_CALIBRATION_IMAGES} training images or more to calibrate "
            f"on. Received: {count}: add some, or export tflite-dynamic, which needs none"
        )
    try:
        check_onnx_extra()
    except InputError as error:
        lacking["onnx"] = str(error)
    return lacking


def _check_folder(folder: Path) -> None:
    """Raises InputError if files of another program in `folder` would be replaced."""
    check_parent(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"exports need a folder. Received: {folder}, which is a file")
    files = [SPEC_FILE, LABELS_FILE, *(export.file for export in EXPORTS.values())]
    there = [name for name in files if (folder / name).exists()]
    if not there:
        return
    try:
        ClassifierSpec.read(folder / SPEC_FILE)
    except InputError:
        raise InputError(
            f"{folder} holds {listed(there)} that no export wrote, so nothing is written there: "
            "give another folder"
        ) from None


def _export(
    run: Run,
    name: str,
    out: Path,
    images: _Images | None,
    check_images: int,
    about: Mapping[str, str],
) -> ExportReport:
    path, seen = out / EXPORTS[name].file, images is not None and images.seen

    def sample(use: str, limit: int) -> tf.data.Dataset | None:
        whole = getattr(images, use, None)
        return None if whole is None else whole.sample(run.preprocess, limit, labeled=not seen)

    check = sample("check", check_images)
    with broken_images_named():
        if name == "saved_model":
            report = export_saved_model(run.model, path, spec=run.spec, check=check)
        elif name == "onnx":
            report = export_onnx(run.model, path, spec=run.spec, check=check)
        else:
            report = export_tflite(
                run.model,
                path,
                spec=run.spec,
                quantize=name.partition("-")[2] or None,
                calibration=sample("calibration", CALIBRATION_IMAGES),
                check=check,
                validation=sample("validation", check_images),
                about=about,
            )
    if seen:
        report = dataclasses.replace(report, seen=True)
        write_report(path, report.to_dict())
    run.write_text(out / SPEC_FILE, run.spec.to_json())
    run.write_text(out / LABELS_FILE, run.spec.labels_txt())
    return report
