"""A model's own answers, in float32: what an exported file is compared with."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_resnet18.classify.accuracy import interval
from keras_resnet18.classify.exported import TFLiteFile
from keras_resnet18.errors import ExportError, InputError
from keras_resnet18.files import OUTPUT
from keras_resnet18.tflite_file import custom_operators, op_histogram

# An endpoint and its output, and the layer that gives it, as our builders name it.
FEATURES, _POOL = "features", "head_pool"


def float32_twin(model: keras.Model) -> keras.Model:
    """The same network computing in float32, with the same weights; `model` itself if it does.

    LiteRT has no kernels for what a mixed-precision graph does, and its weights are float32 anyway.

    Raises:
        InputError: If a layer cannot be made again from its config.
    """
    if all(layer.compute_dtype == "float32" for layer in leaves(model)):
        return model
    twin = keras.models.clone_model(model, clone_function=_in_float32, recursive=True)
    twin.set_weights(model.get_weights())
    return twin


def _in_float32(layer: keras.layers.Layer) -> keras.layers.Layer:
    if isinstance(layer, keras.layers.Lambda):  # Keras does not load its function from a config
        arguments = (layer.function, layer._output_shape, layer.mask, layer.arguments)
        return keras.layers.Lambda(*arguments, name=layer.name, dtype="float32")
    try:
        return type(layer).from_config({**layer.get_config(), "dtype": "float32"})
    except Exception as error:  # whatever a user's layer raises
        reason = next(iter(str(error).split("\n")), "") or type(error).__name__
        raise InputError(
            "a model of another precision than float32 is exported from a float32 copy, so each "
            "layer needs get_config and from_config. "
            f"Received: {type(layer).__name__} {layer.name!r} ({reason}): define them, or build "
            "the model in float32"
        ) from error


def probabilities(model: keras.Model, pixels: Any) -> Any:
    """The model's probabilities, float32 (batch, classes), for pixels of 0–255 of any dtype."""
    scores = model(tf.cast(pixels, model.inputs[0].dtype), training=False)
    return _as_probabilities(scores, model)


def answering(model: keras.Model) -> Callable[[Any], dict[str, Any]]:
    """A function from pixels, as of `probabilities`, to all that the model tells about them.

    It gives `probabilities`, and of a model with a layer `head_pool` that layer's output, float32,
    as `features`.
    """
    if _POOL not in {layer.name for layer in model.layers}:
        return lambda pixels: {OUTPUT: probabilities(model, pixels)}
    both = keras.Model(model.inputs[0], [model.outputs[0], model.get_layer(_POOL).output])

    def answers(pixels: Any) -> dict[str, Any]:
        scores, pooled = both(tf.cast(pixels, model.inputs[0].dtype), training=False)
        return {OUTPUT: _as_probabilities(scores, model), FEATURES: tf.cast(pooled, tf.float32)}

    return answers


def _as_probabilities(scores: Any, model: keras.Model) -> Any:
    scores = tf.cast(scores, tf.float32)
    return tf.nn.softmax(scores) if _is_linear(model.outputs[0]) else scores


def predictor(model: keras.Model) -> Callable[[Any], Any]:
    """A compiled function from pixels (batch, height, width, channels) to probabilities, NumPy."""
    function = tf.function(lambda pixels: probabilities(model, pixels), reduce_retracing=True)
    return lambda pixels: function(tf.convert_to_tensor(pixels)).numpy()


def leaves(model: keras.Model) -> list[keras.layers.Layer]:
    """The model's layers, and those of the models inside it."""
    return [layer for layer in model._flatten_layers() if not isinstance(layer, keras.Model)]


def _is_linear(output: keras.KerasTensor) -> bool:
    """Whether a model's output is logits, as with `classifier_activation=None`."""
    last, node, _ = output._keras_history
    if isinstance(last, keras.Model):
        return _is_linear(last.outputs[0])
    linear = getattr(last, "activation", None) is keras.activations.linear
    if linear and isinstance(last, keras.layers.Activation):
        # only a cast to float32, as Keras' guide to mixed precision has it after a softmax
        return _is_linear(last._inbound_nodes[node].input_tensors[0])
    return linear


# Whatever images a caller has at hand, as batches of pixels for calibration and proof.

# (n, height, width, channels) uint8, and class numbers (n,) where the caller gave labels
Batch = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]

_BATCH_SIZE = 32
_NOISE_IMAGES = 16


