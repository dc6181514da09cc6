"""A .tflite file says what it is in TFLite Metadata, and what others say there can be read."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_resnet18 import export_tflite
from keras_resnet18 import tflite_file as metadata
from keras_resnet18.errors import InputError
from keras_resnet18.spec import ClassifierSpec
from keras_resnet18.tflite_file import contents

FULL = {
    "name": "insects",
    "description": "Ameisen, Bienen und 蝉",
    "version": "2.1",
    "subgraph_metadata": [
        {
            "name": "main",
            "description": "all of it",
            "input_tensor_metadata": [
                {
                    "name": "image",
                    "description": "a photo",
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
                {
                    "name": "scores",
                    "associated_files": [
                        {"name": "notes.txt", "description": "for people", "type": 1},
                        {"name": "labels_en.txt", "type": 2},
                    ],
                }
            ],
        }
    ],
    "author": "A. Lee",
    "license": "CC-BY-4.0",
    "associated_files": [{"name": "readme.md"}],
    "min_parser_version": "1.0.0",
}


def described(model: keras.Model, threshold: float | None = None) -> dict:
    return metadata.describe_model(model, ClassifierSpec(("a", "b", "c"), None, threshold), {})


class TestBuffer:
    def test_gives_back_what_was_put_in(self):
        assert metadata.unpack(metadata.pack(FULL)) == FULL
        assert metadata.unpack(metadata.pack({})) == {}

    def test_begins_with_the_schemas_identifier(self):
        assert metadata.pack({})[4:8] == b"M001"

    def test_leaves_other_choices_of_a_union_unread(self):
        tokenizer = {"options_type": 4}
        unread = metadata.pack(
            {"subgraph_metadata": [{"input_tensor_metadata": [{"process_units": [tokenizer]}]}]}
        )
        said = metadata.unpack(unread)
        (graph,) = said["subgraph_metadata"]
        assert graph["input_tensor_metadata"] == [{"process_units": [{"options_type": 4}]}]
        assert metadata.normalization(said) is None

    def test_that_is_broken_anywhere_is_told_or_read(self):
        whole = metadata.pack(FULL)
        random = np.random.default_rng(0)
        broken = [whole[:length] for length in range(8, len(whole))]
        for _ in range(500):
            damaged = bytearray(whole)
            damaged[random.integers(8, len(whole))] = random.integers(256)
            broken.append(bytes(damaged))
        told = 0
        for buffer in broken:
            try:
                metadata.unpack(buffer)
            except InputError as error:
                told += 1
                assert str(error).endswith(f"Received: {len(buffer)} broken bytes")
        assert told > len(broken) / 4

    @pytest.mark.parametrize("buffer", [b"", b"\0" * 20, b"\x10\0\0\0TFL3"])
    def test_that_is_something_else_is_told(self, buffer):
        with pytest.raises(InputError, match=r"identifier b'M001'\. Received: b'"):
            metadata.unpack(buffer)

    def test_names_the_labels_and_the_normalisation_wherever_they_are(self):
        assert metadata.labels_file(FULL) == "labels_en.txt"
        assert metadata.normalization(FULL) == ([0.5, 1.0, -2.0], [0.25])
        assert metadata.labels_file({}) is None and metadata.normalization({}) is None

    @pytest.mark.parametrize("threshold", [0.0, 0.4123, 1.0])
    def test_keeps_the_score_threshold_of_the_output(self, tiny, threshold):
        read = metadata.unpack(metadata.pack(described(tiny, threshold)))
        assert metadata.score_threshold(read) == threshold
        assert metadata.normalization(read) == ([0.0], [1.0])
        assert metadata.score_threshold(FULL) is None


class TestFile:
    def test_says_what_it_takes_and_gives(self, any_file, labels):
        said = contents(any_file.path).metadata
        assert said["description"] == "Image classifier of 10 classes, made with keras-resnet18."
        assert said["min_parser_version"] == "1.0.0"
        assert metadata.normalization(said) == ([0.0], [1.0])
        assert metadata.labels_file(said) == "labels.txt"
        (graph,) = said["subgraph_metadata"]
        (image,), (output,) = graph["input_tensor_metadata"], graph["output_tensor_metadata"]
        assert (image["name"], output["name"]) == ("image", "probabilities")
        assert image["content"] == {
            "content_properties_type": 2,
            "content_properties": {"color_space": 1},  # RGB
        }
        assert "32×32" in image["description"]
        assert contents(any_file.path).labels == labels

    def test_says_nothing_of_author_and_licence_unless_it_is_told(self, any_file):
        assert not {"author", "license"} & contents(any_file.path).metadata.keys()

    def test_has_the_version_of_its_weights(self, float32_file, int8_file, build_tiny):
        version = contents(float32_file.path).metadata["version"]
        assert contents(int8_file.path).metadata["version"] == version and len(version) == 12
        model = build_tiny()
        one = described(model)
        model.set_weights([weights + 1 for weights in model.get_weights()])
        assert one["version"] != described(model)["version"]

    @pytest.mark.parametrize(("channels", "space"), [(1, 2), (3, 1), (4, 0)])
    def test_says_which_colours_it_takes(self, channels, space):
        model = keras.Sequential([keras.Input((8, 8, channels)), keras.layers.Flatten()])
        said = metadata.unpack(metadata.pack(described(model)))
        (image,) = said["subgraph_metadata"][0]["input_tensor_metadata"]
        assert image["content"]["content_properties"].get("color_space", 0) == space

    def test_says_what_it_is_told(self, tiny, tmp_path):
        about = {"author": "A. Lee", "license": "CC-BY-4.0", "name": "three of a kind"}
        path = tmp_path / "told.tflite"
        export_tflite(tiny, path, labels=["a", "b", "c"], about=about)
        assert about.items() <= contents(path).metadata.items()
