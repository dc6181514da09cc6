"""What this machine has, and what a run or a model file is, for a person."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from keras_resnet18 import tflite_file as metadata
from keras_resnet18.classify.accuracy import in_words
from keras_resnet18.classify.exported import OnnxFile, SavedModelFolder, onnx_op_histogram
from keras_resnet18.classify.table import facts_table, operators_in_words, size_bytes
from keras_resnet18.errors import InputError
from keras_resnet18.files import INPUT, OUTPUT, Format, check_format, format_of
from keras_resnet18.machine import device_name, environment, missing_gpu, recommended_policy
from keras_resnet18.model.describe import describe
from keras_resnet18.run import Run, load_run, open_model
from keras_resnet18.spec import ClassifierSpec
from keras_resnet18.tflite_file import Tensor, contents

_SHOWN_LABELS = 20


def about_machine() -> str:
    """Versions, device, and the precision that suits it."""
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


def about_file(path: Path) -> str:
    """What a run's folder, a SavedModel's, or a .tflite, .onnx or .keras file is.

    Raises:
        InputError: If it is none of them.
    """
    about: dict[Format, Callable[[Path], str]] = {
        "run": _about_run,
        "tflite": _about_tflite,
        "onnx": _about_onnx,
        "keras": lambda path: _about_model(open_model(path)),
        "saved_model": _about_saved_model,
    }
    return about[check_format(path, *about)](path)


def _about_run(path: Path) -> str:
    run = load_run(path)
    facts: dict[str, Any] = {
        "run": path,
        "recipe": run.recipe.name,
        "images": run.source or "arrays",
    }
    try:
        environment, metrics = run.environment, run.metrics
        facts["precision"] = f"{environment['precision']}, on {environment['device']}"
        facts["kept epoch"] = f"{metrics['best_epoch']} of {metrics['epochs']}"
        for kind in ("validation", "test"):
            found = metrics[kind]
            words = in_words(found["accuracy"], found["interval"], found["n"])
            facts[f"{kind} accuracy"] = words
        if run.replacement.path.is_dir():
            facts["replacement"] = f"an unfinished training: go on with {run.resume_command}"
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        found = f"without {error}" if isinstance(error, KeyError) else "with something else"
        raise InputError(
            f"{run.environment_file.name} and {run.metrics_file.name} must hold what `train` "
            f"wrote: copy them from a backup, or train again. Received: {path}, {found}"
        ) from None
    facts["score threshold"] = _threshold(run.spec.threshold)
    facts["labels"] = _labels(run.spec.labels)
    return f"{facts_table(facts)}\n\n{_about_model(run.model)}"


def _about_model(model: keras.Model) -> str:
    try:
        return str(describe(model))
    except InputError:  # somebody else's network
        shapes = f"{model.input_shape} to {model.output_shape}"
        return f"{model.name}: {shapes}, {model.count_params():,} parameters"


def _about_tflite(path: Path) -> str:
    file = contents(path)
    facts: dict[str, Any] = {"file": f"{path}, {path.stat().st_size / 1e6:.2f} MB"}
    for kind, tensors in (("input", file.inputs), ("output", file.outputs)):
        for i, tensor in enumerate(tensors):
            facts[f"{kind} {i + 1}" if len(tensors) > 1 else kind] = _tensor(tensor)
    facts["operators"] = operators_in_words(file.operators)
    facts["labels"] = "none" if file.labels is None else _labels(file.labels)
    if file.metadata:
        facts |= _about_metadata(file.metadata)
    else:
        facts["metadata"] = "cannot be read" if file.metadata is None else "none"
    return facts_table(facts)


def _about_onnx(path: Path) -> str:
    file = OnnxFile(path)
    size = "×".join(map(str, file.image_shape))
    return facts_table(
        {
            "file": f"{path}, {path.stat().st_size / 1e6:.2f} MB",
            "input": f"{INPUT}, uint8 batch×{size}",
            "output": f"{OUTPUT}, float32 batch×{file.classes}",
            "operators": operators_in_words(onnx_op_histogram(path)),
            **_spec(file.spec),
        }
    )


def _about_saved_model(path: Path) -> str:
    folder = SavedModelFolder(path)
    facts: dict[str, Any] = {"folder": f"{path}, {size_bytes(path) / 1e6:.2f} MB"}
    for name, signature in folder.signatures.items():
        _, inputs = signature.structured_input_signature
        outputs = signature.structured_outputs
        facts[name] = f"{_specs(inputs)} → {_specs(outputs)}"
    facts["operators"] = operators_in_words(folder.op_histogram())
    return facts_table(facts | _spec(folder.spec))


def _spec(spec: ClassifierSpec | None) -> dict[str, str]:
    if spec is None:
        return {"labels": "none"}
    facts = {"labels": _labels(spec.labels), "score threshold": _threshold(spec.threshold)}
    if spec.preprocess is not None:
        facts["images"] = ", ".join(f"{k} {v}" for k, v in spec.preprocess.to_dict().items())
    return facts


def _specs(specs: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {spec.dtype.name} {'×'.join('any' if n is None else str(n) for n in spec.shape)}"
        for name, spec in specs.items()
    )


def _about_metadata(said: dict[str, Any]) -> dict[str, str]:
    normalization = metadata.normalization(said)
    return {
        **{key: said.get(key, "not said") for key in metadata.ABOUT},
        "normalization": "not said"
        if normalization is None
        else "mean {}, standard deviation {}".format(*map(_numbers, normalization)),
        "score threshold": _threshold(metadata.score_threshold(said)),
        "metadata": f"for parsers from {said.get('min_parser_version', 'an unsaid version')} on",
    }


def _threshold(threshold: float | None) -> str:
    return "none" if threshold is None else f"{threshold:.1%}"


def _tensor(tensor: Tensor) -> str:
    shape = "×".join("?" if side < 0 else str(side) for side in tensor.shape) or "scalar"
    quantized = ""
    if len(tensor.scale) == 1:
        (scale,), zero_point = tensor.scale, tensor.zero_point[0] if tensor.zero_point else 0
        quantized = f", scale {scale:g}, zero point {zero_point}"
    elif tensor.scale:
        quantized = f", a scale for each of {len(tensor.scale)} channels"
    return f"{tensor.name}, {tensor.dtype} {shape}{quantized}"


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _labels(labels: Any) -> str:
    shown = ", ".join(labels[:_SHOWN_LABELS])
    more = len(labels) - _SHOWN_LABELS
    return f"{len(labels)}: {shown}" + (f" and {more} more" if more > 0 else "")


# `info`: this machine, the runs in a folder, a run or model file, the published weights.


def info(what: str | os.PathLike[str] | None = None) -> str:
    """Describes a machine, a run, the runs in a folder, or a model file.

    Args:
        what: A run's or SavedModel's folder; a folder of runs; a .tflite, .onnx or .keras file;
            `"weights"` for the published weights that have a name; None for this machine.

    Returns:
        Lines for a person, at most 80 columns wide but for paths and the table of the network.

    Raises:
        InputError: If it is none of these.
    """
    if what == "weights":
        from keras_resnet18.weights.catalogue import table

        return table()
    from keras_resnet18.reports.info import about_file, about_machine
    from keras_resnet18.reports.runs import about_runs, runs_in

    if what is None:
        return about_machine()
    path = Path(what)
    is_folder_of_runs = format_of(path) == "run" and not Run(path).recipe_file.is_file()
    return about_runs(path) if is_folder_of_runs and runs_in(path) else about_file(path)
