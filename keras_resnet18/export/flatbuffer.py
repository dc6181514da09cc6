"""What can be read from, and mended in, a .tflite file itself."""

from __future__ import annotations

import collections
import copy
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

_LABELS_FILE = "labels.txt"
_OPERATORS = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")
}


def op_histogram(path: Path) -> dict[str, int]:
    """How often each operator occurs, by TFLite's names; custom ones, Flex too, as CUSTOM."""
    model = flatbuffer_utils.read_model(str(path))
    names = collections.Counter(
        _operator_name(model, operator)
        for graph in model.subgraphs
        for operator in graph.operators or []
    )
    return dict(sorted(names.items()))


def custom_operators(path: Path) -> list[str]:
    """The names of the operators that no runtime has by itself; those of Flex are TensorFlow's."""
    codes = flatbuffer_utils.read_model(str(path)).operatorCodes
    return sorted(code.customCode.decode() for code in codes if code.customCode)


def keep_softmax_float(path: Path) -> None:
    """Takes the last softmax of an int8 file out of the quantised part, in place.

    The converter quantises the softmax and then turns its output to float: probabilities in steps
    of 1/256, of which a thousand classes cannot be told apart. Turned to float one step earlier,
    the softmax is exact. A file that ends otherwise is left as it is.
    """
    model = flatbuffer_utils.read_model(str(path))
    graph = model.subgraphs[0]
    last = (graph.operators or [])[-2:]
    if [_operator_name(model, operator) for operator in last] != ["SOFTMAX", "DEQUANTIZE"]:
        return
    softmax, dequantize = last
    between = graph.tensors[softmax.outputs[0]]
    between.type = schema.TensorType.FLOAT32
    between.quantization = None
    between.name = between.name + b"_logits"  # now those, not the int8 probabilities
    graph.operators[-2:] = [
        _operator(dequantize, softmax.inputs, softmax.outputs),
        _operator(softmax, dequantize.inputs, dequantize.outputs),
    ]
    flatbuffer_utils.write_model(model, str(path))


def append_labels(path: Path, labels: Sequence[str]) -> None:
    """Adds the labels as TFLite packs associated files: a zip archive behind the model."""
    with zipfile.ZipFile(path, "a") as archive:
        # a fixed date, so that two exports of one model are the same bytes
        entry = zipfile.ZipInfo(_LABELS_FILE, date_time=(1980, 1, 1, 0, 0, 0))
        entry.external_attr = 0o644 << 16  # else unzip makes a file that nobody may read
        archive.writestr(entry, "".join(f"{label}\n" for label in labels))


def read_labels(path: Path) -> list[str] | None:
    """The labels that `append_labels` added; None if there are none."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        if _LABELS_FILE not in archive.namelist():
            return None
        return archive.read(_LABELS_FILE).decode("utf-8").split("\n")[:-1]


def _operator(like: Any, inputs: Any, outputs: Any) -> Any:
    operator = copy.copy(like)
    operator.inputs, operator.outputs = inputs, outputs
    return operator


def _operator_name(model: Any, operator: Any) -> str:
    code = model.operatorCodes[operator.opcodeIndex]
    # files older than 127 operators kept the number in a byte
    name: str = _OPERATORS[max(code.builtinCode, code.deprecatedBuiltinCode)]
    return name
