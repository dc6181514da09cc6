"""Exported files, run by the runtimes that people run them with.

`TFLiteFile`, `SavedModelFolder` and `OnnxFile` are called with uint8 pixels (n, height, width,
channels) and return probabilities, float32 (n, classes). They have the attributes

- `image_shape`: (height, width, channels) of the pixels; None for a side of any size.
- `classes`: Number of classes.
- `spec`: Specification of the classifier; None if another program wrote the file.
- `operators`: Number of operators by name; empty for a SavedModel.

Each raises ExportError if its runtime cannot run the file or the file is not a classifier, and
InputError if its specification is damaged, the runtime is not installed or cannot open the path.
`threads` is the number of threads to compute with, by default one per CPU.
"""

from __future__ import annotations

import collections
import importlib.util
import statistics
import threading
import timeit
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter

from keras_resnet18.errors import ExportError, InputError, check_utf8, reason
from keras_resnet18.files import EXPORTED, INPUT, OUTPUT, check_format
from keras_resnet18.machine import cpu_count, native_stderr_hidden
from keras_resnet18.spec import SPEC_FILE, ClassifierSpec
from keras_resnet18.tflite_file import contents, read_file

# From uint8 pixels (n, height, width, 3) to probabilities, float32 (n, classes)
Predict = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]

# Place of the specification in a SavedModel: the format's own folder for files of other programs
SPEC_IN_SAVED_MODEL = Path("assets.extra") / SPEC_FILE

# Key of the specification, as JSON, in the metadata of an .onnx file
SPEC_IN_ONNX = "classifier"

# Modules of the extra `onnx`: the first two write the file, the last one runs it
ONNX_MODULES = ("tf2onnx", "onnx", "onnxruntime")