def pixel_batches(
    data: Any, shape: tuple[int | None, ...], *, argument: str, limit: int | None = None
) -> Iterator[Batch]:
    """Batches of pixels, and of class numbers where `data` has them.

    Args:
        data: A `tf.data.Dataset` of images or (image, label), batched or not, or arrays: images or
            (images, labels). Pixels are 0 to 255, of any dtype; labels class numbers or one-hot.
        shape: (height, width, channels) that the images must have.
        argument: What the caller calls `data`; the errors say it.
        limit: How many images to take at the most.

    Raises:
        InputError: If `data` is something else, is empty or has no end.
    """
    elements = _elements(data, argument, limit)
    empty = True
    while some := list(itertools.islice(elements, _BATCH_SIZE)):
        empty = False
        for image, *_ in some:
            if image.shape != tuple(shape):
                raise InputError(
                    f"{argument} needs images of the model's input shape {tuple(shape)}. "
                    f"Received: {image.shape}"
                )
        labels = None
        if len(some[0]) == 2:
            labels = _class_numbers(np.stack([label for _, label in some]), argument)
        yield _as_pixels(np.stack([image for image, *_ in some]), argument), labels
    if empty:
        raise InputError(f"{argument} needs at least one image. Received: none")


def noise(shape: tuple[int, ...]) -> Iterator[Batch]:
    """Images that show whether arithmetic is equal, though not how good the classes are."""
    rng = np.random.default_rng(0)
    yield rng.integers(0, 256, (_NOISE_IMAGES, *shape), dtype=np.uint8), None


def _elements(data: Any, argument: str, limit: int | None) -> Iterator[tuple[Any, ...]]:
    """One image at a time, as (image,) or (image, label) of NumPy arrays."""
    if not isinstance(data, tf.data.Dataset):
        try:
            data = tf.data.Dataset.from_tensor_slices(data)
        except (TypeError, ValueError):
            raise InputError(
                f"{argument} must be a tf.data.Dataset or arrays, of images or (images, labels). "
                f"Received: {type(data).__name__}"
            ) from None
    spec = data.element_spec
    parts = spec if isinstance(spec, tuple) else (spec,)
    rank = getattr(getattr(parts[0], "shape", None), "rank", None)
    if rank not in (3, 4) or len(parts) > 3:
        raise InputError(
            f"{argument} must hold images (height, width, channels), batched or not, alone or as "
            f"(image, label). Received: {spec}"
        )
    data = data.map(lambda *parts: parts[:2])  # sample weights have no say here
    if rank == 4:
        data = data.unbatch()
    if limit is not None:
        data = data.take(limit)
    elif data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise InputError(f"{argument} must come to an end: use .take(n). Received: endless data")
    elements: Iterator[tuple[Any, ...]] = data.as_numpy_iterator()
    return elements


def _as_pixels(images: np.ndarray[Any, Any], argument: str) -> np.ndarray[Any, Any]:
    if images.dtype == np.uint8:
        return images
    if not (images.min() >= 0 and images.max() <= 255) or 0 < images.max() <= 1:  # NaN: neither
        raise InputError(
            f"{argument} needs pixels of 0 to 255, as a camera gives them, not normalised ones. "
            f"Received: {images.dtype} values from {images.min():.3g} to {images.max():.3g}"
        )
    pixels: np.ndarray[Any, Any] = np.rint(images).astype(np.uint8)
    return pixels


def _class_numbers(labels: np.ndarray[Any, Any], argument: str) -> np.ndarray[Any, Any]:
    if labels.dtype.kind not in "biuf":
        raise InputError(
            f"{argument} needs class numbers or one-hot rows as labels. "
            f"Received: {labels[0].tolist()!r}"
        )
    one_hot = labels.ndim == 2 and labels.shape[1] > 1
    return labels.argmax(1) if one_hot else labels.reshape(-1)


# Comparison of an exported file with its model: the same images through both, and the limits.

# The fraction of the images that must get the class the model gives
MIN_AGREEMENT = 0.98

