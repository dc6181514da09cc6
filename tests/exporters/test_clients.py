"""What ships, opened by the programs that people open it with, none of which know this package."""

from __future__ import annotations

import json

import numpy as np
import pytest
from corpus import encoded, exif, smooth_image

from keras_resnet18.classify.classifier import Classifier
from keras_resnet18.images import decode_image
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.spec import ClassifierSpec

STRANGER = """
import sys
sys.modules["keras_resnet18"] = sys.modules["keras"] = None
import json, numpy as np, tensorflow as tf
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
"""


def test_a_saved_model_answers_where_neither_this_package_nor_keras_can_be_imported(
    served, classifier, colored_digits, labels, run_python, tmp_path
):
    images, files = colored_digits[0][:5], (tmp_path / "images.npy", tmp_path / "photo.jpg")
    photo = encoded(smooth_image(48, 80), "JPEG", exif=exif(6))  # of a phone held upright
    np.save(files[0], images)
    files[1].write_bytes(photo)
    told = json.loads(run_python(STRANGER, *map(str, (served.path, *files))))

    def values(endpoint, output="probabilities"):
        return np.array(told[endpoint][output], np.float32)

    preprocess = Preprocess(size=(32, 32))
    cropped = preprocess.resize_and_crop(images).numpy()
    for endpoint, pixels in (("serving_default", cropped), ("serve_pixels", images)):
        expected = classifier.predict(pixels, verbose=0)
        np.testing.assert_allclose(values(endpoint), expected, atol=1e-6)
    np.testing.assert_allclose(values("one"), values("serving_default")[:1], atol=1e-6)
    assert told["labels"]["labels"] == labels

    head = classifier.get_layer("predictions")
    scores = values("features", "features") @ head.kernel.numpy() + head.bias.numpy()
    np.testing.assert_array_equal(scores.argmax(1), values("serving_default").argmax(1))
    assert values("features", "features").shape == (5, 192)

    pixels = preprocess.resize_and_crop(decode_image(photo)).numpy()[np.newaxis]
    spec = ClassifierSpec(tuple(labels), preprocess)
    ((best, _),) = Classifier(classifier.predict_on_batch, spec, None).answer(pixels, 5)
    for names, numbers in zip(told["serve_bytes"]["labels"], values("serve_bytes"), strict=True):
        assert names == [name for name, _ in best]
        np.testing.assert_allclose(numbers, [value for _, value in best], atol=1e-6)


def test_onnx_runtime_gives_answers_and_names(onnx_file, small_classifier, colored_digits, labels):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    session = onnxruntime.InferenceSession(onnx_file.path, providers=["CPUExecutionProvider"])
    for images in (colored_digits[0][:1], colored_digits[0][:5]):
        (got,) = session.run(["probabilities"], {"image": images})
        np.testing.assert_allclose(got, small_classifier.predict(images, verbose=0), atol=1e-5)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classifier"])["labels"] == labels
