"""A classifier of real digits, and the files that are exported from it, made once for all tests."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from small import build_color_classifier, color_digits, fit_random_network

from keras_resnet18 import build_resnet18
from keras_resnet18.exporters import graph, tflite
from keras_resnet18.exporters.compare import ExportReport
from keras_resnet18.exporters.graph import run_converter
from keras_resnet18.exporters.onnx import export_onnx
from keras_resnet18.exporters.saved_model import export_saved_model
from keras_resnet18.model import resnet
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.spec import ClassifierSpec

LABELS = [f"digit {number}" for number in range(10)]

Images = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass
class Exported:
    """A finished export, the model that it is of, and the file as the converter left it."""

    model: keras.Model
    report: ExportReport
    converted: Path

    @property
    def path(self) -> Path:
        return self.report.path


@pytest.fixture(scope="session")
def colored_digits(digits: Images) -> Images:
    return color_digits(digits, 500)


@pytest.fixture(scope="session")
def training(colored_digits: Images) -> Images:
    return colored_digits[0][:400], colored_digits[1][:400]


@pytest.fixture(scope="session")
def held_out(colored_digits: Images) -> Images:
    return colored_digits[0][400:], colored_digits[1][400:]


@pytest.fixture(scope="session")
def labels() -> list[str]:
    return LABELS


@pytest.fixture(scope="session")
def classifier(training: Images, once: Any) -> keras.Model:
    """A narrow ResNet-18 that is right on about 98 % of held-out digits, made in seconds.

    Its convolutions keep their random start. It is shared: look, do not change.
    """
    keras.utils.set_random_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.STAGES, 18, ((64, 2), (80, 2), (96, 2), (192, 2)))
        model = build_resnet18(stem="small_stride2", input_shape=(32, 32, 3), classes=10)
    model.set_weights(
        once("classifier", lambda _: fit_random_network(model, *training).get_weights())
    )
    return model


@pytest.fixture(scope="session")
def small_classifier(training: Images) -> keras.Model:
    """A network of two convolutions for the same digits. Shared: look, do not change."""
    return build_color_classifier(*training)


@pytest.fixture(scope="session")
def export_digits(request, training, held_out, once) -> Callable[..., Exported]:
    """`export_digits(network, quantize)`: a .tflite file of the network that this fixture gives."""

    def export(network: str, quantize: str | None) -> Exported:
        model = request.getfixturevalue(network)

        def make(folder: Path) -> tuple[ExportReport, Path]:
            converted, convert = folder / "converted", tflite._convert

            def convert_and_keep(*args: Any) -> None:
                convert(*args)
                shutil.copy(args[1], converted)

            with pytest.MonkeyPatch.context() as patch:
                if (network, quantize) == ("small_classifier", "int8"):  # in its own process
                    patch.setattr(graph, "run_converter", run_converter)
                patch.setattr(tflite, "_convert", convert_and_keep)
                report = tflite.export_tflite(
                    model,
                    folder / "digits.tflite",
                    labels=LABELS,
                    quantize=quantize,
                    calibration=training[0][:200],
                    check=held_out,
                )
            return report, converted

        return Exported(model, *once(f"tflite-{network}-{quantize}", make))

    return export


@pytest.fixture(scope="session")
def float32_file(export_digits) -> Exported:
    return export_digits("classifier", None)


@pytest.fixture(scope="session")
def int8_file(export_digits) -> Exported:
    return export_digits("classifier", "int8")


@pytest.fixture(scope="session")
def float16_file(export_digits) -> Exported:
    return export_digits("small_classifier", "float16")


@pytest.fixture(scope="session", params=["float32", "float16", "dynamic", "int8"])
def any_file(request, export_digits) -> Exported:
    """A file of each kind: of the ResNet, or of the network of two convolutions."""
    network = "classifier" if request.param in ("float32", "int8") else "small_classifier"
    return export_digits(network, None if request.param == "float32" else request.param)


@pytest.fixture(scope="session", params=[None, "int8"], ids=["float32", "int8"])
def small_file(request, export_digits) -> Exported:
    return export_digits("small_classifier", request.param)


@pytest.fixture(scope="session")
def served(classifier, once) -> ExportReport:
    """A SavedModel of the classifier, whose graph crops images as ImageNet's do."""
    spec = ClassifierSpec(tuple(LABELS), Preprocess(size=(32, 32)))

    def make(folder: Path) -> ExportReport:
        return export_saved_model(classifier, folder / "model", spec=spec)

    report: ExportReport = once("served", make)
    return report


@pytest.fixture(scope="session")
def onnx_file(small_classifier, held_out, once) -> ExportReport:
    pytest.importorskip("tf2onnx", reason="needs the extra onnx")

    def make(folder: Path) -> ExportReport:
        path = folder / "digits.onnx"
        return export_onnx(small_classifier, path, labels=LABELS, check=held_out)

    report: ExportReport = once("onnx", make)
    return report


@pytest.fixture
def convert_to(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """`convert_to(file)`: whatever model is exported, the converter gives that file."""

    def install(file: Path) -> None:
        monkeypatch.setattr(tflite, "_convert", lambda model, path, *_: shutil.copy(file, path))

    return install


@pytest.fixture(scope="session")
def build_tiny() -> Callable[[], keras.Model]:
    """Builds a classifier of 8×8 images into three classes, without any convolution."""

    def build() -> keras.Model:
        keras.utils.set_random_seed(0)
        return keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.Rescaling(1 / 255),
                keras.layers.Flatten(),
                keras.layers.Dense(3, activation="softmax"),
            ]
        )

    return build


@pytest.fixture(scope="session")
def tiny(build_tiny: Callable[[], keras.Model]) -> keras.Model:
    """One of them. It is shared: look, do not change."""
    return build_tiny()


@pytest.fixture(scope="session")
def tiny_images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
