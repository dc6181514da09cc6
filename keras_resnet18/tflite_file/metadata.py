"""TFLite Metadata: what a .tflite file tells apps, and the people who find it, about itself.

The tables are those of the public schema, `metadata_schema.fbs` 1.5.0, here as nested dictionaries
under the schema's own names.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import flatbuffers
import numpy as np
from flatbuffers import number_types
from flatbuffers.table import Table

from keras_resnet18.errors import InputError, is_utf8
from keras_resnet18.formats import INPUT, LABELS_FILE, OUTPUT, PREPROCESS_FILE

if TYPE_CHECKING:
    import keras

# The model's buffer that holds it
BUFFER = "TFLITE_METADATA"

# What a person may say about a model.
ABOUT = ("name", "description", "version", "author", "license")

_IDENTIFIER = b"M001"
_FIRST_PARSER = "1.0.0"  # all that is written here was in the schema from its beginning
_TENSOR_AXIS_LABELS = 2
_COLOURS = {1: 2, 3: 1}  # channels: GRAYSCALE, RGB

# Each table's fields in the schema's order, which numbers them, up to the last one of use here;
# "" is of none.
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

# The tables of each union that are of use here, by their number in it; the field before says which
# one is there.
_UNIONS = {
    "ContentProperties": {2: "ImageProperties"},
    "ProcessUnitOptions": {1: "NormalizationOptions", 3: "ScoreThresholdingOptions"},
}
_IMAGE, _NORMALIZATION, _SCORE_THRESHOLDING = 2, 1, 3


def check_about(about: Mapping[str, str]) -> None:
    """Raises InputError unless it maps some of `ABOUT` to text."""
    for key, value in about.items():
        if key not in ABOUT:
            raise InputError(f"about takes {', '.join(ABOUT)}. Received: {key!r}")
        if not isinstance(value, str) or not value.strip() or not is_utf8(value):
            raise InputError(f"about needs text for its {key}. Received: {value!r}")


def describe_model(
    model: keras.Model,
    *,
    labelled: bool,
    prepared: bool,
    score_threshold: float | None,
    about: Mapping[str, str],
) -> dict[str, Any]:
    """What is true of every file that is made from a classifier, and what its maker says of it.

    Args:
        model: A classifier that takes pixels of 0 to 255, of one fixed size.
        labelled: Whether `LABELS_FILE` lies behind the model.
        prepared: Whether `PREPROCESS_FILE` does.
        score_threshold: Probability below which a class is not an answer, which MediaPipe obeys.
        about: Some of `ABOUT`, which go before what is made up here. An author and a licence are
            never made up. The version without one is the first 12 hexadecimal digits of the
            SHA-256 of the weights, so that files of one model can be told from another's.
    """
    _, height, width, channels = model.input_shape
    weights = hashlib.sha256(b"".join(array.tobytes() for array in model.get_weights()))
    preprocess = {
        "name": PREPROCESS_FILE,
        "description": "How an image of any size becomes these pixels.",
    }
    image = {
        "name": INPUT,
        "description": f"Pixels of {height}×{width}, 0 to 255, as a camera gives them: "
        "the normalisation is inside.",
        "content": {
            "content_properties_type": _IMAGE,
            "content_properties": {"color_space": _COLOURS.get(channels, 0)},
        },
        "process_units": [
            {
                "options_type": _NORMALIZATION,
                "options": {"mean": [0.0], "std": [1.0]},
            }
        ],
        "associated_files": [preprocess] if prepared else [],
    }
    labels = {
        "name": LABELS_FILE,
        "description": "The classes' names, in the order of the probabilities.",
        "type": _TENSOR_AXIS_LABELS,
    }
    probabilities = {
        "name": OUTPUT,
        "description": "One for each class, with a sum of 1.",
        "associated_files": [labels] if labelled else [],
    }
    if score_threshold is not None:
        options = {"global_score_threshold": score_threshold}
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
    """A ModelMetadata table as the FlatBuffer that goes into the file."""
    builder = flatbuffers.Builder()
    builder.Finish(_pack(builder, "ModelMetadata", metadata), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def unpack(buffer: bytes) -> dict[str, Any]:
    """The ModelMetadata table of anybody's FlatBuffer, as far as `_SCHEMA` goes.

    Raises:
        InputError: If it is none.
    """
    if buffer[4:8] != _IDENTIFIER:
        raise InputError(
            f"TFLite Metadata has the identifier {_IDENTIFIER!r}. Received: {buffer[4:8]!r}"
        )
    try:
        return _unpack(Table(buffer, *struct.unpack_from("<I", buffer)), "ModelMetadata")
    except (IndexError, TypeError, ValueError, struct.error):  # an offset that points to nowhere
        raise InputError(
            f"TFLite Metadata must be a whole FlatBuffer. Received: {len(buffer)} broken bytes"
        ) from None


def labels_file(metadata: Mapping[str, Any]) -> str | None:
    """The name of the file with the labels of the first output; None if there is none."""
    for graph in metadata.get("subgraph_metadata", [])[:1]:
        for output in graph.get("output_tensor_metadata", [])[:1]:
            for file in output.get("associated_files", []):
                if file.get("type") == _TENSOR_AXIS_LABELS:
                    name: str | None = file.get("name")
                    return name
    return None


def normalization(metadata: Mapping[str, Any]) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation of the first input; None if it is not said."""
    options = _options(metadata, "input_tensor_metadata", _NORMALIZATION)
    return None if options is None else (options.get("mean", []), options.get("std", []))


