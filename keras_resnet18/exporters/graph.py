"""The float32 graph, from pixels of 0 to 255 to probabilities, that every format is made from."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_resnet18.errors import ExportError, InputError
from keras_resnet18.files import INPUT, OUTPUT
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.spec import ClassifierSpec
from keras_resnet18.weights.transfer import leaves


def prepared(
    model: keras.Model,
    spec: ClassifierSpec | None,
    labels: Sequence[str] | None,
    *,
    fixed_size: str | None = None,
) -> tuple[keras.Model, ClassifierSpec]:
    """Checks a model to export, and returns it with pixels of 0 to 255 as input, and its spec.

    Without `spec`, one is made of `labels`, by default the class numbers: images are resized to
    cover the model's input size and center-cropped. `fixed_size` names a format, for error
    messages, whose images have one size.
    """
    _check_model(model)
    model = _with_normalization(model, spec)
    *size, channels = model.input_shape[1:]
    if fixed_size is not None and None in (*size, channels):
        raise InputError(
            f"{fixed_size} takes images of one size: build the model with a fixed input_shape. "
            f"Received: input shape {model.input_shape}"
        )
    classes = model.output_shape[1]
    if spec is None:
        preprocess = None
        if channels == 3 and None not in size:
            preprocess = Preprocess(size=tuple(size), crop_ratio=1.0)
        names: Any = tuple(map(str, range(classes))) if labels is None else labels
        spec = ClassifierSpec(names, preprocess)
    elif labels is not None:
        raise InputError("labels are part of spec: give one of both. Received: labels and spec")
    if not isinstance(spec, ClassifierSpec):
        raise InputError(f"spec must be a ClassifierSpec. Received: {type(spec).__name__}")
    spec.check_model(model.input_shape[1:], classes, "the arguments")
    return model, spec


def _check_model(model: keras.Model) -> None:
    if keras.config.backend() != "tensorflow":
        raise InputError(
            "exports are made with Keras on TensorFlow: set KERAS_BACKEND=tensorflow and load the "
            f"model's .keras file there. Received: KERAS_BACKEND={keras.config.backend()!r}"
        )
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise InputError(
            "an export needs a functional or Sequential keras.Model that knows its input shape. "
            f"Received: {type(model).__name__}"
        )
    if [len(x.shape) for x in (*model.inputs, *model.outputs)] != [4, 2]:
        raise InputError(
            "an export needs a model with one input, (batch, height, width, channels), and one "
            "output, (batch, classes): build it with include_top=True. "
            f"Received: input shape {model.input_shape}, output shape {model.output_shape}"
        )
    classes = model.output_shape[1]
    if classes == 1:
        raise InputError(
            "an export needs an output for each of two or more classes: build the model with "
            f"classes=2 and softmax. Received: output shape {model.output_shape}, for one class"
        )
    for variable in model.weights:
        if not np.isfinite(variable.numpy()).all():
            raise InputError(
                "an export needs weights that are finite numbers: take those of an earlier epoch, "
                f"or train with a lower learning rate. Received: NaN or infinity in {variable.path}"
            )


def _with_normalization(model: keras.Model, spec: ClassifierSpec | None) -> keras.Model:
    """Puts the normalization of `spec.preprocess` before a network that was built without one.

    The file of such a network agrees with it on any pixels, so verification would not notice that
    it needs normalized ones. Other models are returned unchanged.
    """
    if not _feeds_stem(model):
        return model
    if spec is None or spec.preprocess is None:
        raise InputError(
            "an exported file takes pixels of 0 to 255, but this network needs normalized ones: "
            "build it with include_preprocessing=True and copy the weights, or pass "
            "spec=ClassifierSpec(labels, preprocess) with the mean and std of its training. "
            "Received: a model built with include_preprocessing=False, and no spec.preprocess"
        )
    scale, offset = spec.preprocess.scale_and_offset(model.input_shape[-1])
    pixels = keras.Input(model.input_shape[1:], name=INPUT)
    normalize = keras.layers.Rescaling(
        list(scale), list(offset), dtype="float32", name="normalization"
    )
    return keras.Model(pixels, model(normalize(pixels)), name=model.name)


def _feeds_stem(model: keras.Model) -> bool:
    """Whether pixels of a model get to the stem of our network, also of one inside, as they are."""
    graph = getattr(model, "_functional", model)  # of a Sequential model
    raw = {id(model.inputs[0])} if hasattr(graph, "_nodes_by_depth") else set()
    for depth in sorted(graph._nodes_by_depth, reverse=True) if raw else ():
        for node in graph._nodes_by_depth[depth]:
            if not raw.intersection(map(id, node.input_tensors)):
                continue
            layer = node.operation
            parts = leaves(layer) if isinstance(layer, keras.Model) else [layer]
            if any(part.name == "stage1_block1_conv1" for part in parts):
                return _feeds_stem(layer)
            if layer.name.startswith("stem_conv"):
                return any(part.name == "stage1_block1_conv1" for part in leaves(model))
            if all(map(_keeps_pixels, parts)):
                raw.update(map(id, node.output_tensors))
    return False


def _keeps_pixels(layer: Any) -> bool:
    """Whether a layer leaves pixels on their scale, such as one that flips or resizes them."""
    if isinstance(layer, keras.layers.Activation):
        return bool(layer.activation is keras.activations.linear)
    kept = (keras.layers.InputLayer, keras.layers.Identity, keras.layers.ZeroPadding2D)
    image = ".preprocessing.image_preprocessing." in type(layer).__module__
    return isinstance(layer, kept) or image or type(layer).__name__ == "Cast"


def float32_twin(model: keras.Model) -> keras.Model:
    """Returns a copy of the model that computes in float32; `model` itself if it already does.

    LiteRT has no kernels for mixed-precision graphs, and the weights are float32 anyway.
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
    return type(layer).from_config({**layer.get_config(), "dtype": "float32"})


