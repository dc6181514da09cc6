"""`verify`: compares an exported file with the run that it was made from."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

from keras_resnet18.classify.accuracy import broken_images_named
from keras_resnet18.classify.classifier import open_images
from keras_resnet18.classify.evaluate import open_others, whole_of
from keras_resnet18.classify.exported import ExportedFile, latency_ms, open_exported
from keras_resnet18.data.folds import is_whole
from keras_resnet18.errors import ExportError, InputError, one_of, path_of
from keras_resnet18.exporters.compare import (
    ExportReport,
    check_report_file,
    compare,
    pixel_batches,
    report_file,
    write_report,
)
from keras_resnet18.exporters.export import HELD_OUT
from keras_resnet18.exporters.tflite import open_checked
from keras_resnet18.files import EXPORTED, EXPORTS, TFLITE, check_format, size_bytes
from keras_resnet18.recipe import SPLITS, SplitName
from keras_resnet18.run import Run, load_run
from keras_resnet18.spec import LABELS_FILE, SPEC_FILE, ClassifierSpec, check_threshold
from keras_resnet18.tflite_file import quantization


def verify(
    file: str | os.PathLike[str],
    run: Run | str | os.PathLike[str],
    *,
    data: str | None = None,
    split: SplitName | None = None,
) -> ExportReport:
    """Compares an exported file with the run that it was made from.

    The file must pass the checks of an export in its format. It must have the run's specification,
    and so must `classifier.json` and `labels.txt` beside it. The report is written beside it too,
    in `<name>.json`, whether the file passes or not.

    Args:
        file: A .tflite file, an .onnx file or a SavedModel folder.
        run: A finished run, or its folder.
        data: Source of the images, by default the one that the run was trained on.
        split: `"train"`, `"validation"` or `"test"`; by default the images that `export` compares
            on: test and validation images of the run's own source, or all of another.

    Returns:
        Report; its attribute `fault` describes what is wrong, None if the file passes.

    Raises:
        InputError: If file and run cannot be compared.
        ExportError: If the file cannot be run; this is written to the report too.
    """
    path = path_of(file, "the path of an exported file")
    if split is not None:
        one_of("split", split, SPLITS)
    if Run(path).recipe_file.exists():
        raise InputError(
            "an exported file is verified against its run, the file first, as in verify FILE RUN. "
            f"Received: {path}, which is a run"
        )
    run = run if isinstance(run, Run) else load_run(run)
    check_report_file(path)
    recorded = _recorded_threshold(path, run)
    try:
        report = _report(path, dataclasses.replace(run.spec, threshold=recorded), run, data, split)
    except ExportError as error:
        write_report(path, {"file": path.name, "passed": False, "fault": str(error)})
        raise
    write_report(path, report.to_dict())
    return report


def _recorded_threshold(path: Path, run: Run) -> float | None:
    """Score threshold that the export recorded in the report beside a file, else the run's."""
    try:
        recorded = json.loads(report_file(path).read_text(encoding="utf-8"))["threshold"]
        check_threshold(recorded)
    except (OSError, ValueError, KeyError, TypeError):
        return run.spec.threshold
    return None if recorded is None else float(recorded)


def _report(
    path: Path, spec: ClassifierSpec, run: Run, data: str | None, split: SplitName | None
) -> ExportReport:
    kind: str = check_format(path, *EXPORTED)
    file: ExportedFile
    if kind == "tflite":
        file, kind = open_checked(path, run.model), TFLITE[quantization(path)]
    else:
        file = open_exported(path)
    operators = file.operators  # before the comparison, because it needs the whole extra of ONNX
    try:
        run.spec.check_model(file.image_shape, file.classes, run.spec_file)
    except InputError as error:
        raise InputError(f"{path} is not a file of this run: {error}") from None
    whole, seen = None if split is not None else open_others(run, data), False
    if whole is None:
        wanted = HELD_OUT if split is None else (split,)
        source = open_images(run.spec, run, data, wanted)
        seen = is_whole(source)  # every split has all images
        whole = whole_of(source, run.spec.labels, ("train",) if seen else wanted)
    size = (*run.preprocess.size, 3)
    images = whole.sample(run.preprocess, labeled=not seen)
    with broken_images_named():
        own = None if file.spec is None else file.spec.threshold
        batches = pixel_batches(images, size, argument="data")
        comparison = compare(file, run.model, batches, (own, run.spec.threshold))
    faults = [
        _spec_fault(file.spec, spec),
        _fault_beside(path, run.spec),
        comparison.fault(EXPORTS[kind].max_difference),
    ]
    return ExportReport(
        path=path,
        format=kind,
        size_bytes=size_bytes(path),
        comparison=comparison,
        latency_ms=latency_ms(file, size),
        operators=operators,
        fault="; ".join(fault for fault in faults if fault) or None,
        threshold=spec.threshold,
        seen=seen,
    )


def _spec_fault(found: ClassifierSpec | None, expected: ClassifierSpec) -> str | None:
    """Difference between a file's specification and the expected one, in one line, or None."""
    if found is None:
        return (
            "it has no specification (labels, preprocessing, threshold): it was exported by "
            "another program, or its end is cut off"
        )
    difference = expected.difference(found)
    return None if difference is None else f"its specification is not the run's: {difference}"


def _fault_beside(path: Path, expected: ClassifierSpec) -> str | None:
    """Difference between the files beside an export, which apps read, and the run, or None."""
    beside = path.absolute().with_name(SPEC_FILE)
    if not beside.is_file():
        return None
    labels = beside.with_name(LABELS_FILE)
    if difference := expected.difference(ClassifierSpec.read(beside)):
        return f"the {SPEC_FILE} beside it is not the run's: {difference}"
    if labels.is_file() and labels.read_text(encoding="utf-8-sig") != expected.labels_txt():
        return f"the {LABELS_FILE} beside it does not have the run's labels"
    return None
