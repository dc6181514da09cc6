"""export_saved_model writes a folder that any TensorFlow opens, answering as the model does."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet18 import Preprocess, export_saved_model, identity_block
from keras_resnet18.classify.exported import SavedModelFolder
from keras_resnet18.errors import ExportError
from keras_resnet18.exporters import saved_model
from keras_resnet18.spec import ClassifierSpec


def test_names_types_and_shapes_are_the_documented_ones(served):
    signatures = tf.saved_model.load(str(served.path)).signatures

    def specs(given):
        return {key: (spec.dtype.name, *spec.shape.as_list()) for key, spec in given.items()}

    images = {"image": ("uint8", None, None, None, 3)}
    probabilities = {"probabilities": ("float32", None, 10)}
    best = {"labels": ("string", None, 5), "probabilities": ("float32", None, 5)}
    expected = {
        "serving_default": (images, probabilities),
        "serve_pixels": ({"image": ("uint8", None, 32, 32, 3)}, probabilities),
        "serve_bytes": ({"image_bytes": ("string", None)}, best),
        "features": (images, {"features": ("float32", None, 192)}),
        "labels": ({}, {"labels": ("string", 10)}),
    }
    assert {
        name: (specs(f.structured_input_signature[1]), specs(f.structured_outputs))
        for name, f in signatures.items()
    } == expected


def test_holds_every_weight_once(served, classifier):
    weights = 4 * classifier.count_params()
    assert weights < served.size_bytes < 1.1 * weights
    assert served.size_bytes == sum(
        file.stat().st_size for file in served.path.rglob("*") if file.is_file()
    )


def test_of_a_model_for_any_size_takes_any_size(tmp_path):
    image = keras.Input((None, None, 3))
    x = identity_block(keras.layers.Conv2D(8, 3)(image), 8, name="block")
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(4, activation="softmax")(x))
    export_saved_model(model, tmp_path / "any")
    served = tf.saved_model.load(str(tmp_path / "any")).signatures["serving_default"]
    for shape in [(2, 17, 40, 3), (1, 33, 8, 3)]:
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        got = served(image=tf.constant(images))["probabilities"].numpy()
        np.testing.assert_allclose(got, model.predict(images, verbose=0), atol=1e-6)


def test_pixels_of_the_models_size_stay_unless_a_crop_is_asked_for(tiny, tiny_images, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    export_saved_model(tiny, tmp_path / "a")
    got = SavedModelFolder(tmp_path / "a").endpoint("serving_default", image=pixels)
    np.testing.assert_allclose(got["probabilities"], tiny.predict(pixels, verbose=0), atol=1e-6)
    preprocess = Preprocess(size=(8, 8), crop_ratio=0.5)
    spec = ClassifierSpec(("a", "b", "c"), preprocess, 0.4)
    labels = tiny.predict(tiny_images, verbose=0).argmax(1)
    report = export_saved_model(tiny, tmp_path / "b", spec=spec, check=(tiny_images, labels))
    assert (report.comparison.n, report.comparison.accuracy) == (40, 1.0)
    served = SavedModelFolder(tmp_path / "b")
    assert served.spec == spec
    got = served.endpoint("serving_default", image=pixels)["probabilities"]
    expected = tiny.predict(preprocess.resize_and_crop(pixels).numpy(), verbose=0)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_of_a_model_of_one_channel_takes_its_pixels(tmp_path):
    image = keras.Input((8, 6, 1))
    flat = keras.layers.Flatten()(image)
    model = keras.Model(image, keras.layers.Dense(2, activation="softmax")(flat))
    export_saved_model(model, tmp_path / "grey", labels=["a", "b"])
    served = SavedModelFolder(tmp_path / "grey")
    assert set(served.signatures) == {"serving_default", "labels"}
    assert (served.image_shape, served.spec) == ((8, 6, 1), ClassifierSpec(("a", "b"), None))


@pytest.mark.parametrize("endpoint", ["serving_default", "serve_bytes", "features", "labels"])
def test_an_endpoint_that_gives_other_answers_is_named(tiny, tmp_path, monkeypatch, endpoint):
    head = keras.layers.Dense(3, activation="softmax")
    model = keras.Sequential([*tiny.layers[:1], keras.layers.Flatten(name="head_pool"), head])
    model.build((None, 8, 8, 3))
    call = SavedModelFolder.endpoint

    def call_wrongly(self, name, **inputs):
        outputs = call(self, name, **inputs)
        return {k: v[..., ::-1] if name == endpoint else v for k, v in outputs.items()}

    monkeypatch.setattr(SavedModelFolder, "endpoint", call_wrongly)
    with pytest.raises(ExportError, match=f"the SavedModel's {endpoint} does not give"):
        export_saved_model(model, tmp_path / "a", labels=["a", "b", "c"])
    assert not list(tmp_path.iterdir())


def test_without_labels_the_classes_are_called_by_their_numbers(tiny, tmp_path):
    export_saved_model(tiny, tmp_path / "tiny")
    served = SavedModelFolder(tmp_path / "tiny")
    assert served.spec == ClassifierSpec(("0", "1", "2"), Preprocess(size=(8, 8), crop_ratio=1.0))
    pixels = np.zeros((1, 8, 8, 3), np.uint8)
    best = served.endpoint("serve_bytes", image_bytes=[tf.io.encode_png(pixels[0]).numpy()])
    order = (-served(pixels)[0]).argsort(kind="stable")
    assert best["labels"].tolist() == [[f"{i}".encode() for i in order]]


def test_exported_again_replaces_the_old_one_whole(tiny, tmp_path):
    path = tmp_path / "new" / "tiny"
    export_saved_model(tiny, path, labels=["a", "b", "c"])
    (path / "assets" / "of the old one").write_text("")
    export_saved_model(tiny, str(path), labels=["d", "e", "f"])
    served = tf.saved_model.load(str(path)).signatures
    assert served["labels"]()["labels"].numpy().tolist() == [b"d", b"e", b"f"]
    assert not (path / "assets" / "of the old one").exists()
    assert {file.name for file in path.parent.iterdir()} == {"tiny", "tiny.json"}


def test_that_differs_is_refused_and_the_old_stays(tiny, tmp_path, monkeypatch):
    path = tmp_path / "tiny"
    export_saved_model(tiny, path)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    write = saved_model._write_endpoints

    def write_bgr(model: keras.Model, *args, **kwargs) -> None:
        image = keras.Input((8, 8, 3))
        write(keras.Model(image, model(image[..., ::-1])), *args, **kwargs)

    monkeypatch.setattr(saved_model, "_write_endpoints", write_bgr)
    with pytest.raises(ExportError, match=r"by up to .* on 16 images"):
        export_saved_model(tiny, path)
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    assert {file.name for file in tmp_path.iterdir()} == {"tiny", "tiny.json"}


def test_whose_outputs_are_no_probabilities_is_refused(tiny, tmp_path):
    sigmoid = keras.Model(tiny.inputs[0], keras.layers.Activation("sigmoid")(tiny.outputs[0]))
    with pytest.raises(ExportError, match=r"do not sum to 1 on 16 images.*must end in a softmax"):
        export_saved_model(sigmoid, tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_16_bit_files_are_refused_where_the_training_scaled_them(tiny, tmp_path):
    deep, plain = (tf.io.encode_png(np.full((8, 8, 1), 9, kind)).numpy() for kind in ("u2", "u1"))
    for max_value in (4095, 65535):
        preprocess = Preprocess(size=(8, 8), crop_ratio=1.0, max_value=max_value)
        spec = ClassifierSpec(("a", "b", "c"), preprocess)
        export_saved_model(tiny, tmp_path / "tiny", spec=spec)
        served = SavedModelFolder(tmp_path / "tiny")
        assert served.spec == spec
        assert served.endpoint("serve_bytes", image_bytes=[plain])["labels"].shape == (1, 3)
        if max_value == 65535:
            assert served.endpoint("serve_bytes", image_bytes=[deep])["labels"].shape == (1, 3)
            continue
        with pytest.raises(tf.errors.InvalidArgumentError, match="8 bits, scaled before by max_va"):
            served.endpoint("serve_bytes", image_bytes=[deep])
