"""Reading and editing .tflite files: operators and packed files, and TFLite Metadata for apps.

Metadata tables are nested dictionaries with the names of the public schema,
`metadata_schema.fbs` 1.5.0.
"""

from __future__ import annotations

import collections
import hashlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from keras_resnet18.errors import InputError, is_utf8
from keras_resnet18.files import INPUT, OUTPUT
from keras_resnet18.spec import LABELS_FILE, SPEC_FILE, ClassifierSpec

if TYPE_CHECKING:
    import keras

# Name of the model's buffer that holds the metadata
BUFFER = "TFLITE_METADATA"

# Metadata fields that a caller may set
ABOUT = ("name", "description", "version", "author", "license")

_IDENTIFIER = b"M001"
_FIRST_PARSER = "1.0.0"  # the fields written here were in the schema's first version
_TENSOR_AXIS_LABELS = 2
_COLORS = {1: 2, 3: 1}  # channels: GRAYSCALE, RGB

# Fields of each table in the order of the schema, which numbers them, up to the last one used here;
# "" marks fields that are not used.
_SCHEMA = {
    "ModelMetadata": {
        "name": "string",
        "description": "string",
        "version": "string",
        "subgraph_metadata": "[SubGraphMetadata]",
        "author": "string",
        "license": "string",
        "associated_files": "[AssociatedFile]",
        "min_parser_version": "string",
    },
    "SubGraphMetadata": {
        "name": "string",
        "description": "string",
        "input_tensor_metadata": "[TensorMetadata]",
        "output_tensor_metadata": "[TensorMetadata]",
    },
    "TensorMetadata": {
        "name": "string",
        "description": "string",
        "dimension_names": "",
        "content": "Content",
        "process_units": "[ProcessUnit]",
        "stats": "",
        "associated_files": "[AssociatedFile]",
    },
    "Content": {"content_properties_type": "byte", "content_properties": "ContentProperties"},
    "ImageProperties": {"color_space": "byte"},
    "ProcessUnit": {"options_type": "byte", "options": "ProcessUnitOptions"},
    "NormalizationOptions": {"mean": "[float]", "std": "[float]"},
    "ScoreThresholdingOptions": {"global_score_threshold": "float"},
    "AssociatedFile": {"name": "string", "description": "string", "type": "byte"},
}

# Tables of each union that are used here, by their number, which is stored in the field before it
_UNIONS = {
    "ContentProperties": {2: "ImageProperties"},
    "ProcessUnitOptions": {1: "NormalizationOptions", 3: "ScoreThresholdingOptions"},
}
_IMAGE, _NORMALIZATION, _SCORE_THRESHOLDING = 2, 1, 3


def check_about(about: Mapping[str, str]) -> None:
    """Raises InputError unless `about` maps names in `ABOUT` to text."""
    for key, value in about.items():
        if key not in ABOUT:
            raise InputError(f"about takes {', '.join(ABOUT)}. Received: {key!r}")
        if not isinstance(value, str) or not value.strip() or not is_utf8(value):
            raise InputError(f"about needs text for its {key}. Received: {value!r}")


def describe_model(
    model: keras.Model, spec: ClassifierSpec, about: Mapping[str, str]
) -> dict[str, Any]:
    """Returns the metadata of the .tflite files of a classifier.

    It names `SPEC_FILE` and `LABELS_FILE` as packed files. MediaPipe applies the threshold. `about`
    replaces the defaults of fields in `ABOUT`; author and license have none, and the version is the
    start of the SHA-256 of the weights.
    """
    _, height, width, channels = model.input_shape
    weights = hashlib.sha256(b"".join(array.tobytes() for array in model.get_weights()))
    image = {
        "name": INPUT,
        "description": f"{height}×{width} pixels of 0 to 255, not normalized.",
        "content": {
            "content_properties_type": _IMAGE,
            "content_properties": {"color_space": _COLORS.get(channels, 0)},
        },
        "process_units": [
            {"options_type": _NORMALIZATION, "options": {"mean": [0.0], "std": [1.0]}}
        ],
        "associated_files": [
            {"name": SPEC_FILE, "description": "How an image of any size becomes these pixels."}
        ],
    }
    labels = {
        "name": LABELS_FILE,
        "description": "The classes' names, in the order of the probabilities.",
        "type": _TENSOR_AXIS_LABELS,
    }
    probabilities = {
        "name": OUTPUT,
        "description": "One for each class, with a sum of 1.",
        "associated_files": [labels],
    }
    if spec.threshold is not None:
        options = {"global_score_threshold": spec.threshold}
        probabilities["process_units"] = [{"options_type": _SCORE_THRESHOLDING, "options": options}]
    return {
        "name": model.name,
        "description": f"Image classifier of {model.output_shape[1]} classes, "
        "made with keras-resnet18.",
        "version": weights.hexdigest()[:12],
        **about,
        "subgraph_metadata": [
            {"input_tensor_metadata": [image], "output_tensor_metadata": [probabilities]}
        ],
        "min_parser_version": _FIRST_PARSER,
    }


