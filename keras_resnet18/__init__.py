"""ResNet-18 for Keras 3: builders, training that survives, exports that are proved."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from keras_resnet18.checking.check import check as check
    from keras_resnet18.classify.classifier import open_classifier as open_classifier
    from keras_resnet18.classify.evaluate import evaluate as evaluate
    from keras_resnet18.classify.predict import predict as predict
    from keras_resnet18.data.sources import from_arrays as from_arrays, open_source as open_source
    from keras_resnet18.exporters.export import export as export
    from keras_resnet18.exporters.onnx import export_onnx as export_onnx
    from keras_resnet18.exporters.saved_model import export_saved_model as export_saved_model
    from keras_resnet18.exporters.tflite import export_tflite as export_tflite
    from keras_resnet18.exporters.verify import verify as verify
    from keras_resnet18.fit.train import train as train
    from keras_resnet18.fit.twin import training_twin as training_twin
    from keras_resnet18.images import read_image as read_image
    from keras_resnet18.machine import recommended_policy as recommended_policy
    from keras_resnet18.model.blocks import (
        conv_block as conv_block,
        identity_block as identity_block,
    )
    from keras_resnet18.model.describe import describe as describe
    from keras_resnet18.model.pooling import AdaptiveAveragePooling2D as AdaptiveAveragePooling2D
    from keras_resnet18.model.resnet import (
        build_plain18 as build_plain18,
        build_plain34 as build_plain34,
        build_resnet18 as build_resnet18,
        build_resnet34 as build_resnet34,
    )
    from keras_resnet18.preprocess import (
        Preprocess as Preprocess,
        decode_predictions as decode_predictions,
        imagenet_classes as imagenet_classes,
        preprocess_input as preprocess_input,
    )
    from keras_resnet18.recipe import load_recipe as load_recipe
    from keras_resnet18.reports.info import info as info
    from keras_resnet18.reports.report import report as report
    from keras_resnet18.run import load_run as load_run
    from keras_resnet18.spec import ClassifierSpec as ClassifierSpec
    from keras_resnet18.weights.catalogue import find_weights as find_weights
    from keras_resnet18.weights.transfer import (
        load_weights as load_weights,
        save_weights as save_weights,
    )

# Modules and their public names, imported on first use so that --help does not import TensorFlow.
# Type checkers see the imports above.
_MODULES = {
    "checking.check": ("check",),
    "classify.classifier": ("open_classifier",),
    "classify.evaluate": ("evaluate",),
    "classify.predict": ("predict",),
    "data.sources": ("from_arrays", "open_source"),
    "exporters.export": ("export",),
    "exporters.onnx": ("export_onnx",),
    "exporters.saved_model": ("export_saved_model",),
    "exporters.tflite": ("export_tflite",),
    "exporters.verify": ("verify",),
    "fit.train": ("train",),
    "fit.twin": ("training_twin",),
    "images": ("read_image",),
    "machine": ("recommended_policy",),
    "model.blocks": ("conv_block", "identity_block"),
    "model.describe": ("describe",),
    "model.pooling": ("AdaptiveAveragePooling2D",),
    "model.resnet": ("build_plain18", "build_plain34", "build_resnet18", "build_resnet34"),
    "preprocess": ("Preprocess", "decode_predictions", "imagenet_classes", "preprocess_input"),
    "recipe": ("load_recipe",),
    "reports.info": ("info",),
    "reports.report": ("report",),
    "run": ("load_run",),
    "spec": ("ClassifierSpec",),
    "weights.catalogue": ("find_weights",),
    "weights.transfer": ("load_weights", "save_weights"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(["__version__", *_HOMES])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
