"""What ships, opened by the programs that people open it with, none of which know this package."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from keras_resnet18.classify.classifier import Classifier
from keras_resnet18.images import read_image
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.spec import ClassifierSpec


def sideways_photo() -> bytes:
    """A JPEG as a phone writes it that was held upright: stored lying, with a note in its EXIF."""
    y, x = np.mgrid[:48, :80]
    pixels = np.stack([3 * x, 5 * y, 255 - 3 * x], -1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90, exif=exif)
    return file.getvalue()


# Answers by a SavedModel's endpoints, then shows them with TensorFlow's own saved_model_cli.
STRANGER = """
import sys
sys.modules["keras_resnet18"] = sys.modules["keras"] = None
import json, runpy, numpy as np, tensorflow as tf
folder, images, photo = sys.argv[1:]
endpoints = tf.saved_model.load(folder).signatures
def answer(name, **inputs):
    outputs = endpoints[name](**{key: tf.constant(value) for key, value in inputs.items()})
    return {key: value.numpy().astype(str).tolist() for key, value in outputs.items()}
images, photo = np.load(images), open(photo, "rb").read()
print(json.dumps({
    "serving_default": answer("serving_default", image=images),
    "one": answer("serving_default", image=images[:1]),
    "serve_pixels": answer("serve_pixels", image=images),
    "features": answer("features", image=images),
    "serve_bytes": answer("serve_bytes", image_bytes=[photo, photo]),
    "labels": answer("labels"),
}))
sys.argv[1:] = ["show", "--dir", folder, "--tag_set", "serve", "--all"]
runpy.run_module("tensorflow.python.tools.saved_model_cli", run_name="__main__")
"""


@pytest.fixture(scope="module")
def told(served, coloured_digits, tmp_path_factory):
    """What a process tells of a SavedModel where this package and Keras cannot be imported.

    The answers of its endpoints to five digits and to a photo, and what saved_model_cli shows.
    """
    folder = tmp_path_factory.mktemp("stranger")
    np.save(folder / "images.npy", coloured_digits[0][:5])
    (folder / "photo.jpg").write_bytes(sideways_photo())
    files = [served.path, folder / "images.npy", folder / "photo.jpg"]
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, *map(str, files)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers, _, shown = done.stdout.partition("\n")
    return json.loads(answers), shown


def test_a_saved_model_answers_where_neither_this_package_nor_keras_can_be_imported(
    told, classifier, coloured_digits, labels, tmp_path
):
    found, _ = told
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(sideways_photo())

    def values(endpoint, output="probabilities"):
        return np.array(found[endpoint][output], np.float32)

    spec = Preprocess(size=(32, 32))
    cropped = spec.resize_and_crop(coloured_digits[0][:5]).numpy()
    for endpoint, pixels in (
        ("serving_default", cropped),
        ("serve_pixels", coloured_digits[0][:5]),
    ):
        expected = classifier.predict(pixels, verbose=0)
        np.testing.assert_allclose(values(endpoint), expected, atol=1e-6)
    np.testing.assert_allclose(values("one"), values("serving_default")[:1], atol=1e-6)
    assert found["labels"]["labels"] == labels

    head = classifier.get_layer("predictions")
    scores = values("features", "features") @ head.kernel.numpy() + head.bias.numpy()
    np.testing.assert_array_equal(scores.argmax(1), values("serving_default").argmax(1))
    assert values("features", "features").shape == (5, 512)

    pixels = spec.resize_and_crop(read_image(photo)).numpy()[np.newaxis]
    whole = ClassifierSpec(tuple(labels), spec)
    ((best, _),) = Classifier(classifier.predict_on_batch, whole, None).answer(pixels, 5)
    for names, numbers in zip(found["serve_bytes"]["labels"], values("serve_bytes"), strict=True):
        assert names == [name for name, _ in best]
        np.testing.assert_allclose(numbers, [value for _, value in best], atol=1e-6)


def test_tensorflows_saved_model_cli_reads_the_signatures(told):
    printed = " ".join(told[1].split())
    _, *parts = re.split(r"signature_def\['(\w+)'\]:", printed)
    signatures = dict(zip(parts[::2], parts[1::2], strict=True))
    for words in (
        "inputs['image'] tensor_info: dtype: DT_UINT8 shape: (-1, -1, -1, 3)",
        "outputs['probabilities'] tensor_info: dtype: DT_FLOAT shape: (-1, 10)",
    ):
        assert words in signatures["serving_default"]
    for words in (
        "inputs['image_bytes'] tensor_info: dtype: DT_STRING shape: (-1)",
        "outputs['labels'] tensor_info: dtype: DT_STRING shape: (-1, 5)",
        "outputs['probabilities'] tensor_info: dtype: DT_FLOAT shape: (-1, 5)",
    ):
        assert words in signatures["serve_bytes"]


def test_onnx_runtime_gives_the_models_answers_and_their_names(
    onnx_file, small_classifier, coloured_digits, labels
):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    session = onnxruntime.InferenceSession(onnx_file.path, providers=["CPUExecutionProvider"])
    for images in (coloured_digits[0][:1], coloured_digits[0][:5]):
        (got,) = session.run(["probabilities"], {"image": images})
        np.testing.assert_allclose(got, small_classifier.predict(images, verbose=0), atol=1e-5)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classifier"])["labels"] == labels