def pack(metadata: Mapping[str, Any]) -> bytes:
    """Serializes a ModelMetadata table as a FlatBuffer."""
    builder = flatbuffers.Builder()
    builder.Finish(_pack(builder, "ModelMetadata", metadata), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _pack(builder: Any, kind: str, value: Any) -> Any:
    """Writes a string, a vector or a table, and returns its offset."""
    if kind == "string":
        return builder.CreateString(value)
    if kind == "[float]":
        return builder.CreateNumpyVector(np.array(value, np.float32))
    if kind.startswith("["):
        places = [_pack(builder, kind[1:-1], item) for item in value]
        builder.StartVector(4, len(places), 4)
        for place in reversed(places):
            builder.PrependUOffsetTRelative(place)
        return builder.EndVector()
    fields = _SCHEMA[kind]
    inside = {  # first, because a FlatBuffer is written from its leaves to its root
        name: _pack(builder, _table(fields[name], name, value), item)
        for name, item in value.items()
        if fields[name] not in ("byte", "float")
    }
    builder.StartObject(len(fields))
    for number, name in enumerate(fields):
        if name in inside:
            builder.PrependUOffsetTRelativeSlot(number, inside[name], 0)
        elif name in value and fields[name] == "float":
            builder.PrependFloat32Slot(number, value[name], 0.0)
        elif name in value:
            builder.PrependInt8Slot(number, value[name], 0)
    return builder.EndObject()


def _table(kind: str, name: str, fields: Mapping[str, Any]) -> str:
    """Kind of a field, resolved to a table for a union; "" if it is not used here."""
    return _UNIONS[kind].get(fields.get(f"{name}_type", 0), "") if kind in _UNIONS else kind


# The .tflite file itself

_FILE_IDENTIFIER = b"TFL3"


class Contents(NamedTuple):
    """Contents of a .tflite file.

    Attributes:
        operators: Number of operators by TFLite name; `CUSTOM` precedes the names of custom ones,
            such as TensorFlow's Flex.
        labels: Lines of the first packed .txt file, the class names; None if there is none.
    """

    operators: dict[str, int]
    labels: list[str] | None


def contents(path: Path) -> Contents:
    """Reads any .tflite file without running it, even one with unknown operators."""
    with path.open("rb") as file:
        if file.read(8)[4:] != _FILE_IDENTIFIER:
            raise InputError(f"a .tflite file has the mark TFL3. Received: {path}, without it")
    try:
        model = flatbuffer_utils.read_model(str(path))
        operators = collections.Counter(
            _operator_name(model, operator)
            for one in model.subgraphs
            for operator in one.operators or []
        )
    except Exception:  # the generated code checks no offsets, so it may raise anything
        raise InputError(
            f"{path} is a damaged .tflite file, perhaps cut short: export or fetch it again"
        ) from None
    text = read_file(path, ".txt")
    labels = None if text is None else text.splitlines()
    return Contents(dict(sorted(operators.items())), labels)


def quantization(path: Path) -> str | None:
    """Returns the value of `export_tflite`'s `quantize` that gives tensors of these types."""
    model = flatbuffer_utils.read_model(str(path))
    tensors, types = model.subgraphs[0].tensors, schema.TensorType
    for operator in model.subgraphs[0].operators:
        if _operator_name(model, operator) in ("CONV_2D", "FULLY_CONNECTED"):
            image, weights = (tensors[i].type for i in operator.inputs[:2])
            if weights == types.INT8:
                return "int8" if image == types.INT8 else "dynamic"
    return "float16" if any(tensor.type == types.FLOAT16 for tensor in tensors) else None


def keep_softmax_float(path: Path) -> None:
    """Swaps the final SOFTMAX and DEQUANTIZE of an int8 file, if it has them, in place.

    The converter quantizes the softmax, so probabilities are multiples of 1/256, too coarse for a
    thousand classes. With the logits converted to float first, the softmax is float32.
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
    between.name = between.name + b"_logits"  # no longer int8 probabilities
    dequantize.inputs, softmax.inputs = softmax.inputs, dequantize.inputs
    dequantize.outputs, softmax.outputs = softmax.outputs, dequantize.outputs
    graph.operators[-2:] = [dequantize, softmax]
    flatbuffer_utils.write_model(model, str(path))


def rewrite_for_gpu(path: Path) -> None:
    """Replaces operators of a quantized file that LiteRT's GPU engine computes wrongly, in place.

    - A 1×1 convolution with a stride becomes a 1×1 max-pool with this stride and a convolution
      without one, which compute the same.
    - An addition to a map of one pixel takes the map itself. The converter reshapes it to a vector.
    """
    model = flatbuffer_utils.read_model(str(path))
    for graph in model.subgraphs:
        tensors, operators, reshaped = graph.tensors, [], {}
        for operator in graph.operators or []:
            name = _operator_name(model, operator)
            if name == "RESHAPE":
                reshaped[int(operator.outputs[0])] = int(operator.inputs[0])
            elif name == "CONV_2D" and _is_strided_1x1(operator, tensors):
                operators.append(_take_stride(operator, model, tensors))
            elif name == "ADD":
                maps = [reshaped.get(int(index), int(index)) for index in operator.inputs]
                shapes = {tuple(tensors[index].shape) for index in maps}
                if shapes == {tuple(tensors[operator.outputs[0]].shape)}:
                    operator.inputs = maps
            operators.append(operator)
        used = {int(index) for operator in operators for index in operator.inputs}
        unused = reshaped.keys() - used - set(map(int, graph.outputs))
        graph.operators = [one for one in operators if not unused.intersection(one.outputs)]
    flatbuffer_utils.write_model(model, str(path))


def _is_strided_1x1(convolution: Any, tensors: Sequence[Any]) -> bool:
    options, kernel = convolution.builtinOptions, tensors[convolution.inputs[1]]
    return max(options.strideH, options.strideW) > 1 and tuple(kernel.shape[1:3]) == (1, 1)


def _take_stride(convolution: Any, model: Any, tensors: list[Any]) -> Any:
    """Moves the stride of a 1×1 convolution to a max-pool before it, and returns the max-pool."""
    image, output = tensors[convolution.inputs[0]], tensors[convolution.outputs[0]]
    pooled = schema.TensorT(
        name=output.name + b"_input",
        type=image.type,
        shape=[*output.shape[:3], image.shape[3]],
        quantization=image.quantization,
    )
    tensors.append(pooled)
    code = schema.BuiltinOperator.MAX_POOL_2D
    version = 1 if image.type == schema.TensorType.FLOAT32 else 2
    model.operatorCodes.append(
        schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=code, version=version)
    )
    options = convolution.builtinOptions
    pool = schema.OperatorT(
        opcodeIndex=len(model.operatorCodes) - 1,
        inputs=[convolution.inputs[0]],
        outputs=[len(tensors) - 1],
        builtinOptionsType=schema.BuiltinOptions.Pool2DOptions,
        builtinOptions=schema.Pool2DOptionsT(
            padding=schema.Padding.VALID,
            strideH=options.strideH,
            strideW=options.strideW,
            filterHeight=1,
            filterWidth=1,
        ),
    )
    options.strideH = options.strideW = 1
    convolution.inputs[0] = len(tensors) - 1
    return pool


def add_metadata(path: Path, buffer: bytes) -> None:
    """Adds TFLite Metadata, as returned by `pack`, to a file that has none."""
    model = flatbuffer_utils.read_model(str(path))
    model.buffers.append(schema.BufferT(data=np.frombuffer(buffer, np.uint8)))
    entry = schema.MetadataT(name=BUFFER, buffer=len(model.buffers) - 1)
    model.metadata = [*(model.metadata or []), entry]
    flatbuffer_utils.write_model(model, str(path))


def append_files(path: Path, files: Mapping[str, str]) -> None:
    """Packs text files by name as TFLite Metadata does, in a zip archive after the model."""
    with zipfile.ZipFile(path, "a") as archive:
        for name, text in files.items():
            # A fixed date, so that two exports of one model are the same bytes
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16  # without it, unzip makes an unreadable file
            archive.writestr(entry, text)


def read_file(path: Path, ending: str) -> str | None:
    """Returns the text of the first packed file whose name has this ending, or None."""
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(ending)]
            return archive.read(names[0]).decode("utf-8", "replace") if names else None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError):  # the last: a password
        raise InputError(
            f"{path} has a {ending} that cannot be unpacked: export it again"
        ) from None


def _operator_name(model: Any, operator: Any) -> str:
    code = model.operatorCodes[operator.opcodeIndex]
    if code.customCode:
        return f"CUSTOM {code.customCode.decode()}"
    name: str | None = flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex)
    return name or f"operator {code.builtinCode}"  # newer than the installed schema
