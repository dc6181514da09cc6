"""`train` makes one run of images and a recipe, from scratch or from somebody's weights."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
import shutil

import keras
import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from small import build_tiny, train_quickly

from keras_resnet18 import (
    Preprocess,
    build_resnet18,
    export,
    from_arrays,
    info,
    load_run,
    open_classifier,
    open_source,
    report,
    save_weights,
    train,
)
from keras_resnet18.errors import InputError
from keras_resnet18.fit import network, task, train as trainer
from keras_resnet18.fit.task import default_out
from keras_resnet18.recipe import Finetune, Network, Recipe, load_recipe
from keras_resnet18.weights import catalogue

QUIET = Console(quiet=True)
HEAD_EPOCHS = 4


@pytest.fixture(scope="module", autouse=True)
def tiny_network():
    with pytest.MonkeyPatch.context() as patch:
        train_quickly(patch)
        yield


class Stopped(BaseException):
    """Instead of the training."""


def begin(*arguments, **options):
    """What a training begins with: its network, its run, and what it printed."""
    begun, said = [], io.StringIO()

    def stop(model, task, run, **others):
        begun.extend((model, run))
        raise Stopped

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(trainer, "train_network", stop)
        train(*arguments, console=Console(file=said, width=300), **options)
    return *begun, said.getvalue()


def rows(run):
    with run.history_file.open(newline="") as file:
        return list(csv.DictReader(file))


def test_it_learns_and_keeps_the_best_epoch_by_validation(run):
    assert run.metrics["test"]["accuracy"] >= 0.75  # of three classes
    best = max(
        rows(run),
        key=lambda row: (float(row["validation_accuracy"]), -float(row["validation_loss"])),
    )
    assert run.metrics["best_epoch"] == int(best["epoch"])
    for figure in ("accuracy", "loss"):  # without label smoothing, as in the evaluation
        assert run.metrics["validation"][figure] == pytest.approx(
            float(best[f"validation_{figure}"]), rel=1e-4
        )


def test_it_says_what_it_does(trained, quick_recipe):
    run, printed = trained
    lines = printed.splitlines()
    assert lines[0].endswith("float32: as the recipe says")
    assert "train: train/ (49 images); validation: val/ (9 images); test: test/ (12" in lines[1]
    assert printed.count("\nepoch ") == quick_recipe.epochs
    assert f"kept epoch {run.metrics['best_epoch']} of {quick_recipe.epochs}" in printed
    for kind, n in (("validation", 9), ("test", 12)):
        accuracy = f"{run.metrics[kind]['accuracy']:.2%}"
        assert re.search(rf"^{kind} .*{accuracy} .*95 % interval .*n = {n}", printed, re.MULTILINE)
    assert lines[-1] == f"run: {run.path}"


# arrays, with enough validation images to calibrate


@pytest.fixture(scope="module")
def calibrated(digits, quick_recipe, tmp_path_factory):
    """A run of arrays in mixed precision, and what was printed."""
    (a, b, c), (d, e, f) = (np.split(x[:700], [400, 550]) for x in digits)
    source = from_arrays(a, d, validation=(b, e), test=(c, f))
    recipe = dataclasses.replace(quick_recipe, image_size=None, precision="mixed_bfloat16")
    printed, before = io.StringIO(), keras.config.dtype_policy()
    out = tmp_path_factory.mktemp("runs") / "arrays"
    run = train(source, recipe, out, console=Console(file=printed, width=200))
    assert keras.config.dtype_policy() == before
    return run, printed.getvalue()


def test_a_run_of_arrays_has_their_size_and_its_own_precision(calibrated):
    run, _ = calibrated
    assert run.source is None
    assert run.preprocess.size == (32, 32)
    assert run.environment["precision"] == "mixed_bfloat16"
    assert run.environment["precision_reason"] == "as the recipe says"
    assert run.model.get_layer("stem_conv").compute_dtype == "bfloat16"


def test_a_calibrated_run_has_a_threshold_and_says_what_it_means(calibrated):
    run, printed = calibrated
    said, test = run.metrics["calibration"], run.metrics["test"]
    assert "calibrated on 150 validation images: temperature" in printed
    assert f"at the score threshold of {run.spec.threshold:.1%}, {test['coverage']:.1%}" in printed
    assert said["threshold"] == run.spec.threshold == test["threshold"]
    assert run.metrics["validation"]["coverage"] == pytest.approx(0.95, abs=0.01)
    assert run.metrics["validation"]["ece"] == pytest.approx(said["after"]["ece"], abs=1e-3)
    assert test["accuracy_answered"] >= test["accuracy"]


def test_the_threshold_goes_with_the_run_wherever_it_is_shown_and_exported(calibrated, tmp_path):
    run, _ = calibrated
    report(run)
    page = run.report_file.read_text(encoding="utf-8")
    for text in ("150 validation images", "score threshold", "validation images, before"):
        assert text in page
    card = run.card_file.read_text(encoding="utf-8").replace("\n", " ")
    assert f"below {run.spec.threshold:.1%}" in card
    (exported,) = export(run, "tflite", tmp_path)
    assert open_classifier(exported.path).spec == run.spec
    for shown in (run.path, exported.path):
        assert f"{run.spec.threshold:.1%}" in str(info(shown))


# images that cannot be used, and places


@pytest.mark.parametrize(
    ("large", "message"),  # of a large set, validation and test images are decoded before
    [(False, r"train/bee/0\.png' .*and 2 more$"), (True, r"val/bee/0\.png' .*and 1 more$")],
)
def test_a_broken_image_is_named_before_anything_is_trained(
    broken_images, quick_recipe, tmp_path, monkeypatch, large, message
):
    if large:
        monkeypatch.setattr("keras_resnet18.checking.images._QUICK", 0)
    with pytest.raises(InputError, match=message):
        train(broken_images, quick_recipe, tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_an_image_that_breaks_is_named(broken_images, images, quick_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_resnet18.checking.images._QUICK", 0)
    for split in ("val", "test"):
        shutil.copy(images / split / "bee" / "0.png", broken_images / split / "bee")
    before = keras.config.dtype_policy()
    with pytest.raises(InputError) as error:
        train(broken_images, quick_recipe, tmp_path / "run", console=QUIET)
    assert "train/bee/0.png" in str(error.value)
    assert "or with another in its place, train again with overwrite=True" in str(error.value)
    assert "\n" not in str(error.value)
    assert keras.config.dtype_policy() == before
    with pytest.raises(InputError, match="unfinished run"):
        load_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("source", "recipe", "others", "message"),
    [
        ("digit", "digits", {}, "Received: 'digit'"),
        ("digits", "nowhere.toml", {}, "Received: 'nowhere.toml', which is not there"),
        ("", "digits", {}, "this folder is '.'"),
        ("digits", None, {"weights": "no.pth"}, r"Received: 'no.pth', which is not there"),
        ("loop", "digits", {}, "Received: "),
    ],
)
def test_what_cannot_be_used_leaves_nothing(tmp_path, monkeypatch, source, recipe, others, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(InputError, match=message):
        train(source, recipe, tmp_path / "a" / "run", console=QUIET, **others)
    with pytest.raises(InputError):
        train(source, recipe, tmp_path / "loop" / "run", console=QUIET, **others)
    assert list(tmp_path.iterdir()) == [tmp_path / "loop"]


def test_balanced_classes_need_labels_that_are_known_before(digits, quick_recipe, tmp_path):
    source = from_arrays(digits[0][:60], digits[1][:60])
    splits = {kind: dataclasses.replace(s, labels=None) for kind, s in source.splits.items()}
    recipe = quick_recipe.changed(["optimizer.class_weights=balanced", "image_size=32"])
    with pytest.raises(InputError, match="needs a source whose labels are known"):
        train(dataclasses.replace(source, splits=splits), recipe, tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_images_of_many_sizes_need_an_image_size(images, quick_recipe, tmp_path):
    recipe = dataclasses.replace(quick_recipe, image_size=None)
    with pytest.raises(InputError, match="settings='image_size=32'"):
        train(images, recipe, tmp_path / "run", console=QUIET)
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_named_after_its_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert default_out("digits").as_posix() == "saved_models/digits"
    assert default_out("tfds:mnist").as_posix() == "saved_models/tfds-mnist"
    assert default_out("tfds:a/160px-v2").as_posix() == "saved_models/tfds-a-160px-v2"
    assert default_out("/data/flowers/").as_posix() == "saved_models/flowers"
    assert default_out(".").as_posix() == f"saved_models/{tmp_path.name}"


def test_padding_shows_the_ends_of_wide_images_which_a_crop_hides(quick_recipe, tmp_path):
    random = np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 8), ("test", 8)):
        for number, name in enumerate(("left", "right")):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 100, (10, 40, 3), np.uint8)
                pixels[:, 35 * number : 35 * number + 5] += 150
                Image.fromarray(pixels).save(tmp_path / "data" / split / name / f"{i}.png")
    recipe = quick_recipe.changed(["image_size=[8,12]", "fit=crop"])
    assert "never see 62% of an image" in begin(tmp_path / "data", recipe, tmp_path / "crop")[2]
    recipe, said = recipe.changed(["fit=pad"]), io.StringIO()
    run = train(tmp_path / "data", recipe, tmp_path / "pad", console=Console(file=said))
    assert "never see" not in said.getvalue()
    assert run.preprocess == Preprocess((8, 12), crop_ratio=1.0, fit="pad")
    assert run.model.input_shape == (None, 8, 12, 3)
    assert load_run(run.path).recipe == recipe
    assert run.metrics["test"]["accuracy"] > 0.9


# fine-tuning: the classifier first, then everything


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


def test_fine_tuning_is_one_run_with_one_history(tuned, recipe, checkpoint):
    run, printed = tuned
    assert load_run(run.path).recipe == recipe
    assert [row["epoch"] for row in rows(run)] == [str(1 + i) for i in range(HEAD_EPOCHS + 2)]
    lines = [line for line in printed.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == [f"{1 + i}/6" for i in range(6)]
    (line,) = (line for line in printed.splitlines() if line.startswith(str(checkpoint)))
    assert "predictions kept as it was" in line
    # AdamW's rate falls to nothing, and the recipe's own begins
    rates = [float(row["learning_rate"]) for row in rows(run)]
    assert rates[HEAD_EPOCHS - 1] == pytest.approx(0, abs=1e-6)
    assert 0 < rates[HEAD_EPOCHS] <= recipe.optimizer.learning_rate
    assert float(rows(run)[HEAD_EPOCHS - 1]["accuracy"]) >= 0.9  # by the classifier alone
    assert run.metrics["test"]["accuracy"] >= 0.75


def test_batch_norm_is_that_of_the_weights_bit_for_bit(tuned, pretrained):
    for layer in tuned[0].model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            assert layer.trainable  # for whoever goes on with it
            for ours, theirs in zip(
                layer.weights, pretrained.get_layer(layer.name).weights, strict=True
            ):
                np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("same", [True, False])
def test_a_run_of_ones_own_is_a_beginning_too(
    tuned, two_classes, images, tmp_path, monkeypatch, same
):
    """It brings its network, its size, its preprocessing, and its head by the classes' names."""
    run, source = tuned[0], two_classes if same else images
    monkeypatch.chdir(run.path.parent)
    model, new, said = begin(source, out=tmp_path / "again", weights=run.path.name)
    assert new.recipe.finetune.weights == str(run.path)  # which any directory has
    assert new.preprocess == run.preprocess
    assert new.recipe.network == run.recipe.network
    (line,) = (line for line in said.splitlines() if line.startswith(str(run.path)))
    assert "with the head of 2 classes" in line and ("; new: '蝉'" in line) != same
    for layer in filter(lambda layer: layer.weights, model.layers):
        others = run.model.get_layer(layer.name).get_weights()
        for mine, theirs in zip(layer.get_weights(), others, strict=True):
            kept = mine[..., : theirs.shape[-1]] if layer.name == "predictions" else mine
            np.testing.assert_array_equal(kept, theirs)


