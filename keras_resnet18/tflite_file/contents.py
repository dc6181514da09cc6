"""What can be read from, and mended in, a .tflite file itself."""

from __future__ import annotations

import collections
import copy
import dataclasses
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from keras_resnet18.errors import InputError
from keras_resnet18.formats import LABELS_FILE
from keras_resnet18.tflite_file import metadata

_IDENTIFIER = b"TFL3"


def _names(enumeration: type) -> dict[int, str]:
    return {code: name for name, code in vars(enumeration).items() if not name.startswith("_")}


_OPERATORS, _TYPES = _names(schema.BuiltinOperator), _names(schema.TensorType)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An input or an output.

    Attributes:
        name: By the file's signature if it has one, else the tensor's own.
        dtype: As NumPy calls it.
        shape: -1 for a size that is left open.
        scale: Real numbers are (value - zero point) · scale, with one of each for the tensor or
            one for each channel; none if it is not quantised.
        zero_point: As many.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a .tflite file is, by its own account.

    Attributes:
        inputs: In order.
        outputs: In order.
        operators: How often each occurs, by TFLite's names; custom ones as CUSTOM.
        metadata: Its TFLite Metadata as `metadata.unpack` gives it; empty if it has none, None if
            it cannot be read.
        labels: The classes' names; None if it has none.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    operators: dict[str, int]
    metadata: dict[str, Any] | None
    labels: list[str] | None


def contents(path: Path) -> Contents:
    """Reads any .tflite file. It is not run, so it may need operators that are not here.

    Raises:
        InputError: If it is not a .tflite file, or broken.
    """
    model = _read(path)
    try:
        graph = model.subgraphs[0]
        signatures = (one for one in model.signatureDefs or [] if one.subgraphIndex == 0)
        signature = next(signatures, schema.SignatureDefT())
        inputs, outputs = (
            tuple(_tensor(graph.tensors[index], int(index), names or []) for index in indices)
            for indices, names in (
                (graph.inputs, signature.inputs),
                (graph.outputs, signature.outputs),
            )
        )
        operators = _count_operators(model)
        buffer = _metadata_buffer(model)
    except Exception:
        raise _broken(path) from None
    try:
        about = {} if buffer is None else metadata.unpack(buffer)
    except InputError:  # what the file computes does not depend on it
        about = None
    return Contents(inputs, outputs, operators, about, _labels(path, about or {}))


def op_histogram(path: Path) -> dict[str, int]:
    """How often each operator occurs, by TFLite's names; custom ones, Flex too, as CUSTOM."""
    return _count_operators(flatbuffer_utils.read_model(str(path)))


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


def add_metadata(path: Path, buffer: bytes) -> None:
    """Puts TFLite Metadata, as `metadata.pack` gives it, into a file that has none."""
    model = flatbuffer_utils.read_model(str(path))
    model.buffers.append(schema.BufferT(data=np.frombuffer(buffer, np.uint8)))
    entry = schema.MetadataT(name=metadata.BUFFER, buffer=len(model.buffers) - 1)
    model.metadata = [*(model.metadata or []), entry]
    flatbuffer_utils.write_model(model, str(path))


def append_files(path: Path, files: Mapping[str, str]) -> None:
    """Adds texts by name, as TFLite packs associated files: a zip archive behind the model."""
    with zipfile.ZipFile(path, "a") as archive:
        for name, text in files.items():
            # a fixed date, so that two exports of one model are the same bytes
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16  # else unzip makes a file that nobody may read
            archive.writestr(entry, text)


def read_file(path: Path, name: str) -> str | None:
    """The text of a file that lies behind a model; None if there is none of this name.

    Raises:
        InputError: If it is broken.
    """
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            if name not in archive.namelist():
                return None
            return archive.read(name).decode("utf-8", "replace")
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError):  # the last: a password
        raise InputError(f"{path} has a {name} that cannot be unpacked: export it again") from None


def _labels(path: Path, about: dict[str, Any]) -> list[str] | None:
    text = read_file(path, metadata.labels_file(about) or LABELS_FILE)
    return None if text is None else text.splitlines()


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        if file.read(8)[4:] != _IDENTIFIER:
            raise InputError(f"a .tflite file begins with the mark TFL3. Received: {path}, without")
    try:
        return flatbuffer_utils.read_model(str(path))
    except Exception:
        raise _broken(path) from None


def _broken(path: Path) -> InputError:
    # the generated code checks no offset: in a broken file it may raise anything
    return InputError(
        f"{path} is a broken .tflite file, perhaps cut short: export or fetch it anew"
    )


def _tensor(tensor: Any, index: int, names: Sequence[Any]) -> Tensor:
    name = next((entry.name for entry in names if entry.tensorIndex == index), tensor.name)
    shape = tensor.shapeSignature if tensor.shapeSignature is not None else tensor.shape
    quantization = tensor.quantization or schema.QuantizationParametersT()
    scale, zero_point = quantization.scale, quantization.zeroPoint
    return Tensor(
        name=(name or b"").decode("utf-8", "replace"),
        dtype=_TYPES[tensor.type].lower(),
        shape=tuple(int(side) for side in (shape if shape is not None else ())),
        scale=tuple(float(value) for value in (scale if scale is not None else ())),
        zero_point=tuple(int(value) for value in (zero_point if zero_point is not None else ())),
    )


def _metadata_buffer(model: Any) -> bytes | None:
    for entry in model.metadata or []:
        if entry.name == metadata.BUFFER.encode():
            return bytes(model.buffers[entry.buffer].data)
    return None


def _count_operators(model: Any) -> dict[str, int]:
    names = collections.Counter(
        _operator_name(model, operator)
        for graph in model.subgraphs
        for operator in graph.operators or []
    )
    return dict(sorted(names.items()))


def _operator(like: Any, inputs: Any, outputs: Any) -> Any:
    operator = copy.copy(like)
    operator.inputs, operator.outputs = inputs, outputs
    return operator


def _operator_name(model: Any, operator: Any) -> str:
    code = model.operatorCodes[operator.opcodeIndex]
    # files older than 127 operators kept the number in a byte
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    return _OPERATORS.get(number, f"operator {number}")  # newer than the schema that is here
