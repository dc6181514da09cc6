"""export_saved_model writes a folder that any TensorFlow opens, answering as the model does."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet18 import Preprocess, build_resnet18, export_saved_model, identity_block
from keras_resnet18.classify.exported import SavedModelFolder
from keras_resnet18.errors import ExportError, InputError
from keras_resnet18.exporters import graph, saved_model
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
        "features": (images, {"features": ("float32", None, 512)}),
        "labels": ({}, {"labels": ("string", 10)}),
    }
    assert {
        name: (specs(f.structured_input_signature[1]), specs(f.structured_outputs))
        for name, f in signatures.items()
    } == expected


def test_holds_every_weight_once(served, classifier):
    weights = 4 * classifier.count_params()
    assert weights < served.size_bytes < 1.02 * weights
    assert served.size_bytes == sum(
        file.stat().st_size for file in served.path.rglob("*") if file.is_file()
    )


def test_reports_that_it_gives_the_models_answers(served):
    found = served.comparison
    assert (found.n, found.agreement, found.accuracy) == (16, 1.0, None)
    assert found.max_difference < 1e-5
    assert served.latency_ms > 0 and served.format == "saved_model"
    assert str(served).startswith(f"{served.path}: saved_model, 45.")


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


def test_pixels_of_the_models_size_stay_as_they_are_unless_a_crop_is_asked_for(tiny, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    export_saved_model(tiny, tmp_path / "a")
    got = SavedModelFolder(tmp_path / "a").endpoint("serving_default", image=pixels)
    np.testing.assert_allclose(got["probabilities"], tiny.predict(pixels, verbose=0), atol=1e-6)
    preprocess = Preprocess(size=(8, 8), crop_ratio=0.5)
    spec = ClassifierSpec(("a", "b", "c"), preprocess, 0.4)
    export_saved_model(tiny, tmp_path / "b", spec=spec)
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


def test_is_compared_on_check_images_with_their_labels(tiny, tiny_images, tmp_path):
    labels = tiny.predict(tiny_images, verbose=0).argmax(1)
    report = export_saved_model(tiny, tmp_path / "a", check=(tiny_images, labels))
    assert (report.comparison.n, report.comparison.accuracy) == (40, 1.0)


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


def test_that_differs_from_the_model_is_refused_and_the_old_one_stays(tiny, tmp_path, monkeypatch):
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


@pytest.mark.parametrize(
    "make",
    [
        lambda x: keras.layers.Dense(3)(x),
        lambda x: keras.layers.Activation("linear")(keras.layers.Dense(3)(x)),
        lambda x: keras.layers.Dense(3, activation="softmax")(x),
        lambda x: keras.layers.Softmax()(keras.layers.Dense(3)(x)),
        lambda x: keras.layers.Activation("linear")(keras.layers.Dense(3, activation="softmax")(x)),
    ],
    ids=["logits", "logits, cast", "softmax", "softmax layer", "softmax, cast"],
)
@pytest.mark.parametrize("nested", [False, True], ids=["", "inside another model"])
def test_probabilities_are_made_of_logits_and_left_as_they_are_otherwise(make, nested):
    image = keras.Input((4, 4, 1))
    model = keras.Model(image, make(keras.layers.Flatten()(image)))
    if nested:
        model = keras.Sequential([keras.Input((4, 4, 1)), model])
    pixels = np.random.default_rng(0).integers(0, 4, (5, 4, 4, 1), dtype=np.uint8)
    raw = model.predict(pixels, verbose=0)
    sums_to_one = np.allclose(raw.sum(1), 1)
    expected = raw if sums_to_one else keras.ops.softmax(raw)
    np.testing.assert_allclose(graph.probabilities(model, pixels), expected, atol=1e-6)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_float32_twin_computes_in_float32_down_to_nested_models(policy, set_dtype_policy):
    set_dtype_policy(policy)
    inner = build_resnet18(
        stem="small", input_shape=(8, 8, 3), include_top=False, pooling=(2, 1), name="inner"
    )
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3), dtype="uint8"),
            keras.layers.Rescaling(1.0),
            inner,
            keras.layers.Flatten(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    twin = graph.float32_twin(model)
    computing = [x for x in graph.leaves(twin) if not isinstance(x, keras.layers.InputLayer)]
    assert {layer.compute_dtype for layer in computing} == {"float32"}
    assert {weight.dtype for weight in twin.weights} == {"float32"}
    for mine, its in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(mine.astype("float32"), its)
    assert (twin is model) == (policy == "float32")


class TestArguments:
    def test_a_folder_that_is_no_saved_model_is_not_replaced(self, tiny, tmp_path):
        (tmp_path / "mine").write_text("mine")
        with pytest.raises(InputError, match="exists and is not a SavedModel"):
            export_saved_model(tiny, tmp_path)
        assert (tmp_path / "mine").read_text() == "mine"

    def test_a_file_is_not_replaced(self, tiny, tmp_path):
        path = tmp_path / "mine"
        path.write_text("mine")
        with pytest.raises(InputError, match="exists and is not a SavedModel"):
            export_saved_model(tiny, path)
        assert path.read_text() == "mine"

    def test_a_path_below_a_file_is_none(self, tiny, tmp_path):
        (tmp_path / "file").write_text("mine")
        with pytest.raises(InputError, match=r"below the file \S+file$"):
            export_saved_model(tiny, tmp_path / "file" / "model")

    def test_labels_must_be_as_many_as_classes(self, tiny, tmp_path):
        with pytest.raises(
            InputError, match=r"labels must be 3 names.*Received: 4, in the arguments$"
        ):
            export_saved_model(tiny, tmp_path / "a", labels=list("abcd"))
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("shape", [(8, 9, 3), (8, 8, 1)])
    def test_preprocessing_must_make_what_the_model_takes(self, tmp_path, shape):
        image = keras.Input(shape)
        flat = keras.layers.Flatten()(image)
        model = keras.Model(image, keras.layers.Dense(2, activation="softmax")(flat))
        with pytest.raises(InputError, match=r"that the model takes, .*Received: 8×8×3"):
            export_saved_model(
                model, tmp_path / "a", spec=ClassifierSpec(("a", "b"), Preprocess(size=(8, 8)))
            )
        assert not list(tmp_path.iterdir())

    def test_a_feature_model_is_no_classifier(self, tmp_path):
        model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)])
        with pytest.raises(InputError, match=r"include_top=True. Received: .*\(None, 6, 6, 2\)$"):
            export_saved_model(model, Path(tmp_path / "a"))
        assert not list(tmp_path.iterdir())