def probabilities(model: keras.Model, pixels: Any) -> Any:
    """Probabilities, float32 (batch, classes), for pixels of 0 to 255 of any dtype."""
    scores = model(tf.cast(pixels, model.inputs[0].dtype), training=False)
    return as_probabilities(scores, model)


def as_probabilities(scores: Any, model: keras.Model) -> Any:
    """Output of `model` as float32 probabilities: applies softmax if the output is logits."""
    scores = tf.cast(scores, tf.float32)
    return tf.nn.softmax(scores) if _is_linear(model.outputs[0]) else scores


def _is_linear(output: keras.KerasTensor) -> bool:
    """Whether a model outputs logits, as with `classifier_activation=None`."""
    last, node, _ = output._keras_history
    if isinstance(last, keras.Model):
        return hasattr(last, "outputs") and _is_linear(last.outputs[0])
    linear = getattr(last, "activation", None) is keras.activations.linear
    if linear and isinstance(last, keras.layers.Activation):
        # Only a cast to float32, which Keras' mixed precision guide puts after a softmax
        return _is_linear(last._inbound_nodes[node].input_tensors[0])
    return linear


def write_saved_model(
    model: keras.Model, path: Path, *, batch_size: int | None = None, dtype: str = "uint8"
) -> None:
    """Writes a float32 model as a SavedModel for a converter.

    The signature `serving_default` takes `image`, (batch_size, height, width, channels) of `dtype`
    with values of 0 to 255, and returns `probabilities`, float32 (batch_size, classes).
    """
    # No archive.track(model): endpoints track their variables, which would be saved twice
    archive = keras.export.ExportArchive()
    shape = (batch_size, *model.input_shape[1:])
    archive.add_endpoint(
        "serving_default",
        lambda image: {OUTPUT: probabilities(model, image)},
        input_signature=[tf.TensorSpec(shape, dtype, name=INPUT)],
    )
    archive.write_out(str(path), verbose=False)


# Lists of unsupported operators in the output of TensorFlow's converter and tf2onnx
_UNSUPPORTED = re.compile(r"(?:^Custom|^TF Select|Unsupported) ops: (?:Counter)?(.+)$", re.M)

# Lines that libraries log about other things, lines with an error, and the prefix of such a line
_LOGGED = re.compile(r"[IW]\d{4} |WARNING: All log messages|.* - (INFO|WARNING) - ")
_ERROR = re.compile(r"[\w.]*(Error|Exception)\b|[EF]\d{4} |.*\berror: ")
_PREFIX = re.compile(r"^[EF]\d{4} [^]]*\] ")


def run_converter(name: str, arguments: Sequence[str], output: Path) -> None:
    """Runs a converter in a process of its own, on the CPU: TensorFlow's leaks memory per call.

    Args:
        name: Name of the converter, for error messages.
        arguments: Arguments of Python: a script, or `-m` and a module, followed by its arguments.
        output: File that the converter writes.
    """
    # -P keeps this folder's onnx.py from being imported in place of the package onnx
    done = subprocess.run(
        [sys.executable, "-P", *arguments],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if unsupported := _UNSUPPORTED.findall(done.stderr):
        names = sorted(set(re.findall(r"[A-Za-z]\w*", " ".join(unsupported))))
        raise ExportError(
            f"{name} cannot convert {', '.join(names)}: build the model without; "
            "nothing was written"
        )
    if done.returncode or not output.is_file():
        reason = _reason(done.returncode, done.stderr)
        raise ExportError(f"{name} failed: {reason}; nothing was written")


def _reason(status: int, stderr: str) -> str:
    """Formats a process's failure: its signal or status, and the error that it printed."""
    lines = [line for line in stderr.splitlines() if line.strip() and not _LOGGED.match(line)]
    errors = [line for line in lines if _ERROR.match(line)] or lines
    error = textwrap.shorten(_PREFIX.sub("", errors[-1]), 300) if errors else "no message"
    if status >= 0:
        return f"{error} (status {status})"
    memory = ", as when memory runs out" if -status == signal.SIGKILL else ""
    return f"it was ended by {signal.Signals(-status).name}{memory}: {error}"