def test_a_fine_tunings_size_is_judged_by_its_runs_stem(tuned, two_classes, tmp_path):
    options = {"weights": str(tuned[0].path), "settings": ["image_size=16"]}
    _, new, _ = begin(two_classes, out=tmp_path / "run", **options)
    assert new.preprocess.size == (16, 16)


def test_weights_of_a_run_fit_its_own_network_alone(tuned, two_classes, tmp_path, monkeypatch):
    monkeypatch.setitem(network.BUILDERS, "resnet34", build_resnet18)
    options = {"weights": str(tuned[0].path), "settings": ["network.name=resnet34"]}
    message = r"leave network\.\* as it is in the run\. Received: other l"
    with pytest.raises(InputError, match=message):
        train(two_classes, out=tmp_path / "run", console=QUIET, **options)
    assert not (tmp_path / "run").exists()


def test_named_weights_bring_preprocessing(two_classes, recipe, resnet18, tmp_path, monkeypatch):
    published = Preprocess(
        crop_ratio=0.95, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )
    entry = dataclasses.replace(catalogue.find_weights("imagenet"), preprocess=published)
    save_weights(resnet18, path := tmp_path / "published.safetensors")
    monkeypatch.setattr(catalogue, "CATALOGUE", (entry,))
    monkeypatch.setattr("keras_resnet18.model.arguments.fetch", lambda entry: path)
    monkeypatch.setitem(network.BUILDERS, "resnet18", build_resnet18)
    named = dataclasses.replace(
        recipe, image_size=32, network=Network(stem="imagenet"), finetune=Finetune("imagenet")
    )
    for out in ("once", "again"):  # Python says a warning once, a training says it each time
        model, run, said = begin(two_classes, named, tmp_path / out)
        assert "the head for 2 classes is new" in said
    assert run.preprocess == dataclasses.replace(published, size=(32, 32))
    layer = model.get_layer("normalization")
    scale, offset = run.preprocess.scale_and_offset()
    np.testing.assert_allclose(layer.scale, scale)
    np.testing.assert_allclose(layer.offset, offset)
    kernels = (m.get_layer("stem_conv").kernel for m in (model, resnet18))
    np.testing.assert_array_equal(*kernels)


