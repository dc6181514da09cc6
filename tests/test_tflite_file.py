"""What a .tflite file says of itself can be read, and what is put into it changes nothing else."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from ai_edge_litert.tools import flatbuffer_utils
from flatbuffers import number_types
from flatbuffers.table import Table

from keras_resnet18 import export_tflite, tflite_file as metadata
from keras_resnet18.classify.exported import TFLiteFile
from keras_resnet18.errors import InputError
from keras_resnet18.exporters import tflite
from keras_resnet18.files import TFLITE
from keras_resnet18.spec import ClassifierSpec
from keras_resnet18.tflite_file import (
    add_metadata,
    append_files,
    contents,
    keep_softmax_float,
    quantization,
    rewrite_for_gpu,
)

FULL = {
    "name": "insects",
    "description": "Ameisen, Bienen und 蝉",
    "subgraph_metadata": [
        {
            "name": "main",
            "input_tensor_metadata": [
                {
                    "name": "image",
                    "content": {
                        "content_properties_type": 2,
                        "content_properties": {"color_space": 1},
                    },
                    "process_units": [
                        {"options_type": 1, "options": {"mean": [0.5, 1.0, -2.0], "std": [0.25]}}
                    ],
                    "associated_files": [],
                }
            ],
            "output_tensor_metadata": [
                {"associated_files": [{"name": "notes.txt", "type": 1}, {"name": "labels.txt"}]}
            ],
        }
    ],
    "min_parser_version": "1.0.0",
}


def described(model: keras.Model, threshold: float | None = None) -> dict:
    return metadata.describe_model(model, ClassifierSpec(("a", "b", "c"), None, threshold), {})


def said_in(path: Path) -> dict:
    """The metadata of a .tflite file."""
    model = flatbuffer_utils.read_model(str(path))
    (entry,) = (one for one in model.metadata if one.name == metadata.BUFFER.encode())
    return unpacked(bytes(model.buffers[entry.buffer].data))


def unpacked(buffer: bytes) -> dict:
    """What `pack` wrote."""
    assert buffer[4:8] == b"M001"
    return fields(Table(buffer, int.from_bytes(buffer[:4], "little")), "ModelMetadata")


def fields(table: Table, kind: str) -> dict:
    found = {}
    for number, (name, field) in enumerate(metadata._SCHEMA[kind].items()):
        offset = table.Offset(4 + 2 * number)
        if offset and (chosen := metadata._table(field, name, found)):
            found[name] = value_of(table, offset, chosen)
    return found


def value_of(table: Table, offset: int, kind: str):
    if kind in ("byte", "float"):
        flags = number_types.Int8Flags if kind == "byte" else number_types.Float32Flags
        return table.Get(flags, table.Pos + offset)
    if kind == "string":
        return table.String(table.Pos + offset).decode()
    if kind == "[float]":
        return table.GetVectorAsNumpy(number_types.Float32Flags, offset).tolist()
    if not kind.startswith("["):
        return fields(Table(table.Bytes, table.Indirect(table.Pos + offset)), kind)
    places = [table.Vector(offset) + 4 * i for i in range(table.VectorLen(offset))]
    return [fields(Table(table.Bytes, table.Indirect(place)), kind[1:-1]) for place in places]


class TestMetadata:
    def test_is_read_as_it_was_written(self):
        assert unpacked(metadata.pack(FULL)) == FULL
        assert unpacked(metadata.pack({})) == {}

    @pytest.mark.parametrize("threshold", [0.0, 0.4123])
    def test_has_the_score_threshold_of_the_specification(self, tiny, threshold):
        (graph,) = unpacked(metadata.pack(described(tiny, threshold)))["subgraph_metadata"]
        (unit,) = graph["output_tensor_metadata"][0]["process_units"]
        assert unit["options_type"] == 3
        found = unit["options"].get("global_score_threshold", 0.0)  # 0 is the schema's default
        assert found == pytest.approx(threshold)

    @pytest.mark.parametrize(("channels", "space"), [(1, 2), (3, 1), (4, 0)])
    def test_says_which_colors_the_model_takes(self, channels, space):
        model = keras.Sequential([keras.Input((8, 8, channels)), keras.layers.Flatten()])
        said = unpacked(metadata.pack(described(model)))
        (image,) = said["subgraph_metadata"][0]["input_tensor_metadata"]
        assert image["content"]["content_properties"].get("color_space", 0) == space

    def test_says_what_a_file_takes_and_gives(self, any_file):
        said = said_in(any_file.path)
        assert said["description"] == "Image classifier of 10 classes, made with keras-resnet18."
        assert said["min_parser_version"] == "1.0.0"
        (graph,) = said["subgraph_metadata"]
        (image,), (output,) = graph["input_tensor_metadata"], graph["output_tensor_metadata"]
        assert (image["name"], output["name"]) == ("image", "probabilities")
        assert image["process_units"][0]["options"] == {"mean": [0.0], "std": [1.0]}
        assert output["associated_files"][0].items() >= {"name": "labels.txt", "type": 2}.items()
        assert "32×32" in image["description"]
        assert not {"author", "license"} & said.keys()  # unless it is told

    def test_has_the_version_of_the_weights(self, float32_file, int8_file, build_tiny):
        version = said_in(float32_file.path)["version"]
        assert said_in(int8_file.path)["version"] == version and len(version) == 12
        model = build_tiny()
        one = described(model)
        model.set_weights([weights + 1 for weights in model.get_weights()])
        assert one["version"] != described(model)["version"]

    def test_says_what_it_is_told(self, tiny, tmp_path):
        about = {"author": "A. Lee", "license": "CC-BY-4.0", "name": "three of a kind"}
        export_tflite(tiny, tmp_path / "told.tflite", about=about)
        assert about.items() <= said_in(tmp_path / "told.tflite").items()


@pytest.fixture
def as_converted(int8_file, tmp_path):
    """A copy of the int8 file that the converter gave, with its softmax in int8."""
    return shutil.copy(int8_file.converted, tmp_path / "converted.tflite")


def append_labels(path, labels):
    append_files(path, {"labels.txt": "".join(f"{label}\n" for label in labels)})


def test_a_softmax_kept_in_float_gives_the_same_to_a_256th(as_converted, held_out):
    images = held_out[0][:30]
    coarse = TFLiteFile(as_converted)(images)
    keep_softmax_float(as_converted)
    fine = TFLiteFile(as_converted)(images)
    np.testing.assert_array_equal(coarse * 256, np.rint(coarse * 256))  # the fault that is mended
    assert len(np.unique(fine)) > len(np.unique(coarse))
    np.testing.assert_allclose(fine, coarse, atol=1.5 / 256)
    np.testing.assert_allclose(fine.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("quantize", ["dynamic", "int8"])
def test_what_the_gpu_engine_gets_wrong_is_written_otherwise(quantize, colored_digits, tmp_path):
    images = colored_digits[0][:50, :31]  # 31×32: a stride of 2 leaves a row over
    image = keras.Input(images.shape[1:])
    x = keras.layers.Conv2D(32, 1, strides=2, activation="relu")(image)
    x = keras.layers.Conv2D(64, 1, strides=(3, 2), padding="same")(x)
    x = keras.layers.Conv2D(64, (6, 8))(x)
    x = keras.layers.Add()([keras.layers.Conv2D(64, 1)(x), keras.layers.Conv2D(64, 1)(x)])
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))
    converted = tmp_path / "converted.tflite"
    tflite._convert(model, converted, quantize, images if quantize == "int8" else None)
    assert contents(converted).operators["RESHAPE"] == 1
    path = shutil.copy(converted, tmp_path / "rewritten.tflite")
    rewrite_for_gpu(path)
    operators = contents(path).operators
    assert (operators["MAX_POOL_2D"], operators["CONV_2D"]) == (2, 5)
    assert "RESHAPE" not in operators
    before, after = (TFLiteFile(file)(images) for file in (converted, path))
    # a dynamic file takes the range of a convolution's input, which now has fewer pixels
    tolerance = 0 if quantize == "int8" else 0.03 * abs(before).max()
    np.testing.assert_allclose(after, before, rtol=0, atol=tolerance)
    once = path.read_bytes()
    rewrite_for_gpu(path)
    assert path.read_bytes() == once


@pytest.mark.parametrize("labels", [["crane", "crane"], ["chat, félin", " two words ", "猫"]])
def test_labels_and_metadata_are_read_back_and_change_no_answer(as_converted, held_out, labels):
    before = TFLiteFile(as_converted)(held_out[0][:1])
    assert contents(as_converted).labels is None
    add_metadata(as_converted, metadata.pack({"name": "digits"}))
    append_labels(as_converted, labels)
    assert contents(as_converted).labels == labels
    assert said_in(as_converted) == {"name": "digits"}
    np.testing.assert_array_equal(TFLiteFile(as_converted)(held_out[0][:1]), before)


def test_labels_of_another_name_are_those_of_the_first_text(as_converted):
    with zipfile.ZipFile(as_converted, "a") as archive:
        archive.writestr("labels_en.txt", "cat\r\nsea lion")
    assert contents(as_converted).labels == ["cat", "sea lion"]


def test_the_kind_of_quantization_is_told_by_the_tensors(any_file):
    assert TFLITE[quantization(any_file.path)] == any_file.report.format


def test_contents_of_a_file_that_cannot_be_run_here_are_read(as_converted):
    model = flatbuffer_utils.read_model(str(as_converted))
    model.operatorCodes[0].builtinCode = 9999  # from the future
    flatbuffer_utils.write_model(model, str(as_converted))
    with pytest.raises(InputError, match="cannot be run"):
        TFLiteFile(as_converted)
    found = contents(as_converted)
    assert found.operators["operator 9999"] >= 1
    assert found.labels is None


@pytest.mark.parametrize("content", [b"", b"no flatbuffer at all"])
def test_contents_of_something_else_are_none(tmp_path, content):
    path = tmp_path / "a.tflite"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"the mark TFL3. Received: {path}, without"):
        contents(path)


def test_contents_of_a_damaged_file_are_read_or_refused_in_one_line(int8_file, tmp_path):
    path, whole = tmp_path / "damaged.tflite", int8_file.path.read_bytes()
    random, refused = np.random.default_rng(0), 0
    heads = [whole[:length] for length in (8, 100, 10_000, len(whole) // 2, len(whole) - 100)]
    for _ in range(20):
        damaged = bytearray(whole)
        for place in random.integers(8, 3000, 5):
            damaged[place] = random.integers(256)
        heads.append(bytes(damaged))
    for content in heads:
        path.write_bytes(content)
        try:
            contents(path)
        except InputError as error:
            refused += 1
            assert str(path) in str(error)
            assert "\n" not in str(error)
    assert refused > 5
