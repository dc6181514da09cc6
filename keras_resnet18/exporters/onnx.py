"""A model as an .onnx file, run and compared with the model before it has a name."""

from __future__ import annotations

import collections
import itertools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from keras_resnet18.errors import ExportError, InputError
from keras_resnet18.exporters import serving
from keras_resnet18.runtime.exported import OnnxFile, check_onnx_extra, latency_ms
from keras_resnet18.staging import check_destination
from keras_resnet18.verification import compare as verify
from keras_resnet18.verification import diagnose, reference
from keras_resnet18.verification.pixels import noise, pixel_batches
from keras_resnet18.verification.report import (
    ExportReport,
    check_report_file,
    staged_with_figures,
    write_figures,
)

# Of 2022: every runtime that is still looked after reads it.
OPSET = 18


def export_onnx(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    labels: Sequence[str] | None = None,
    check: Any = None,
) -> ExportReport:
    """Writes an .onnx file that takes pixels and gives probabilities, and proves it.

    The file takes `image`, uint8 (batch, height, width, channels) of any batch with values of 0 to
    255, and gives `probabilities`, float32 (batch, classes), with operators of opset 18. Labels are
    in its metadata under the key `labels`, one a line. It is run by ONNX Runtime and compared with
    the model, and gets its name only if it gives the model's answers.

    It needs the extra `onnx`: `pip install 'keras-resnet18[onnx]'`.

    Args:
        model: A classifier that takes pixels of 0 to 255, of one fixed size; with softmax or
            logits.
        path: The file to write; one that exists is replaced.
        labels: The classes' names in the order of the model's output.
        check: Held-out images to compare on: a `tf.data.Dataset` or arrays, of images or
            (image, label), batched or not; with labels, top-1 accuracy is measured too. Without,
            noise serves.

    Returns:
        Size, agreement, accuracy, latency, operators: `print` it.

    Raises:
        InputError: If an argument cannot be used, or the extra is not installed.
        ExportError: If the file does not give the model's answers. Nothing is written then.
    """
    path = Path(path)
    check_onnx_extra()
    serving.check_model(model, labels)
    shape = model.input_shape[1:]
    if None in shape:
        raise InputError(
            "an .onnx file takes images of one size: build the model with a fixed input_shape. "
            f"Received: input shape {model.input_shape}"
        )
    check_destination(path, Path.is_file, "file")
    check_report_file(path)
    twin = reference.float32_twin(model)
    if check is None:
        batches, model = noise(shape), twin
    else:
        batches = pixel_batches(check, shape, argument="check")
    # the first batch now, so that images of no use are found before seconds of conversion
    batches = itertools.chain([next(batches)], batches)

    with staged_with_figures(path) as (new, figures):
        _convert(twin, new)
        _tidy(new, labels)
        file = OnnxFile(new)
        min_agreement = 0.0 if check is None else verify.MIN_AGREEMENT
        limits = verify.Limits(min_agreement, verify.FLOAT32_TOLERANCE)
        comparison, fault = diagnose.prove(file, model, batches, limits)
        verify.gate(fault)
        report = ExportReport(
            path=path,
            format="onnx",
            size_bytes=new.stat().st_size,
            comparison=comparison,
            latency_ms=latency_ms(file, shape),
            operators=op_histogram(new),
        )
        write_figures(figures, report.to_dict())
    return report


def op_histogram(path: Path) -> dict[str, int]:
    """How often each operator occurs in an .onnx file, by ONNX' names.

    Raises:
        InputError: If the extra `onnx` is not installed.
    """
    check_onnx_extra()
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    return dict(sorted(collections.Counter(node.op_type for node in graph.node).items()))


def _convert(model: keras.Model, path: Path) -> None:
    saved_model = path.with_name(f"{path.name}.saved_model")
    serving.write_saved_model(model, saved_model)
    # a process of its own, as for .tflite files: the converter keeps what it took
    command = [sys.executable, "-P", "-m", "tf2onnx.convert", "--saved-model", str(saved_model)]
    command += ["--tag", "serve", "--signature_def", "serving_default", "--opset", str(OPSET)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(
        [*command, "--output", str(path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not path.is_file():
        last_line = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ExportError(f"tf2onnx failed ({done.returncode}): {last_line}")


def _tidy(path: Path, labels: Sequence[str] | None) -> None:
    """Puts labels into the file, and makes it the same bytes wherever and whenever it is made."""
    import onnx

    model = onnx.load(path)
    model.graph.name, model.graph.doc_string = "classifier", ""  # not the converter's folder
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    _name_in_order(model.graph)
    if labels is not None:
        onnx.helper.set_model_props(model, {"labels": "\n".join(labels)})
    onnx.save(model, path)


def _name_in_order(graph: Any) -> None:
    """Numbers nodes and values from the input on: the converter numbers them by chance."""
    names = {value.name: value.name for value in (*graph.input, *graph.output)}
    names[""] = ""  # an optional input that is left out
    for i, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{i}"
        for values in (node.input, node.output):
            for name in values:
                names.setdefault(name, f"value_{len(names)}")
            values[:] = [names[name] for name in values]
    order = list(names)
    initializers = sorted(graph.initializer, key=lambda x: order.index(x.name))
    for initializer in initializers:
        initializer.name = names[initializer.name]
    del graph.initializer[:]
    graph.initializer.extend(initializers)