@pytest.mark.parametrize(
    ("weights", "crop_ratio", "kept"),
    [
        (None, None, 1.0),
        (None, 0.8, 0.8),
        ("imagenet", None, 0.95),
        ("imagenet", 0.8, 0.8),
        ("mine.pth", None, 0.875),
    ],
)
def test_a_crop_ratio_in_the_recipe_is_used(two_classes, weights, crop_ratio, kept):
    recipe = Recipe(
        image_size=32, crop_ratio=crop_ratio, finetune=Finetune(weights) if weights else None
    )
    assert task._preprocess(recipe, None, open_source(two_classes)).crop_ratio == kept


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("imagenett", "did you mean imagenet"),
        ("nowhere.safetensors", "does not exist"),
        ("resnet18d.ra2_in1k", "these weights are for a resnet18d"),
    ],
)
def test_wrong_weights_leave_nothing(two_classes, recipe, tmp_path, monkeypatch, weights, message):
    monkeypatch.setitem(network.BUILDERS, "resnet18", build_resnet18)
    with pytest.raises(InputError, match=message):
        train(two_classes, recipe.with_weights(weights), tmp_path / "run", console=QUIET)
    assert list(tmp_path.iterdir()) == []


def test_only_a_recipe_for_it_takes_weights():
    assert load_recipe("finetune").with_weights("a.pth").finetune.weights == "a.pth"
    with pytest.raises(InputError, match=r"use the recipe finetune. Received: recipe 'photos'"):
        load_recipe("photos").with_weights("imagenet")


@pytest.mark.parametrize("recipe", [None, "photos"])
def test_settings_are_refused_before_an_image_is_opened(tmp_path, monkeypatch, recipe):
    monkeypatch.setattr(trainer, "look", lambda *a, **k: pytest.fail("opened"))
    (tmp_path / "images").mkdir()
    settings = ["epochs=2", "epochs=1"]
    with pytest.raises(InputError, match="epochs must be given once"):
        train(tmp_path / "images", recipe, tmp_path / "run", settings=settings, console=QUIET)
    assert not (tmp_path / "run").exists()