def score_threshold(metadata: Mapping[str, Any]) -> float | None:
    """Probability below which a class of the first output is not an answer; None if not said."""
    options = _options(metadata, "output_tensor_metadata", _SCORE_THRESHOLDING)
    # float32 in the file: six digits are what was meant
    return None if options is None else round(options.get("global_score_threshold", 0.0), 6)


def _options(metadata: Mapping[str, Any], tensors: str, kind: int) -> dict[str, Any] | None:
    """Options of the first process unit of a kind, of the first input or output."""
    for graph in metadata.get("subgraph_metadata", [])[:1]:
        for tensor in graph.get(tensors, [])[:1]:
            for unit in tensor.get("process_units", []):
                if unit.get("options_type") == kind:
                    options: dict[str, Any] = unit.get("options", {})
                    return options
    return None


def _pack(builder: Any, kind: str, value: Any) -> Any:
    """Writes a string, a vector or a table, and returns where."""
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
    inside = {  # comes first: a FlatBuffer is written from its leaves to its root
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
    """The kind of a field, for a union the table that is there; "" if that is of no use here."""
    return _UNIONS[kind].get(fields.get(f"{name}_type", 0), "") if kind in _UNIONS else kind


def _unpack(table: Any, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, (name, field) in enumerate(_SCHEMA[kind].items()):
        offset = table.Offset(4 + 2 * number)
        if offset and (chosen := _table(field, name, found)):
            found[name] = _field(table, offset, chosen)
    return found


def _field(table: Any, offset: int, kind: str) -> Any:
    if kind == "byte":
        return table.Get(number_types.Int8Flags, table.Pos + offset)
    if kind == "float":
        return table.Get(number_types.Float32Flags, table.Pos + offset)
    if kind == "string":
        return table.String(table.Pos + offset).decode("utf-8", "replace")
    if kind == "[float]":
        return table.GetVectorAsNumpy(number_types.Float32Flags, offset).tolist()
    if not kind.startswith("["):
        return _unpack(Table(table.Bytes, table.Indirect(table.Pos + offset)), kind)
    start = table.Vector(offset)
    places = (table.Indirect(start + 4 * i) for i in range(table.VectorLen(offset)))
    return [_unpack(Table(table.Bytes, place), kind[1:-1]) for place in places]
