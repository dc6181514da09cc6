"""ResNet-18 for Keras 3: builders, training that survives, exports that are proved."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from keras_resnet18.checking.check import check
    from keras_resnet18.classify.classifier import open_classifier
    from keras_resnet18.classify.evaluate import evaluate
    from keras_resnet18.classify.predict import predict
    from keras_resnet18.data.sources import from_arrays, open_source
    from keras_resnet18.exporters.export import export
    from keras_resnet18.exporters.onnx import export_onnx
    from keras_resnet18.exporters.saved_model import export_saved_model
    from keras_resnet18.exporters.tflite import export_tflite
    from keras_resnet18.exporters.verify import verify
    from keras_resnet18.fit.train import train
    from keras_resnet18.fit.twin import training_twin
    from keras_resnet18.images import read_image
    from keras_resnet18.machine import recommended_policy
    from keras_resnet18.model.blocks import conv_block, identity_block
    from keras_resnet18.model.describe import describe
    from keras_resnet18.model.pooling import AdaptiveAveragePooling2D
    from keras_resnet18.model.resnet import (
        build_plain18,
        build_plain34,
        build_resnet18,
        build_resnet34,
    )
    from keras_resnet18.preprocess import (
        Preprocess,
        decode_predictions,
        imagenet_classes,
        preprocess_input,
    )
    from keras_resnet18.recipe import load_recipe
    from keras_resnet18.reports.info import info
    from keras_resnet18.reports.report import report
    from keras_resnet18.run import load_run
    from keras_resnet18.spec import ClassifierSpec
    from keras_resnet18.weights.catalogue import find_weights
    from keras_resnet18.weights.transfer import load_weights, save_weights

__all__ = [
    "AdaptiveAveragePooling2D",
    "ClassifierSpec",
    "Preprocess",
    "__version__",
    "build_plain18",
    "build_plain34",
    "build_resnet18",
    "build_resnet34",
    "check",
    "conv_block",
    "decode_predictions",
    "describe",
    "evaluate",
    "export",
    "export_onnx",
    "export_saved_model",
    "export_tflite",
    "find_weights",
    "from_arrays",
    "identity_block",
    "imagenet_classes",
    "info",
    "load_recipe",
    "load_run",
    "load_weights",
    "open_classifier",
    "open_source",
    "predict",
    "preprocess_input",
    "read_image",
    "recommended_policy",
    "report",
    "save_weights",
    "train",
    "training_twin",
    "verify",
]

# Public names and the modules that define them, imported on first use so that --help does not
# import TensorFlow.
_HOMES = {
    "AdaptiveAveragePooling2D": "model.pooling",
    "ClassifierSpec": "spec",
    "Preprocess": "preprocess",
    "build_plain18": "model.resnet",
    "build_plain34": "model.resnet",
    "build_resnet18": "model.resnet",
    "build_resnet34": "model.resnet",
    "check": "checking.check",
    "conv_block": "model.blocks",
    "decode_predictions": "preprocess",
    "describe": "model.describe",
    "evaluate": "classify.evaluate",
    "export": "exporters.export",
    "export_onnx": "exporters.onnx",
    "export_saved_model": "exporters.saved_model",
    "export_tflite": "exporters.tflite",
    "find_weights": "weights.catalogue",
    "from_arrays": "data.sources",
    "identity_block": "model.blocks",
    "imagenet_classes": "preprocess",
    "info": "reports.info",
    "load_recipe": "recipe",
    "load_run": "run",
    "load_weights": "weights.transfer",
    "open_classifier": "classify.classifier",
    "open_source": "data.sources",
    "predict": "classify.predict",
    "preprocess_input": "preprocess",
    "read_image": "images",
    "recommended_policy": "machine",
    "report": "reports.report",
    "save_weights": "weights.transfer",
    "train": "fit.train",
    "training_twin": "fit.twin",
    "verify": "exporters.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
