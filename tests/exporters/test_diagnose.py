"""A comparison names each common mistake, and no mistake that was not made."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from small import build_colour_classifier, build_colour_network

from keras_resnet18.classify.exported import TFLiteFile
from keras_resnet18.exporters import convert, serving
from keras_resnet18.exporters.compare import Limits
from keras_resnet18.exporters.diagnose import compare_and_diagnose, quantization
from keras_resnet18.files import EXPORTS, TFLITE
from keras_resnet18.tflite_file import keep_softmax_float


@pytest.fixture(scope="module")
def model(training):
    return build_colour_classifier(*training)


@pytest.fixture(scope="module")
def fault_of(model, training, held_out, tmp_path_factory):
    """`fault_of(other, kind)`: what is wrong with a file of another network, and the file."""
    folder = tmp_path_factory.mktemp("files")

    def examine_file_of(other, kind, calibration=training[0][:200]):
        path = folder / "model.tflite"
        dtype = "float32" if kind == "int8" else "uint8"
        serving.write_saved_model(other, folder / "saved", batch_size=1, dtype=dtype)
        np.save(folder / "images.npy", calibration)
        images = [str(folder / "images.npy")] if kind == "int8" else []
        # in this process, which lives too short to mind what the converter leaks
        convert.main(str(folder / "saved"), str(path), kind, *images)
        if kind == "int8":
            keep_softmax_float(path)
        limits = Limits(max_difference=EXPORTS[TFLITE[kind]].max_difference)
        _, fault = compare_and_diagnose(TFLiteFile(path), model, [held_out], limits, path)
        return fault, path

    return examine_file_of


def takes_bgr(model):
    image = keras.Input((32, 32, 3))
    return keras.Model(image, model(image[..., ::-1]))


def with_other_mean(model):
    other = build_colour_network(mean=(0.3, 0.4, 0.5), std=(0.25, 0.25, 0.25))
    other.set_weights(model.get_weights())
    return other


@pytest.mark.parametrize("kind", TFLITE)
def test_a_file_that_is_right_has_no_fault_and_its_tensors_tell_its_kind(model, fault_of, kind):
    fault, path = fault_of(model, kind)
    assert fault is None
    assert quantization(path) == kind


@pytest.mark.parametrize("kind", [None, "int8"])
def test_bgr_is_named(model, fault_of, kind):
    fault, _ = fault_of(takes_bgr(model), kind)
    assert "% on 100 images, below min_agreement=98.00%: it gives the model's answers" in fault
    assert fault.endswith("when red and blue are swapped: the file takes BGR")


@pytest.mark.parametrize("kind", TFLITE)
def test_another_normalisation_is_named_with_its_constants(model, fault_of, kind):
    fault, _ = fault_of(with_other_mean(model), kind)
    constants = fault.partition("its pixels are normalised differently: mean ")[2]
    theirs, ours = constants.split("; the model's: mean ")
    for text, numbers in (
        (theirs, (0.3, 0.4, 0.5, 0.25, 0.25, 0.25)),
        (ours, (0.485, 0.456, 0.406, 0.25, 0.2, 0.225)),
    ):
        found = text.replace(" standard deviation ", "").split(",")
        np.testing.assert_allclose(list(map(float, found)), numbers, atol=0.004)


@pytest.mark.parametrize(
    ("mean", "std", "named"),
    [
        (
            (0.5,) * 3,
            (0.5,) * 3,
            "mean 0.500, 0.500, 0.500, standard deviation 0.500, 0.500, 0.500;",
        ),
        (
            (0.0,) * 3,
            (1.0,) * 3,
            "mean 0.000, 0.000, 0.000, standard deviation 1.000, 1.000, 1.000;",
        ),
        ((0.3, 0.4, 0.5), (0.25,) * 3, None),  # of nobody's
    ],
)
def test_a_usual_normalisation_is_named_from_the_answers_alone(model, held_out, mean, std, named):
    other = build_colour_network(mean=mean, std=std)
    other.set_weights(model.get_weights())
    limits = Limits(max_difference=EXPORTS["tflite"].max_difference)
    _, fault = compare_and_diagnose(
        lambda x: other(x.astype("float32")).numpy(), model, [held_out], limits
    )
    if named is None:
        assert fault.endswith("below min_agreement=98.00%")
    else:
        assert f": its pixels are normalised differently: {named} the model's: mean 0.485" in fault


@pytest.mark.parametrize("images", ["black", "noise"])
def test_calibration_on_other_images_is_named(model, fault_of, images):
    calibration = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    if images == "black":
        calibration[:] = 0
        calibration[0, 0, 0] = 255  # as export_tflite sees to it
    fault, _ = fault_of(model, "int8", calibration)
    assert "below min_agreement=98.00%: its weights are the model's" in fault
    assert fault.endswith("Calibrate with images like those of training")


@pytest.mark.parametrize("kind", [None, "int8"])
def test_of_a_file_of_other_weights_no_mistake_is_named(fault_of, kind):
    keras.utils.set_random_seed(1)
    fault, _ = fault_of(build_colour_network(), kind)
    assert fault.endswith("% on 100 images, below min_agreement=98.00%")


def test_what_does_not_show_on_the_first_images_is_not_explained_by_them(model, held_out):
    images, numbers = held_out
    grey = images[:, :, :, :1].repeat(3, axis=3)  # red and blue are equal
    grey = np.concatenate([grey] * 3)
    limits = Limits(max_difference=EXPORTS["tflite"].max_difference)
    batches = [(grey, None), (images, numbers)]
    network = takes_bgr(model)
    _, fault = compare_and_diagnose(
        lambda x: network(x.astype("float32")).numpy(), model, batches, limits
    )
    assert fault.endswith("below min_agreement=98.00%")


def test_a_network_without_a_convolution_is_compared_all_the_same(tiny, tiny_images, build_tiny):
    other = build_tiny()
    other.set_weights([-weights for weights in tiny.get_weights()])
    answers = other.predict(tiny_images, verbose=0)
    found, fault = compare_and_diagnose(lambda _: answers, tiny, [(tiny_images, None)], Limits())
    assert found.agreement < 0.98 and "below min_agreement" in fault
