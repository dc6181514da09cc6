"""`export_saved_model`: a SavedModel for servers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_resnet18.classify.exported import SPEC_IN_SAVED_MODEL, SavedModelFolder
from keras_resnet18.errors import ExportError
from keras_resnet18.exporters import graph
from keras_resnet18.exporters.compare import ExportReport, export_verified, pixel_batches
from keras_resnet18.exporters.image_bytes import decode, refuse_16_bit
from keras_resnet18.files import FLOAT32_TOLERANCE, INPUT, OUTPUT
from keras_resnet18.preprocess import FULL_RANGE
from keras_resnet18.spec import SPEC_FILE, ClassifierSpec

# Number of classes that `serve_bytes` returns
TOP = 5

# Name of the endpoint and its output, and of the layer of our builders that gives it
FEATURES, _POOL = "features", "head_pool"

# Image side for comparing models that take any size
_ANY_SIDE = 64

# (height, width) of images for checking the endpoints, one tall and one wide
_IMAGE_SIZES = ((61, 37), (43, 75))

# Fraction of the largest feature: TF32 on a GPU has 10 bits, which is not the export's fault
_FEATURE_TOLERANCE = 1e-2


def export_saved_model(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    spec: ClassifierSpec | None = None,
    labels: Sequence[str] | None = None,
    check: Any = None,
) -> ExportReport:
    """Writes a SavedModel and verifies it with TensorFlow.

    `tf.saved_model.load` opens it without this package and without Keras. It is written only if it
    gives the model's answers; its report is beside it, in `<name>.json`. It has the signatures

    - `serving_default`: `image`, uint8 (batch, height, width, 3), RGB of any size with values of 0
      to 255 → `probabilities`, float32 (batch, classes). Images, even those of the model's input
      size, are first prepared by `spec.preprocess`, so the answers are those of
      `keras-resnet18 predict`.
    - `serve_pixels`: `image`, uint8 (batch, *size, 3) of the model's input size →
      `probabilities`. The pixels are not prepared; .tflite and .onnx files compute the same.
    - `serve_bytes`: `image_bytes`, strings (batch,), each a whole JPEG or PNG file → `labels`,
      strings (batch, k), and `probabilities`, float32 (batch, k), of the k = 5 most probable
      classes (all, if there are fewer), most probable first. The EXIF orientation of a JPEG is
      applied, that of a PNG is not (`predict` applies both). Transparent pixels are blended over
      white. A file of another format, a damaged file or one of over 89,478,485 pixels fails the
      whole request with an InvalidArgumentError, and so does a 16-bit PNG if
      `spec.preprocess.max_value` scales 16-bit images.
    - `features`: the input of `serving_default` → `features`, float32 (batch, 512), the pooled
      vector before the classifier; only if the model has a layer `head_pool`, as our builders make.
    - `labels`: no input → `labels`, strings (classes,), in the order of `probabilities`.

    `assets.extra/classifier.json` holds the specification. If it has no preprocessing, because the
    model does not have 3 channels or takes images of any size itself, `serving_default` and
    `features` take unprepared pixels of the model's input shape, and there is no `serve_pixels`
    and no `serve_bytes`.

    Args:
        model: A classifier that takes pixels of 0 to 255 and returns softmax probabilities or
            logits.
        path: Destination folder; an existing SavedModel is replaced.
        spec: Specification of the classifier: class names, preprocessing, score threshold. That of
            a run is `run.spec`.
        labels: Class names in the order of the model's output if there is no `spec`, by default the
            class numbers. Images are then resized to cover the model's input size. The
            preprocessing of named weights, which crops a little more, is
            `find_weights("imagenet").preprocess`.
        check: Held-out images of the model's input shape to compare on: a `tf.data.Dataset` or
            arrays, of images or (image, label), batched or not. With labels, top-1 accuracy is
            measured too. By default noise, on which accuracy is not measured.

    Returns:
        Report with size, largest difference, accuracy and latency.

    Raises:
        InputError: If an argument cannot be used; the message says which and why.
        ExportError: If the SavedModel does not give the model's answers. Nothing is written then.
    """
    model, spec = graph.prepared(model, spec, labels)
    shape = model.input_shape[1:] if spec.preprocess is None else (*spec.preprocess.size, 3)
    if check is None:
        shape = tuple(side or _ANY_SIDE for side in shape)

    def write(twin: keras.Model, new: Path) -> SavedModelFolder:
        _write_endpoints(twin, new, spec)
        file = new / SPEC_IN_SAVED_MODEL
        file.parent.mkdir(exist_ok=True)
        file.write_text(spec.to_json(), encoding="utf-8")
        served = SavedModelFolder(new)
        _check_endpoints(served, twin, shape, spec)
        return served

    batches = None if check is None else pixel_batches(check, shape, argument="check")
    return export_verified(
        "saved_model", Path(path), model, write, spec=spec, shape=shape, batches=batches
    )


def _write_endpoints(model: keras.Model, path: Path, spec: ClassifierSpec) -> None:
    """Writes a float32 model as a SavedModel with the signatures of `export_saved_model`."""
    preprocess = spec.preprocess
    shape = model.input_shape[1:] if preprocess is None else (*preprocess.size, 3)
    pixels = tf.TensorSpec((None, *shape), "uint8", INPUT)
    images = pixels if preprocess is None else tf.TensorSpec((None, None, None, 3), "uint8", INPUT)
    files = tf.TensorSpec((None,), "string", "image_bytes")
    # Traced once rather than once per endpoint
    network = tf.function(_answering(model), input_signature=[pixels], autograph=False)

    def prepared(image: Any) -> Any:
        return image if preprocess is None else preprocess.resize_and_crop(image)

    def decoded_one(file: Any) -> Any:
        is_scaled = preprocess is not None and preprocess.max_value != FULL_RANGE
        return prepared(decode(refuse_16_bit(file) if is_scaled else file))

    def decoded(image_bytes: Any) -> Any:
        spec = tf.TensorSpec(shape, "uint8")
        return tf.map_fn(decoded_one, image_bytes, fn_output_signature=spec)

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
    """Function from pixels of 0 to 255 to `probabilities` and, with a `head_pool`, `features`."""
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
    """Labels and probabilities of the most probable classes of each image, best first."""
    best = tf.math.top_k(scores, k=min(TOP, scores.shape[-1]))
    names = tf.constant(list(labels))
    return {"labels": tf.gather(names, best.indices), OUTPUT: best.values}


def _check_endpoints(
    served: SavedModelFolder, twin: keras.Model, shape: tuple[int, ...], spec: ClassifierSpec
) -> None:
    """Raises ExportError unless all endpoints agree with the one for pixels, compared later."""
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
    """Whether `best` has the largest probabilities with their names; ties may be in any order."""
    values = best[OUTPUT]
    largest = -np.sort(-probabilities)[:, : values.shape[1]]
    its_name = best["labels"][..., np.newaxis] == np.array([x.encode() for x in names], object)
    its_value = abs(values[..., np.newaxis] - probabilities[:, np.newaxis]) <= FLOAT32_TOLERANCE
    return _near(values, largest) and bool((its_name & its_value).any(-1).all())


def _near(got: Any, expected: Any, tolerance: float = FLOAT32_TOLERANCE) -> bool:
    return bool((abs(got - expected) <= tolerance).all())  # False for NaN


def _require(right: bool, endpoint: str) -> None:
    if not right:
        raise ExportError(
            f"the SavedModel's {endpoint} does not give the model's answers; nothing was written"
        )
