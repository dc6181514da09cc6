"""Fine-tuning is one run: the classifier first, then everything, from somebody's weights."""

from __future__ import annotations

import csv
import dataclasses
import io

import keras
import numpy as np
import pytest
from rich.console import Console
from small import build_tiny, train_quickly

from keras_resnet18 import Preprocess, build_resnet18, load_run, save_weights, train
from keras_resnet18.data.sources import open_source
from keras_resnet18.errors import InputError
from keras_resnet18.fit import network, task
from keras_resnet18.fit import train as trainer
from keras_resnet18.recipe import Finetune, Network, Recipe, load_recipe
from keras_resnet18.weights import catalogue

HEAD_EPOCHS = 4


@pytest.fixture(scope="module", autouse=True)
def tiny_network():
    with pytest.MonkeyPatch.context() as patch:
        train_quickly(patch)
        yield


@pytest.fixture(scope="module")
def pretrained():
    """A network of three classes, with statistics that no training left."""
    model = build_tiny(input_shape=(16, 16, 3), classes=3, stem="", dropout=0)
    random = np.random.default_rng(0)
    model.set_weights([random.uniform(0.5, 1, w.shape) * w.numpy() for w in model.weights])
    return model


@pytest.fixture(scope="module")
def checkpoint(pretrained, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "insects.safetensors"
    save_weights(pretrained, path)
    return path


@pytest.fixture(scope="module")
def recipe(quick_recipe, checkpoint):
    return dataclasses.replace(
        quick_recipe,
        epochs=2,
        finetune=Finetune(str(checkpoint), head_epochs=HEAD_EPOCHS, head_learning_rate=0.01),
    )


@pytest.fixture(scope="module")
def two_classes(images, tmp_path_factory):
    """The images without one of their classes."""
    folder = tmp_path_factory.mktemp("two")
    for split in ("train", "val", "test"):
        for name in ("ant", "bee"):
            (folder / split).mkdir(exist_ok=True)
            (folder / split / name).symlink_to(images / split / name)
    return folder


@pytest.fixture(scope="module")
def tuned(two_classes, recipe, tmp_path_factory):
    printed = io.StringIO()
    out = tmp_path_factory.mktemp("runs") / "tuned"
    run = train(two_classes, recipe, out, console=Console(file=printed, width=200))
    return run, printed.getvalue()


def rows(run):
    with run.history_file.open(newline="") as file:
        return list(csv.DictReader(file))


def test_it_is_one_run_with_one_history(tuned, recipe):
    run, printed = tuned
    assert load_run(run.path).recipe == recipe
    assert [row["epoch"] for row in rows(run)] == [str(1 + i) for i in range(HEAD_EPOCHS + 2)]
    lines = [line for line in printed.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == [f"{1 + i}/6" for i in range(6)]
    # AdamW's rate falls to nothing, and the recipe's own begins
    rates = [float(row["learning_rate"]) for row in rows(run)]
    assert rates[HEAD_EPOCHS - 1] == pytest.approx(0, abs=1e-6)
    assert 0 < rates[HEAD_EPOCHS] <= recipe.optimizer.learning_rate


def test_it_says_what_it_took_of_the_weights(tuned, checkpoint):
    (line,) = (line for line in tuned[1].splitlines() if line.startswith(str(checkpoint)))
    assert "predictions kept as it was" in line


def test_it_knows_more_than_it_was_trained_for(tuned):
    assert float(rows(tuned[0])[HEAD_EPOCHS - 1]["accuracy"]) >= 0.9  # by the classifier alone
    assert tuned[0].metrics["test"]["accuracy"] >= 0.75


def test_batch_norm_is_that_of_the_weights_bit_for_bit(tuned, pretrained):
    for layer in tuned[0].model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            assert layer.trainable  # for whoever goes on with it
            for ours, theirs in zip(
                layer.weights, pretrained.get_layer(layer.name).weights, strict=True
            ):
                np.testing.assert_array_equal(ours, theirs)


def test_twice_gives_the_same_bits(tuned, two_classes, recipe, tmp_path):
    keras.utils.set_random_seed(99)
    again = train(two_classes, recipe, tmp_path / "again", console=Console(quiet=True))
    for ours, theirs in zip(again.model.get_weights(), tuned[0].model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("same", [True, False])
def test_a_run_of_ones_own_is_a_beginning_too(tuned, two_classes, images, tmp_path, same):
    """It brings its network, its size, its preprocessing, and its head where the classes fit."""
    run, said = tuned[0], io.StringIO()
    again = train(
        two_classes if same else images,
        out=tmp_path / "again",
        weights=str(run.path),
        settings=["epochs=0", "finetune.head_epochs=1", "finetune.head_learning_rate=1e-9"],
        console=Console(file=said, width=300),
    )
    assert again.preprocess == run.preprocess
    assert again.recipe.network == run.recipe.network
    (line,) = (line for line in said.getvalue().splitlines() if line.startswith(str(run.path)))
    assert ("with its head" in line) == same
    assert ("its head left out: the classes are others" in line) != same
    for layer in again.model.layers:
        if layer.weights and (layer.name != "predictions" or same):
            for mine, theirs in zip(
                layer.get_weights(), run.model.get_layer(layer.name).get_weights(), strict=True
            ):
                np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_weights_of_a_run_fit_its_own_network_alone(tuned, two_classes, tmp_path, monkeypatch):
    run = tuned[0]
    monkeypatch.setitem(network.BUILDERS, "resnet34", build_resnet18)
    with pytest.raises(
        InputError, match=r"leave network\.\* as the run has it\. Received: other l"
    ):
        train(
            two_classes,
            out=tmp_path / "run",
            weights=str(run.path),
            settings=["network.name=resnet34"],
            console=Console(quiet=True),
        )
    assert not (tmp_path / "run").exists()


def test_no_epochs_leave_the_body_as_it_was(two_classes, recipe, pretrained, tmp_path):
    head_alone = dataclasses.replace(recipe, epochs=0)
    tuned = train(two_classes, head_alone, tmp_path / "run", console=Console(quiet=True))
    assert len(rows(tuned)) == HEAD_EPOCHS
    for name in ("stem_conv", "stem_bn"):
        layers = (model.get_layer(name) for model in (tuned.model, pretrained))
        for ours, theirs in zip(*(layer.weights for layer in layers), strict=True):
            np.testing.assert_array_equal(ours, theirs)


class Stopped(BaseException):
    """Instead of the training."""


def test_named_weights_bring_their_preprocessing_and_normalisation(
    two_classes, recipe, resnet18, tmp_path, monkeypatch
):
    published = Preprocess(
        crop_ratio=0.95, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )
    entry = dataclasses.replace(catalogue.find_weights("imagenet"), preprocess=published)
    save_weights(resnet18, tmp_path / "published.safetensors")
    monkeypatch.setattr(catalogue, "CATALOGUE", (entry,))
    monkeypatch.setattr(
        "keras_resnet18.model.arguments.fetch", lambda entry: tmp_path / "published.safetensors"
    )
    monkeypatch.setitem(network.BUILDERS, "resnet18", build_resnet18)
    caught = []

    def stop(model, recipe, batches, run, **others):
        caught.extend((model, run.preprocess))
        raise Stopped

    monkeypatch.setattr(trainer, "train_network", stop)
    named = dataclasses.replace(
        recipe, image_size=32, network=Network(stem="imagenet"), finetune=Finetune("imagenet")
    )
    for out in ("once", "again"):  # Python says a warning once, a training says it each time
        said = io.StringIO()
        with pytest.raises(Stopped):
            train(two_classes, named, tmp_path / out, console=Console(file=said, width=200))
        assert "the head for 2 classes is new" in said.getvalue()
    model, preprocess = caught[-2:]
    assert preprocess == dataclasses.replace(published, size=(32, 32))
    layer = model.get_layer("normalization")
    scale, offset = preprocess.scale_and_offset()
    np.testing.assert_allclose(layer.scale, scale)
    np.testing.assert_allclose(layer.offset, offset)
    np.testing.assert_array_equal(
        model.get_layer("stem_conv").kernel, resnet18.get_layer("stem_conv").kernel
    )


@pytest.mark.parametrize(
    ("weights", "crop_ratio", "kept"),
    [
        (None, None, 1.0),
        (None, 0.8, 0.8),
        ("imagenet", None, 0.95),
        ("imagenet", 0.8, 0.8),
        ("mine.pth", None, 0.875),
        ("mine.pth", 0.8, 0.8),
    ],
)
def test_a_crop_ratio_in_the_recipe_is_used(two_classes, weights, crop_ratio, kept):
    recipe = Recipe(
        image_size=32, crop_ratio=crop_ratio, finetune=Finetune(weights) if weights else None
    )
    assert task._preprocess(recipe, open_source(two_classes)).crop_ratio == kept


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("imagenett", "did you mean imagenet"),
        ("nowhere.safetensors", "does not exist"),
        ("resnet18d.ra2_in1k", "these weights are for a resnet18d"),
    ],
)
def test_weights_that_are_none_leave_nothing(
    two_classes, recipe, tmp_path, monkeypatch, weights, message
):
    monkeypatch.setitem(network.BUILDERS, "resnet18", build_resnet18)
    with pytest.raises(InputError, match=message):
        train(
            two_classes,
            recipe.with_weights(weights),
            tmp_path / "run",
            console=Console(quiet=True),
        )
    assert list(tmp_path.iterdir()) == []


def test_only_a_recipe_for_it_takes_weights():
    assert load_recipe("finetune").with_weights("a.pth").finetune.weights == "a.pth"
    with pytest.raises(InputError, match=r"use the recipe finetune. Received: recipe 'photos'"):
        load_recipe("photos").with_weights("imagenet")
