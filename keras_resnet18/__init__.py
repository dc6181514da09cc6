"""ResNet-18 for Keras 3: builders, training that survives, exports that are proved."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from keras_resnet18.commands.benchmark import benchmark
    from keras_resnet18.commands.check import check
    from keras_resnet18.commands.evaluate import evaluate
    from keras_resnet18.commands.export import export
    from keras_resnet18.commands.info import info
    from keras_resnet18.commands.predict import predict
    from keras_resnet18.commands.report import report
    from keras_resnet18.commands.train import train
    from keras_resnet18.commands.verify import verify
    from keras_resnet18.data.sources import from_arrays, open_source
    from keras_resnet18.device import recommended_policy
    from keras_resnet18.exporters.onnx import export_onnx
    from keras_resnet18.exporters.saved_model import export_saved_model
    from keras_resnet18.exporters.tflite import export_tflite
    from keras_resnet18.fit.fused_batch_norm import training_twin
    from keras_resnet18.images import read_image
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
    from keras_resnet18.recipe.recipe import load_recipe
    from keras_resnet18.run import load_run
    from keras_resnet18.runtime.classifier import open_classifier
    from keras_resnet18.weights.catalogue import find_weights
    from keras_resnet18.weights.transfer import load_weights, save_weights

__all__ = [
    "AdaptiveAveragePooling2D",
    "Preprocess",
    "__version__",
    "benchmark",
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
    "Preprocess": "preprocess",
    "benchmark": "commands.benchmark",
    "build_plain18": "model.resnet",
    "build_plain34": "model.resnet",
    "build_resnet18": "model.resnet",
    "build_resnet34": "model.resnet",
    "check": "commands.check",
    "conv_block": "model.blocks",
    "decode_predictions": "preprocess",
    "describe": "model.describe",
    "evaluate": "commands.evaluate",
    "export": "commands.export",
    "export_onnx": "exporters.onnx",
    "export_saved_model": "exporters.saved_model",
    "export_tflite": "exporters.tflite",
    "find_weights": "weights.catalogue",
    "from_arrays": "data.sources",
    "identity_block": "model.blocks",
    "imagenet_classes": "preprocess",
    "info": "commands.info",
    "load_recipe": "recipe.recipe",
    "load_run": "run",
    "load_weights": "weights.transfer",
    "open_classifier": "runtime.classifier",
    "open_source": "data.sources",
    "predict": "commands.predict",
    "preprocess_input": "preprocess",
    "read_image": "images",
    "recommended_policy": "device",
    "report": "commands.report",
    "save_weights": "weights.transfer",
    "train": "commands.train",
    "training_twin": "fit.fused_batch_norm",
    "verify": "commands.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