Predict = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A model and its export on the same images.

    Attributes:
        n: How many images.
        agreement: Fraction of the images to which both give the same class, 0 to 1.
        max_difference: Largest difference of a probability from the float32 model's.
        mean_difference: Mean difference of the probabilities from the float32 model's.
        accuracy: Top-1 accuracy of the export, 0 to 1; None if the images have no labels.
        model_accuracy: Top-1 accuracy of the model, 0 to 1; None if the images have no labels.
        mass_error: Largest difference of the sum of an image's probabilities from 1.
        model_classes: Number of classes that the model gives to any of the images.
    """

    n: int
    agreement: float
    max_difference: float
    mean_difference: float
    accuracy: float | None
    model_accuracy: float | None
    mass_error: float
    model_classes: int

    def interval(self, fraction: float) -> tuple[float, float]:
        """95 % confidence interval of a fraction of the images."""
        return interval(round(fraction * self.n), self.n)

    @property
    def warning(self) -> str | None:
        """Why agreement shows little, in one line; None if it shows enough."""
        if self.n > 1 and self.model_classes == 1:
            return (
                f"the model gives all {self.n:,} images the same class, so agreement and accuracy "
                "show little: compare on images of all classes"
            )
        return None

    def to_dict(self) -> dict[str, Any]:
        """The figures with their intervals for JSON, infinity and NaN as None."""
        figures: dict[str, Any] = {}
        for name, value in dataclasses.asdict(self).items():
            figures[name] = None if value is None or not np.isfinite(value) else value
            if name in ("agreement", "accuracy", "model_accuracy"):
                figures[f"{name}_interval"] = value if value is None else list(self.interval(value))
        return figures


@dataclasses.dataclass(frozen=True)
class Limits:
    """How far an export may be from the model.

    Attributes:
        min_agreement: Fraction of the images, 0 to 1, that must get the class the model gives.
        max_difference: Largest difference of a probability; None where only the class counts.
    """

    min_agreement: float = MIN_AGREEMENT
    max_difference: float | None = None

    def fault(self, comparison: Comparison) -> str | None:
        """The limit that a comparison exceeds, in one line; None if it keeps both."""
        where = f"on {comparison.n:,} images"
        if not comparison.mass_error < 0.01:
            return (
                f"the export's outputs do not sum to 1 {where}, so they are not probabilities: "
                "the model must end in a softmax, or give logits"
            )
        if comparison.agreement < self.min_agreement:
            return (
                f"the export gives the model's class for {comparison.agreement:.2%} {where}, below "
                f"min_agreement={self.min_agreement:.2%}"
            )
        if self.max_difference is not None and comparison.max_difference > self.max_difference:
            return (
                "the export's probabilities differ from the model's by up to "
                f"{comparison.max_difference:.2g} {where}, more than {self.max_difference:g}"
            )
        return None


def compare(exported: Predict, model: keras.Model, batches: Iterable[Batch]) -> Comparison:
    """Runs an export and its model on the same pixels.

    Args:
        exported: From uint8 pixels (n, height, width, channels) to probabilities (n, classes).
        model: The Keras model as it was trained. The export's classes are compared with its own,
            the export's probabilities with those of its float32 twin: the rounding of mixed
            precision is not the export's.
        batches: Images, with labels or without.
    """
    twin = float32_twin(model)
    predict_twin = predictor(twin)
    predict_model = predict_twin if twin is model else predictor(model)
    count = agreeing = labelled = right = model_right = 0
    difference = total_difference = mass_error = 0.0
    classes: set[int] = set()
    for pixels, labels in batches:
        with whole_float32():
            got, exact = exported(pixels), predict_twin(pixels)
        top = got.argmax(1)
        model_top = (exact if twin is model else predict_model(pixels)).argmax(1)
        count += len(pixels)
        classes.update(model_top.tolist())
        agreeing += int((top == model_top).sum())
        difference = max(difference, _largest(got - exact))
        total_difference += float(abs(got - exact).mean(1).sum())
        mass_error = max(mass_error, _largest(got.sum(1) - 1))
        if labels is not None:
            labelled += len(labels)
            right += int((top == labels).sum())
            model_right += int((model_top == labels).sum())
    return Comparison(
        n=count,
        agreement=agreeing / count,
        max_difference=difference,
        mean_difference=total_difference / count,
        accuracy=right / labelled if labelled else None,
        model_accuracy=model_right / labelled if labelled else None,
        mass_error=mass_error,
        model_classes=len(classes),
    )


def _largest(errors: np.ndarray[Any, Any]) -> float:
    # NaN counts as the largest error there is
    return float(np.nan_to_num(abs(errors), nan=np.inf).max())


@contextlib.contextmanager
def whole_float32() -> Iterator[None]:
    """Turns off TF32, a GPU's float32 arithmetic with 10 of 23 bits, which is off by up to 1e-3."""
    config = tf.config.experimental
    before = config.tensor_float_32_execution_enabled()
    config.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        config.enable_tensor_float_32_execution(before)


def check_graph(path: Path, model: keras.Model) -> dict[str, int]:
    """Checks a .tflite file for what the converter may get wrong in silence.

    Returns:
        Number of operators by name.

    Raises:
        ExportError: If the file is broken, convolutions are missing, an operator is not built in,
            or the file does not take uint8 pixels as they are and give float32.
    """
    operators = _operators(path)
    convolutions = sum(isinstance(layer, keras.layers.Conv2D) for layer in leaves(model))
    found = operators.get("CONV_2D", 0) + operators.get("DEPTHWISE_CONV_2D", 0)
    if not operators or found < convolutions:
        which = "converted" if operators else "empty"
        raise ExportError(
            f"the {which} graph has {found} convolutions, the model {convolutions}: the "
            f"converter left some out. Its operators: {operators}"
        )
    if "CUSTOM" in operators:
        raise ExportError(
            "the converted graph needs operators that are not built into LiteRT: "
            f"{', '.join(custom_operators(path))}. Its operators: {operators}"
        )
    scale, zero_point = TFLiteFile(path).input["quantization"]
    if (scale, zero_point) not in ((0.0, 0), (1.0, 0)):
        raise ExportError(
            "the converted graph must take pixels of 0 to 255 as they are. "
            f"Its input: uint8, scale {scale}, zero point {zero_point}"
        )
    return operators


def _operators(path: Path) -> dict[str, int]:
    try:
        return op_histogram(path)
    except Exception:  # the reader follows a broken file's offsets to anywhere
        TFLiteFile(path)  # raises the clearer error
        raise