class TFLiteFile:
    """A .tflite file, run with the LiteRT interpreter."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self.path = path
        self._interpreter = open_interpreter(path, threads)
        inputs = self._interpreter.get_input_details()
        outputs = self._interpreter.get_output_details()
        found = [(d["dtype"], len(d["shape"]), *d["shape"][:1]) for d in (*inputs, *outputs)]
        if found != [(np.uint8, 4, 1), (np.float32, 2, 1)]:
            raise ExportError(
                f"{path} must take one image, uint8 (1, height, width, channels), and give "
                "float32 probabilities (1, classes). Received: "
                f"{', '.join(map(_tensor, inputs))} → {', '.join(map(_tensor, outputs))}"
            )
        (self.input,), (self.output,) = inputs, outputs
        self._lock = threading.Lock()  # an interpreter answers one thread at a time
        self.image_shape = tuple(map(int, self.input["shape"][1:]))
        self.classes = int(self.output["shape"][1])
        self.spec = _spec(path, read_file(path, SPEC_FILE), self)

    @cached_property
    def operators(self) -> dict[str, int]:
        return contents(self.path).operators

    def __call__(self, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.concatenate([self._one(pixels[i : i + 1]) for i in range(len(pixels))])

    def _one(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        with self._lock:
            self._interpreter.set_tensor(self.input["index"], image)
            self._interpreter.invoke()
            probabilities: np.ndarray[Any, Any] = self._interpreter.get_tensor(self.output["index"])
        return probabilities


def open_interpreter(path: Path, threads: int | None = None) -> Interpreter:
    """Opens any .tflite file with LiteRT; raises ExportError if LiteRT cannot run it."""
    try:
        with native_stderr_hidden():  # each interpreter announces its delegate there
            # its bytes, because LiteRT opens no path that is not UTF-8
            content = path.read_bytes()
            interpreter = Interpreter(model_content=content, num_threads=threads or cpu_count())
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ExportError(f"{path} cannot be run by LiteRT: {reason(error)}") from None
    return interpreter


class SavedModelFolder:
    """A SavedModel, run with TensorFlow on the threads of this process.

    Attributes:
        signatures: Endpoints by name.
    """

    def __init__(self, path: Path) -> None:
        import tensorflow as tf  # not at the top, because a .tflite file is run without it

        check_utf8(path)
        self.operators: dict[str, int] = {}
        try:
            self._loaded = tf.saved_model.load(str(path))
        except (OSError, ValueError, tf.errors.OpError) as error:
            raise ExportError(f"{path} cannot be opened by TensorFlow: {reason(error)}") from None
        self.signatures = self._loaded.signatures
        try:
            preferred = "serve_pixels" in self.signatures
            self._main = "serve_pixels" if preferred else "serving_default"
            run = self.signatures[self._main]
            _, *sides = run.structured_input_signature[1][INPUT].shape
            height, width, channels = sides
            self.image_shape = (height, width, channels)
            _, classes = run.structured_outputs[OUTPUT].shape
            self.classes = int(classes)
        except (KeyError, TypeError, ValueError):
            raise ExportError(
                f"{path} must have a signature serving_default from {INPUT}, (batch, height, "
                f"width, channels), to {OUTPUT}, (batch, classes). "
                f"Received: the signatures {', '.join(self.signatures) or 'none'}"
            ) from None
        file = path / SPEC_IN_SAVED_MODEL
        self.spec = ClassifierSpec.read(file) if file.is_file() else None
        if self.spec is not None:
            self.spec.check_model(self.image_shape, self.classes, path)

    def __call__(self, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return self.endpoint(self._main, **{INPUT: pixels})[OUTPUT]

    def endpoint(self, name: str, **inputs: Any) -> dict[str, np.ndarray[Any, Any]]:
        """Calls a signature and returns its outputs by name."""
        import tensorflow as tf

        arguments = {key: tf.constant(value) for key, value in inputs.items()}
        return {key: value.numpy() for key, value in self.signatures[name](**arguments).items()}


class OnnxFile:
    """An .onnx file, run with ONNX Runtime on the CPU."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        check_utf8(path)
        check_onnx_extra(ONNX_MODULES[-1:])
        import onnxruntime

        self.path = path
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or cpu_count()
        options.log_severity_level = 4  # errors are raised as well
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's errors share no narrower class
            raise ExportError(f"{path} cannot be run by ONNX Runtime: {reason(error)}") from None
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        found = [(x.name, x.type, len(x.shape)) for x in (*inputs, *outputs)]
        if found != [(INPUT, "tensor(uint8)", 4), (OUTPUT, "tensor(float)", 2)]:
            raise ExportError(
                f"{path} must have one input, {INPUT}, uint8 (batch, height, width, channels), and "
                f"one output, {OUTPUT}, float32 (batch, classes). Received: {found}"
            )
        self.image_shape = tuple(inputs[0].shape[1:])
        self.classes = int(outputs[0].shape[1])
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.spec = _spec(path, metadata.get(SPEC_IN_ONNX), self)

    @cached_property
    def operators(self) -> dict[str, int]:
        check_onnx_extra()
        import onnx

        graph = onnx.load(self.path, load_external_data=False).graph
        return dict(sorted(collections.Counter(node.op_type for node in graph.node).items()))

    def __call__(self, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        probabilities: np.ndarray[Any, Any]
        (probabilities,) = self._session.run([OUTPUT], {INPUT: pixels})
        return probabilities


ExportedFile = TFLiteFile | SavedModelFolder | OnnxFile


def open_exported(path: Path, threads: int | None = None) -> ExportedFile:
    """Opens an exported file; a SavedModel ignores `threads`."""
    found = check_format(path, *EXPORTED)
    if found == "tflite":
        return TFLiteFile(path, threads)
    return OnnxFile(path, threads) if found == "onnx" else SavedModelFolder(path)


def check_onnx_extra(modules: Sequence[str] | None = None) -> None:
    """Raises InputError unless all, or the given, modules of the extra `onnx` are installed."""
    if missing := [n for n in modules or ONNX_MODULES if importlib.util.find_spec(n) is None]:
        raise InputError(
            "an .onnx file needs the extra onnx: pip install 'keras-resnet18[onnx]'. "
            f"Received: no {', no '.join(missing)} installed"
        )


def _spec(path: Path, text: str | None, file: TFLiteFile | OnnxFile) -> ClassifierSpec | None:
    """Reads the specification in a file, and checks that it fits the model."""
    if text is None:
        return None
    spec = ClassifierSpec.from_json(text, path)
    spec.check_model(file.image_shape, file.classes, path)
    return spec


def _tensor(details: dict[str, Any]) -> str:
    return f"{details['dtype'].__name__} {tuple(map(int, details['shape']))}"


def latency_ms(run: Callable[[Any], Any], image_shape: tuple[int, ...]) -> float:
    """Median time of one image at batch size 1, in milliseconds, after one run to warm up."""
    image = np.zeros((1, *image_shape), np.uint8)
    run(image)
    return 1000 * statistics.median(timeit.repeat(lambda: run(image), number=1, repeat=20))
