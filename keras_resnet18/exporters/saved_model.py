"""A model as a SavedModel for servers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_resnet18.classify.exported import SPEC_IN_SAVED_MODEL, Predict, SavedModelFolder
from keras_resnet18.errors import ExportError
from keras_resnet18.exporters import graph
from keras_resnet18.exporters.compare import ExportReport, export_verified, pixel_batches
from keras_resnet18.exporters.image_bytes import decode
from keras_resnet18.files import FLOAT32_TOLERANCE, INPUT, OUTPUT
from keras_resnet18.spec import SPEC_FILE, ClassifierSpec

# How many classes `serve_bytes` names
TOP = 5

# An endpoint and its output, and the layer that gives it, as our builders name it
FEATURES, _POOL = "features", "head_pool"

# An image side for models that take any size
_ANY_SIDE = 64

# (height, width) of the images that the endpoints are checked with: one higher, one wider
_IMAGE_SIZES = ((61, 37), (43, 75))

# Of the largest feature: TF32 on a GPU, which is no fault of the export, has 10 bits
_FEATURE_TOLERANCE = 1e-2


def export_saved_model(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    spec: ClassifierSpec | None = None,
    labels: Sequence[str] | None = None,
    check: Any = None,
) -> ExportReport:
    """Writes a SavedModel that takes images and gives probabilities, verified by TensorFlow.

    `tf.saved_model.load` opens it without this package and without Keras. It is written only if it
    gives the model's answers; its figures are beside it, in `<name>.json`. It has the signatures

    - `serving_default`: `image`, uint8 (batch, height, width, 3) of any batch and any size, RGB of
      0 to 255 → `probabilities`, float32 (batch, classes). The images are first prepared as
      `spec.preprocess` says, those of the model's own size too: the answer is the one that
      `keras-resnet18 predict` gives for the image.
    - `serve_pixels`: `image`, uint8 (batch, *size, 3) of the model's size → `probabilities`, of
      the pixels as they are: what the .tflite and .onnx files compute.
    - `serve_bytes`: `image_bytes`, strings (batch,), each a whole JPEG or PNG file → `labels`,
      strings (batch, k), and `probabilities`, float32 (batch, k), of the k = 5 most probable
      classes (of all, if there are fewer), the best one first. The EXIF orientation of a JPEG is
      applied, that of a PNG is not (`predict` applies both); transparency is blended over white. A
      file of another format, a broken one or one of over 89,478,485 pixels fails its whole request
      with an InvalidArgumentError.
    - `features`: the input of `serving_default` → `features`, float32 (batch, 512), the pooled
      vector before the classifier; only if the model has a layer `head_pool`, as all of ours have.
    - `labels`: nothing → `labels`, strings (classes,), in the order of `probabilities`.

    `assets.extra/classifier.json` holds the specification. Where it has no preprocessing, because
    the model has another number of channels than 3 or takes images of any size itself,
    `serving_default` and `features` take pixels of the model's input shape as they are, and
    `serve_pixels` and `serve_bytes` are left out.

    Args:
        model: A classifier that takes pixels of 0 to 255; with softmax or logits.
        path: The folder to write; a SavedModel that exists there is replaced.
        spec: Specification of the classifier: class names, preprocessing, score threshold. A run
            has its own, `run.spec`.
        labels: Class names in the order of the model's output, where there is no `spec`; by default
            the classes' numbers. Images are then resized until they cover the model's size.
            Named weights have a preprocessing that crops a little more,
            `find_weights("imagenet").preprocess`.
        check: Held-out images of the model's input shape to compare on: a `tf.data.Dataset` or
            arrays, of images or (image, label), batched or not; with labels, top-1 accuracy is
            measured too. By default noise, on which accuracy is not measured.

    Returns:
        Size, largest difference, accuracy, latency: `print` it.

    Raises:
        InputError: If an argument cannot be used; the message says which and why.
        ExportError: If the SavedModel does not give the model's answers. Nothing is written then.
    """
    graph.check_model(model)
    spec = graph.spec_of(model, spec, labels)
    preprocess = spec.preprocess
    shape = model.input_shape[1:] if preprocess is None else (*preprocess.size, 3)
    if check is None:
        shape = tuple(side or _ANY_SIDE for side in shape)

    def write(twin: keras.Model, new: Path) -> tuple[Predict, dict[str, int]]:
        _write_endpoints(twin, new, spec)
        file = new / SPEC_IN_SAVED_MODEL
        file.parent.mkdir(exist_ok=True)
        file.write_text(spec.to_json(), encoding="utf-8")
        served = SavedModelFolder(new)
        _check_endpoints(served, twin, shape, spec)
        return served, {}

    batches = None if check is None else pixel_batches(check, shape, argument="check")
    return export_verified("saved_model", Path(path), model, write, shape=shape, batches=batches)


def _write_endpoints(model: keras.Model, path: Path, spec: ClassifierSpec) -> None:
    """Writes a float32 model as a SavedModel for servers; `export_saved_model` has its signatures.

    Without `spec.preprocess`, `image` is pixels of the model's own shape everywhere, and there is
    no `serve_pixels` and no `serve_bytes`.
    """
    preprocess = spec.preprocess
    shape = model.input_shape[1:] if preprocess is None else (*preprocess.size, 3)
    pixels = tf.TensorSpec((None, *shape), "uint8", INPUT)
    images = pixels if preprocess is None else tf.TensorSpec((None, None, None, 3), "uint8", INPUT)
    files = tf.TensorSpec((None,), "string", "image_bytes")
    # a function of its own, so that the network is traced once and not for every endpoint
    network = tf.function(_answering(model), input_signature=[pixels], autograph=False)

    def prepared(image: Any) -> Any:
        return image if preprocess is None else preprocess.resize_and_crop(image)

    def decoded(image_bytes: Any) -> Any:
        spec = tf.TensorSpec(shape, "uint8")
        return tf.map_fn(lambda file: prepared(decode(file)), image_bytes, fn_output_signature=spec)

    def one_of(name: str, image: Any) -> dict[str, Any]:
        return {name: network(image)[name]}

    archive = keras.export.ExportArchive()
    archive.add_endpoint("serving_default", lambda image: one_of(OUTPUT, prepared(image)), [images])
    if FEATURES in network.get_concrete_function().structured_outputs:
        archive.add_endpoint(FEATURES, lambda image: one_of(FEATURES, prepared(image)), [images])
    if preprocess is not None:
        archive.add_endpoint("serve_pixels", lambda image: one_of(OUTPUT, image), [pixels])
        archive.add_endpoint(
            "serve_bytes",
            lambda image_bytes: _best(network(decoded(image_bytes))[OUTPUT], spec.labels),
            [files],
        )
    archive.add_endpoint("labels", lambda: {"labels": tf.constant(list(spec.labels))}, [])
    archive.write_out(str(path), verbose=False)


def _answering(model: keras.Model) -> Callable[[Any], dict[str, Any]]:
    """A function from pixels of 0 to 255 to `probabilities` and, with `head_pool`, `features`."""
    if _POOL not in {layer.name for layer in model.layers}:
        return lambda pixels: {OUTPUT: graph.probabilities(model, pixels)}
    both = keras.Model(model.inputs[0], [model.outputs[0], model.get_layer(_POOL).output])

    def answers(pixels: Any) -> dict[str, Any]:
        scores, pooled = both(tf.cast(pixels, model.inputs[0].dtype), training=False)
        return {
            OUTPUT: graph.as_probabilities(scores, model),
            FEATURES: tf.cast(pooled, tf.float32),
        }

    return answers


def _best(scores: Any, labels: Sequence[str]) -> dict[str, Any]:
    """The most probable classes of each image, the best one first, and their probabilities."""
    classes = scores.shape[-1]
    best = tf.math.top_k(scores, k=min(TOP, classes))
    names = tf.constant(list(labels))
    return {"labels": tf.gather(names, best.indices), OUTPUT: best.values}


def _check_endpoints(
    served: SavedModelFolder, twin: keras.Model, shape: tuple[int, ...], spec: ClassifierSpec
) -> None:
    """Raises ExportError unless all endpoints answer as the one for pixels, compared later."""
    rng = np.random.default_rng(0)
    names, preprocess = spec.labels, spec.preprocess
    answers = _answering(twin)
    _require(served.spec == spec, SPEC_FILE)
    served_names = [name.decode() for name in served.endpoint("labels")["labels"]]
    _require(served_names == list(names), "labels")
    for size in [shape[:2]] if preprocess is None else _IMAGE_SIZES:
        images = rng.integers(0, 256, (2, *size, shape[-1]), np.uint8)
        pixels = images if preprocess is None else preprocess.resize_and_crop(images).numpy()
        expected = served(pixels)
        got = served.endpoint("serving_default", image=images)[OUTPUT]
        _require(_near(got, expected), "serving_default")
        features = answers(pixels).get(FEATURES)
        if features is not None:
            got = served.endpoint(FEATURES, image=images)[FEATURES]
            tolerance = _FEATURE_TOLERANCE * abs(features.numpy()).max()
            _require(_near(got, features.numpy(), tolerance), FEATURES)
        if preprocess is not None:
            files = [tf.io.encode_png(image).numpy() for image in images]
            best = served.endpoint("serve_bytes", image_bytes=files)
            _require(_are_best(best, expected, names), "serve_bytes")


def _are_best(
    best: dict[str, Any], probabilities: np.ndarray[Any, Any], names: Sequence[str]
) -> bool:
    """Whether the largest probabilities come with their names, in whichever order equal ones do."""
    values = best[OUTPUT]
    largest = -np.sort(-probabilities)[:, : values.shape[1]]
    its_name = best["labels"][..., np.newaxis] == np.array([x.encode() for x in names], object)
    its_value = abs(values[..., np.newaxis] - probabilities[:, np.newaxis]) <= FLOAT32_TOLERANCE
    return _near(values, largest) and bool((its_name & its_value).any(-1).all())


def _near(got: Any, expected: Any, tolerance: float = FLOAT32_TOLERANCE) -> bool:
    return bool((abs(got - expected) <= tolerance).all())  # NaN is near nothing


def _require(right: bool, endpoint: str) -> None:
    if not right:
        raise ExportError(
            f"the SavedModel's {endpoint} does not give the model's answers; nothing was written"
        )
