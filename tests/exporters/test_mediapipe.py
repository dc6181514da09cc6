"""MediaPipe Tasks, in a process where nothing is ours, opens our files and gives their answers."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_resnet18.classify.exported import TFLiteFile
from keras_resnet18.exporters.tflite import export_tflite
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.spec import ClassifierSpec

pytestmark = [
    pytest.mark.mediapipe,
    pytest.mark.skipif(
        importlib.util.find_spec("mediapipe") is None, reason="needs the extra mediapipe"
    ),
]

# prints each photo's classes and their scores, the best one first
CLASSIFY = """
import json, sys
import mediapipe, numpy
from mediapipe.tasks.python import BaseOptions, vision

model, photos = sys.argv[1:]
options = vision.ImageClassifierOptions(base_options=BaseOptions(model_asset_path=model))
with vision.ImageClassifier.create_from_options(options) as classifier:
    for pixels in numpy.load(photos):
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
        found = classifier.classify(image).classifications[0].categories
        print(json.dumps([[one.category_name, one.score] for one in found]))
"""

# prints the metadata as MediaPipe's own module of the schema reads it
READ = """
import json, sys
from mediapipe.tasks.metadata import metadata_schema_py_generated as schema
from mediapipe.tasks.metadata import schema_py_generated as tflite

with open(sys.argv[1], "rb") as file:
    model = tflite.ModelT.InitFromObj(tflite.Model.GetRootAs(file.read(), 0))
(entry,) = (entry for entry in model.metadata if entry.name == b"TFLITE_METADATA")
buffer = model.buffers[entry.buffer].data.tobytes()
assert schema.ModelMetadata.ModelMetadataBufferHasIdentifier(buffer, 0)
metadata = schema.ModelMetadataT.InitFromObj(schema.ModelMetadata.GetRootAs(buffer, 0))
plain = lambda value: value.decode() if isinstance(value, bytes) else (
    value.tolist() if hasattr(value, "tolist") else vars(value)
)
print(json.dumps(metadata, default=plain))
"""


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    """20 parts of two real photos, uint8 (20, 32, 32, 3)."""
    from sklearn.datasets import load_sample_images

    parts = [
        photo[top : top + 210, left : left + 120]
        for photo in load_sample_images().images
        for top in (0, 210)
        for left in range(0, 640, 128)
    ]
    small = tf.image.resize(np.stack(parts), (32, 32), antialias=True)
    return np.rint(small.numpy()).astype(np.uint8)


def lines_of(program: str, *arguments: Path) -> list:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_its_image_classifier_names_what_the_interpreter_finds(any_file, labels, photos, tmp_path):
    np.save(tmp_path / "photos.npy", photos)
    answers = [best for best, *_ in lines_of(CLASSIFY, any_file.path, tmp_path / "photos.npy")]
    probabilities = TFLiteFile(any_file.path)(photos)
    assert [name for name, _ in answers] == [labels[i] for i in probabilities.argmax(1)]
    assert len({name for name, _ in answers}) > 2  # else this would show little
    tolerance = 0.02 if "int8" in any_file.report.format else 1e-4
    np.testing.assert_allclose(
        [score for _, score in answers], probabilities.max(1), atol=tolerance
    )


def test_its_image_classifier_obeys_the_score_threshold(small_classifier, labels, photos, tmp_path):
    np.save(tmp_path / "photos.npy", photos)
    highest = small_classifier.predict_on_batch(photos).max(1)
    threshold = float(np.median(highest))
    path = tmp_path / "digits.tflite"
    spec = ClassifierSpec(tuple(labels), Preprocess(size=(32, 32)), threshold)
    export_tflite(small_classifier, path, spec=spec)
    answers = lines_of(CLASSIFY, path, tmp_path / "photos.npy")
    assert [bool(classes) for classes in answers] == (highest >= threshold).tolist()
    assert sum(map(bool, answers)) == 10


def test_its_own_module_of_the_schema_reads_the_metadata(any_file):
    (read,) = lines_of(READ, any_file.path)
    assert read["description"] == "Image classifier of 10 classes, made with keras-resnet18."
    assert len(read["version"]) == 12
    assert (read["author"], read["license"]) == (None, None)
    assert read["minParserVersion"] == "1.0.0"
    (graph,) = read["subgraphMetadata"]
    (image,), (output,) = graph["inputTensorMetadata"], graph["outputTensorMetadata"]
    assert image["content"]["contentPropertiesType"] == 2  # ImageProperties
    assert image["content"]["contentProperties"]["colorSpace"] == 1  # RGB
    (unit,) = image["processUnits"]
    assert unit["optionsType"] == 1  # NormalizationOptions
    assert unit["options"] == {"mean": [0.0], "std": [1.0]}
    (file,) = output["associatedFiles"]
    assert (file["name"], file["type"]) == ("labels.txt", 2)  # TENSOR_AXIS_LABELS
