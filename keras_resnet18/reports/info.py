"""`info`: describes this machine, a run, a folder of runs or a model file."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import keras

from keras_resnet18.classify.accuracy import in_words
from keras_resnet18.classify.exported import SavedModelFolder, open_exported, open_interpreter
from keras_resnet18.classify.table import counts_text, facts_table, percent, table_text
from keras_resnet18.errors import InputError
from keras_resnet18.files import INPUT, OUTPUT, Format, check_format, format_of, size_bytes
from keras_resnet18.machine import device_name, environment, missing_gpu, recommended_policy
from keras_resnet18.model.describe import describe
from keras_resnet18.run import Run, load_run, open_model, resume_call
from keras_resnet18.spec import SPEC_FILE, ClassifierSpec
from keras_resnet18.tflite_file import contents, read_file
from keras_resnet18.weights import catalogue

_SHOWN_LABELS = 20


def info(what: str | os.PathLike[str] | None = None) -> str:
    """Describe a machine, a run, the runs in a folder, a model file or the published weights.

    Args:
        what: A run's or SavedModel's folder; a folder of runs; a .tflite, .onnx or .keras file;
            `"weights"` for the published weights that have a name; None for this machine.

    Returns:
        Lines for people, at most 80 columns wide except paths and the table of the network.

    Raises:
        InputError: If it is none of these.
    """
    if what is None:
        return _about_machine()
    if what == "weights":
        return catalogue.table()
    path = Path(what)
    if format_of(path) == "run" and not Run(path).recipe_file.is_file():
        runs = [run for run in map(Run, path.iterdir()) if run.recipe_file.is_file()]
        if runs:
            return _about_runs(runs)
    about: dict[Format, Callable[[Path], str]] = {
        "run": _about_run,
        "tflite": _about_tflite,
        "onnx": _about_exported,
        "keras": lambda path: _about_model(open_model(path)),
        "saved_model": _about_exported,
    }
    return about[check_format(path, *about)](path)


def _about_machine() -> str:
    facts, policy = environment(), recommended_policy()
    return facts_table(
        {
            "python": facts["python"],
            **facts["packages"],
            "Keras backend": keras.config.backend(),
            "CPU": f"{facts['cpu']}, {' '.join(facts['cpu_flags'])}",
            "device": ", ".join(filter(None, (device_name(), missing_gpu()))),
            "precision": f"{policy}: {policy.reason}",
        }
    )


def _about_runs(runs: Sequence[Run]) -> str:
    """Table of runs, finished or not, newest first."""
    headings = ("run", "images", "network,\nrecipe", "epochs", "test accuracy", "date")
    newest = sorted(((_written(run), run) for run in runs), key=lambda row: row[0], reverse=True)
    rows = ((run.path.name, *_row(run), f"{date:%Y-%m-%d}") for date, run in newest)
    return table_text(headings, rows)


def _row(run: Run) -> tuple[str, str, str, str]:
    """Images, network and recipe, epochs, and test accuracy."""
    try:
        recipe, images = run.recipe, run.source or "arrays"
        what = f"{recipe.network.name} {recipe.network.stem}, {recipe.name}"
        if not run.finished:
            state = "damaged: no metrics.json" if run.lacks_metrics else "unfinished"
            done = len(run.history) if run.history_file.is_file() else 0
            return images, what, f"{done} of {recipe.epochs}", state
        epochs, test = run.metrics["epochs"], run.figures
        low, high = test["interval"]
        accuracy = f"{test['accuracy']:.2%}\n{low:.2%} to {high:.2%}\nn = {test['n']:,}"
        accuracy += "" if run.folds is None else f", {run.folds}-fold"
        if run.replacement.path.is_dir():
            accuracy += "\nan unfinished training is to replace it"
        return images, what, str(epochs), accuracy
    except (InputError, KeyError, TypeError, ValueError):
        return "?", "?", "?", "damaged: see `info` of the run alone"


def _written(run: Run) -> datetime:
    """Time at which a run was finished, or an unfinished one last written."""
    last = (run.metrics_file, run.history_file, run.recipe_file)
    return datetime.fromtimestamp(next(x.stat().st_mtime for x in last if x.is_file()))


def _about_run(path: Path) -> str:
    run = load_run(path)
    facts = {"run": path, "recipe": run.recipe.name, "images": run.source or "arrays"}
    try:
        environment, metrics = run.environment, run.metrics
        facts["precision"] = f"{environment['precision']}, on {environment['device']}"
        facts["kept epoch"] = f"{metrics['best_epoch']} of {metrics['epochs']}"
        names = ("validation", "test") if run.folds is None else (f"{run.folds}-fold",)
        for name in names:
            found = metrics[name] if run.folds is None else run.figures
            accuracy = in_words(found["accuracy"], found["interval"], found["n"])
            facts[f"{name} accuracy"] = accuracy
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        fault = f"without {error}" if isinstance(error, KeyError) else "with other values"
        raise InputError(
            f"{run.environment_file.name} and {run.metrics_file.name} must be as `train` "
            f"wrote them: copy them from a backup, or train again. Received: {path}, {fault}"
        ) from None
    if run.replacement.path.is_dir():
        facts["replacement"] = f"an unfinished training: go on with {resume_call(run.path)}"
    return f"{facts_table(facts | _spec(run.spec))}\n\n{_about_model(run.model)}"


def _about_model(model: keras.Model) -> str:
    try:
        return str(describe(model))
    except InputError:  # somebody else's network
        shapes = f"{model.input_shape} to {model.output_shape}"
        return f"{model.name}: {shapes}, {model.count_params():,} parameters"


def _about_tflite(path: Path) -> str:
    """Describes any .tflite file, also one of another program."""
    file, interpreter = contents(path), open_interpreter(path)
    facts = {"path": _size(path)}
    for kind in ("input", "output"):
        tensors = {x["name"]: x for x in getattr(interpreter, f"get_{kind}_details")()}
        for signature in interpreter.get_signature_list():  # which has its own names
            runner = interpreter.get_signature_runner(signature)
            tensors = getattr(runner, f"get_{kind}_details")()
        for i, (name, tensor) in enumerate(tensors.items()):
            facts[f"{kind} {i + 1}" if len(tensors) > 1 else kind] = f"{name}, {_tensor(tensor)}"
    facts["operators"] = counts_text(file.operators)
    if (text := read_file(path, SPEC_FILE)) is not None:
        return facts_table(facts | _spec(ClassifierSpec.from_json(text, path)))
    return facts_table(facts | {"labels": _labels(file.labels)})


def _about_exported(path: Path) -> str:
    file, facts = open_exported(path), {"path": _size(path)}
    if isinstance(file, SavedModelFolder):
        for name, signature in file.signatures.items():
            _, inputs = signature.structured_input_signature
            facts[name] = " → ".join(map(_specs, (inputs, signature.structured_outputs)))
    else:
        facts["input"] = f"{INPUT}, uint8 batch×{_shape(file.image_shape)}"
        facts["output"] = f"{OUTPUT}, float32 batch×{file.classes}"
        facts["operators"] = counts_text(file.operators)
    return facts_table(facts | _spec(file.spec))


def _spec(spec: ClassifierSpec | None) -> dict[str, str]:
    if spec is None:
        return {"labels": "none"}
    facts = {"labels": _labels(spec.labels), "score threshold": percent(spec.threshold, 1)}
    if spec.preprocess is not None:
        values = dataclasses.asdict(spec.preprocess)
        facts["preprocessing"] = ", ".join(f"{k} {v}" for k, v in values.items())
    return facts


def _specs(specs: dict[str, Any]) -> str:
    return ", ".join(f"{name} {x.dtype.name} {_shape(x.shape)}" for name, x in specs.items())


def _tensor(details: dict[str, Any]) -> str:
    scale, zero_point = details["quantization"]
    channels = len(details["quantization_parameters"]["scales"])
    quantized = f", scale {scale:g}, zero point {zero_point}" if channels == 1 else ""
    if channels > 1:
        quantized = f", a scale for each of {channels} channels"
    return f"{details['dtype'].__name__} {_shape(details['shape_signature'])}{quantized}"


def _shape(shape: Sequence[int | None]) -> str:
    return "×".join("any" if n is None or n < 0 else str(n) for n in shape) or "scalar"


def _size(path: Path) -> str:
    return f"{path}, {size_bytes(path) / 1e6:.2f} MB"


def _labels(labels: Sequence[str] | None) -> str:
    if labels is None:
        return "none"
    more = len(labels) - _SHOWN_LABELS
    shown = ", ".join(labels[:_SHOWN_LABELS])
    return f"{len(labels)}: {shown}" + (f" and {more} more" if more > 0 else "")
