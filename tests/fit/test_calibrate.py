"""The temperature is folded into the head, and the score threshold goes with every file."""

from __future__ import annotations

import io
import shutil

import keras
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from keras_resnet18 import export, info, predict, report, train
from keras_resnet18.classify.classifier import open_classifier
from keras_resnet18.data.sources import from_arrays
from keras_resnet18.fit import train as trainer
from keras_resnet18.fit.calibrate import calibrate_network
from keras_resnet18.spec import ClassifierSpec

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def uncalibrated():
    """Receives the weights before the calibration."""
    return []


@pytest.fixture(scope="module")
def calibrated(digits, quick_recipe, uncalibrated, tmp_path_factory):
    """A run with 150 validation images, and what was printed."""
    from small import train_quickly

    def keep(model, *arguments):
        uncalibrated[:] = model.get_weights()
        return calibrate_network(model, *arguments)

    (a, b, c, d), (e, f, g, h) = (np.split(x[:750], [400, 550, 750]) for x in digits)
    source = from_arrays(a, e, validation=(b, f), test=(c, g))
    assert len(d) == len(h) == 0
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        train_quickly(patch)
        patch.setattr(trainer, "calibrate_network", keep)
        console = Console(file=printed, width=200)
        run = train(source, quick_recipe, tmp_path_factory.mktemp("runs") / "a", console=console)
    return run, printed.getvalue()


@pytest.fixture(scope="module")
def files(calibrated, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    run, _ = calibrated
    export(run, ["tflite", "saved_model"], folder)
    return folder


@pytest.fixture
def noise(tmp_path):
    """The file of an image of no class."""
    path = tmp_path / "noise.png"
    Image.fromarray(PIXELS[0]).save(path)
    return path


def test_the_head_is_divided_by_the_temperature_and_no_class_changes(calibrated, uncalibrated):
    run, _ = calibrated
    said = run.metrics["calibration"]
    assert said["temperature"] != pytest.approx(1, abs=0.01) and said["n"] == 150
    kernel, bias = uncalibrated[-2:]
    assert len(run.model.get_weights()) == len(uncalibrated)
    for new, old in zip(run.model.get_weights()[:-2], uncalibrated, strict=False):
        np.testing.assert_array_equal(new, old)
    new_kernel, new_bias = run.model.layers[-1].get_weights()
    np.testing.assert_allclose(new_kernel, kernel / said["temperature"], rtol=1e-6)
    np.testing.assert_allclose(new_bias, bias / said["temperature"], rtol=1e-6)
    now = run.model.predict_on_batch(PIXELS)
    before = keras.models.clone_model(run.model)
    before.set_weights(uncalibrated)
    then = before.predict_on_batch(PIXELS)
    assert (then.argmax(1) == now.argmax(1)).all()
    assert abs(then - now).max() > 1e-3


def test_training_keeps_and_says_what_the_threshold_means(calibrated):
    run, printed = calibrated
    said, test = run.metrics["calibration"], run.metrics["test"]
    assert "calibrated on 150 validation images: temperature" in printed
    assert f"at the score threshold of {run.spec.threshold:.1%}, {test['coverage']:.1%}" in printed
    assert said["threshold"] == run.spec.threshold == test["threshold"]
    assert run.metrics["validation"]["coverage"] == pytest.approx(0.95, abs=0.01)
    assert run.metrics["validation"]["ece"] == pytest.approx(said["after"]["ece"], abs=1e-3)
    assert test["accuracy_answered"] >= test["accuracy"]
    assert f"{run.spec.threshold:.1%}" in str(info(run.path))


def test_the_page_and_the_card_tell_it(calibrated):
    run, _ = calibrated
    report(run)
    page = run.report_file.read_text(encoding="utf-8")
    card = run.card_file.read_text(encoding="utf-8")
    for text in ("150 validation images", "score threshold", "validation images, before"):
        assert text in page
    assert f"below {run.spec.threshold:.1%}" in card.replace("\n", " ")


def test_every_file_has_the_runs_threshold(calibrated, files, tmp_path):
    run, _ = calibrated
    for name in ("model.tflite", "saved_model"):
        assert open_classifier(files / name).spec.threshold == run.spec.threshold
        assert f"{run.spec.threshold:.1%}" in str(info(files / name))
    alone = shutil.copy(files / "model.tflite", tmp_path)
    assert open_classifier(alone).spec.threshold == run.spec.threshold
    assert ClassifierSpec.read(files / "classifier.json") == run.spec


def test_an_export_of_a_run_without_a_threshold_leaves_no_others_behind(run, files, tmp_path):
    shutil.copytree(files, tmp_path / "export")
    export(run, ["tflite"], tmp_path / "export")
    assert ClassifierSpec.read(tmp_path / "export" / "classifier.json") == run.spec
    assert open_classifier(tmp_path / "export" / "model.tflite").spec.threshold is None


def test_predict_says_not_sure_below_the_threshold(calibrated, files, noise):
    run, _ = calibrated
    for model in (run, files / "model.tflite"):
        (always,) = predict(model, noise, threshold=1.0)
        (never,) = predict(model, noise, threshold=0)
        assert (always.not_sure, never.not_sure) == (True, False)
        (own,) = predict(model, noise)
        assert own.not_sure == (own.top[0][1] < run.spec.threshold)
        assert own.top == always.top == never.top
