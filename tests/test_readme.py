"""The programs of README and docs/keras.md do, as they stand there, what these pages say."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow_datasets as tfds
from keras.src.trainers import trainer
from small import color_digits, narrow_resnet18, train_quickly
from tensorflow_datasets.core.utils import file_utils

from keras_resnet18 import build_resnet18, save_weights
from keras_resnet18.classify.exported import TFLiteFile
from keras_resnet18.tflite_file import contents

ROOT = Path(__file__).parents[1]
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def programs() -> list[str]:
    pages = [(ROOT / page).read_text() for page in ("README.md", "docs/keras.md")]
    return re.findall(r"^```python\n(.*?)^```", "".join(pages), re.DOTALL | re.MULTILINE)


def program_with(words: str) -> str:
    (program,) = (text for text in programs() if words in text)
    return program


@pytest.fixture
def digits_as_cifar10(digits, tmp_path, monkeypatch):
    """Lets TFDS find a `cifar10` that holds digits, so that nothing has to be downloaded.

    Their colors tell them apart too: a few steps are enough to learn them.
    """
    # or TFDS asks the network whether this is Google's cloud
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    images, labels = color_digits(digits, 300)
    examples = [
        (i, {"id": f"{i}", "image": images[i], "label": int(labels[i])}) for i in range(300)
    ]

    tfds.dataset_builders.store_as_tfds_dataset(
        name="cifar10",
        version=str(tfds.builder_cls("cifar10").VERSION),
        features=tfds.features.FeaturesDict(
            {
                "id": tfds.features.Text(),
                "image": tfds.features.Image(shape=(32, 32, 3)),
                "label": tfds.features.ClassLabel(names=NAMES),
            }
        ),
        split_datasets={"train": examples[:260], "test": examples[260:]},
        data_dir=tmp_path / "tfds",
        disable_shuffling=True,
    )
    file_utils.add_data_dir(tmp_path / "tfds")
    yield
    file_utils.clear_registered_data_dirs()


@pytest.fixture(autouse=True)
def nothing_is_compiled(monkeypatch):
    """XLA takes longer than these trainings."""
    monkeypatch.setattr(trainer, "model_supports_jit", lambda model: False)


# Keras warns so of every dataset, unless it is told shuffle=False
@pytest.mark.filterwarnings("ignore:.shuffle=True. was passed:UserWarning")
def test_the_road_from_a_dataset_to_a_phone_works_as_readme_says(
    digits_as_cifar10, set_dtype_policy, tmp_path, monkeypatch, capsys
):
    narrow_resnet18(monkeypatch)  # the figures are not those of README
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    exec(program_with("tfds.load("), {})
    served, phone = capsys.readouterr().out.splitlines()[-2:]
    assert served.startswith("saved_models/cifar10: saved_model,")
    assert phone.startswith("cifar10.tflite: tflite-int8,")
    assert float(re.search(r"agreement ([\d.]+)%", phone)[1]) >= 95
    assert float(re.search(r"top-1 ([\d.]+)%", phone)[1]) > 70  # of ten classes, it has learnt
    assert "n = 40; 40 images show little" in phone
    assert (tmp_path / "saved_models" / "cifar10" / "saved_model.pb").is_file()
    with zipfile.ZipFile(tmp_path / "cifar10.tflite") as packed:
        assert packed.read("labels.txt").decode().splitlines() == NAMES


def test_from_torchvision_to_a_phone_is_four_lines(tmp_path, monkeypatch, capsys):
    program = program_with('weights="resnet18.safetensors"')
    assert len([line for line in program.splitlines() if line]) == 4
    monkeypatch.chdir(tmp_path)
    narrow_resnet18(monkeypatch)
    save_weights(model := build_resnet18(), "resnet18.safetensors")
    exec(program, {})
    assert re.match(r"resnet18.tflite: tflite, \d\.\d+ MB", capsys.readouterr().out)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8)
    expected, got = model.predict_on_batch(pixels), TFLiteFile(Path("resnet18.tflite"))(pixels)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert contents(Path("resnet18.tflite")).labels[:2] == ["tench", "goldfish"]


def test_the_feature_pyramid_has_a_level_at_each_stride():
    names = {}
    exec(program_with("pyramid ="), names)
    assert [x.shape for x in names["maps"]] == [
        (None, 64, 80, 64),
        (None, 32, 40, 128),
        (None, 16, 20, 256),
        (None, 8, 10, 512),
    ]
    assert names["pyramid"].output_shape == [
        (None, 256 // stride, 320 // stride, 256) for stride in (4, 8, 16, 32)
    ]


def test_the_verbs_are_functions(tmp_path, monkeypatch, capsys):
    train_quickly(monkeypatch)
    monkeypatch.chdir(tmp_path)
    exec(program_with("kr.train("), {})
    assert re.search(r"\d+\.\d\d% \(95 % interval .* n = 172\)", capsys.readouterr().out)
    assert (tmp_path / "saved_models" / "digits" / "model.keras").is_file()


def test_programs_import_from_nowhere_deeper_and_every_one_is_run_by_a_test():
    assert not any("keras_resnet18." in program for program in programs())
    run = ("tfds.load(", "pyramid =", "kr.train(", 'weights="imagenet"', "resnet18.safetensors")
    assert len(programs()) == len(run)
    for words in run:
        program_with(words)
