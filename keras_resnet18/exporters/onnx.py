"""`export_onnx`: an .onnx file for ONNX Runtime and other runtimes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from keras_resnet18.classify.exported import SPEC_IN_ONNX, OnnxFile, check_onnx_extra
from keras_resnet18.exporters import graph
from keras_resnet18.exporters.compare import ExportReport, export_verified, pixel_batches
from keras_resnet18.spec import ClassifierSpec

# Opset of December 2022, which every maintained runtime reads
OPSET = 18


def export_onnx(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    spec: ClassifierSpec | None = None,
    labels: Sequence[str] | None = None,
    check: Any = None,
) -> ExportReport:
    """Writes an .onnx file and verifies it with ONNX Runtime.

    The file takes `image`, uint8 (batch, height, width, channels) of any batch size with values of
    0 to 255, and returns `probabilities`, float32 (batch, classes), with operators of opset 18. Its
    metadata holds the specification under the key `classifier`, as JSON. The file is written only
    if it gives the model's answers in ONNX Runtime; its report is beside it, in `<name>.json`.

    It needs the extra `onnx`: `pip install 'keras-resnet18[onnx]'`.

    Args:
        model: A classifier that takes pixels of 0 to 255 of one fixed size and returns softmax
            probabilities or logits.
        path: Destination; an existing file is replaced.
        spec: Specification of the classifier: class names, preprocessing, score threshold. That of
            a run is `run.spec`.
        labels: Class names in the order of the model's output if there is no `spec`, by default the
            class numbers. Images are then resized to cover the model's input size.
        check: Held-out images to compare on: a `tf.data.Dataset` or arrays, of images or
            (image, label), batched or not. With labels, top-1 accuracy is measured too. By default
            noise, on which accuracy is not measured.

    Returns:
        Report with size, agreement, accuracy, latency and operators.

    Raises:
        InputError: If an argument cannot be used, or the extra is not installed.
        ExportError: If the file does not give the model's answers. Nothing is written then.
    """
    check_onnx_extra()
    model, spec = graph.prepared(model, spec, labels, fixed_size="an .onnx file")
    shape = model.input_shape[1:]

    def write(twin: keras.Model, new: Path) -> OnnxFile:
        _convert(twin, new)
        _tidy(new, {SPEC_IN_ONNX: spec.to_json()})
        return OnnxFile(new)

    batches = None if check is None else pixel_batches(check, shape, argument="check")
    return export_verified(
        "onnx", Path(path), model, write, spec=spec, shape=shape, batches=batches
    )


def _convert(model: keras.Model, path: Path) -> None:
    saved_model = path.with_name(f"{path.name}.saved_model")
    graph.write_saved_model(model, saved_model)
    command = ["-m", "tf2onnx.convert", "--saved-model", str(saved_model), "--tag", "serve"]
    command += ["--signature_def", "serving_default", "--opset", str(OPSET), "--output", str(path)]
    graph.run_converter("tf2onnx", command, path)


def _tidy(path: Path, properties: dict[str, str]) -> None:
    """Adds metadata, names the batch dimension, and removes the path of the converter's input."""
    import onnx

    model = onnx.load(path)
    model.graph.name, model.graph.doc_string = "classifier", ""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.helper.set_model_props(model, properties)
    onnx.save(model, path)
