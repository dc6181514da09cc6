"""`train` makes one run of images and a recipe: the same one each time, or none at all."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil

import keras
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from keras_resnet18 import Preprocess, export, load_run, open_classifier, train
from keras_resnet18.classify.accuracy import measure
from keras_resnet18.data.sources import from_arrays, open_source
from keras_resnet18.errors import InputError
from keras_resnet18.fit.task import default_out
from keras_resnet18.recipe import Augment

QUIET = Console(quiet=True)


def test_two_trainings_of_one_recipe_give_bit_equal_weights(
    tiny_network, images, quick_recipe, tmp_path
):
    recipe = dataclasses.replace(quick_recipe, augment=Augment((0.5, 1.0), 2, True, 0.5))
    once = train(images, recipe, tmp_path / "once", console=QUIET)
    keras.utils.set_random_seed(99)  # what went before does not count
    again = train(images, recipe, tmp_path / "again", console=QUIET)
    other = train(images, dataclasses.replace(recipe, seed=1), tmp_path / "other", console=QUIET)
    weights, same, others = (run.model.get_weights() for run in (once, again, other))
    assert all(np.array_equal(a, b) for a, b in zip(weights, same, strict=True))
    assert not np.array_equal(weights[0], others[0])
    assert again.metrics == once.metrics


def test_it_learns(run):
    assert run.metrics["test"]["accuracy"] >= 0.75  # of three classes


def test_the_kept_epoch_is_the_best_by_validation(run):
    with run.history_file.open(newline="") as file:
        rows = list(csv.DictReader(file))
    best = max(
        rows, key=lambda row: (float(row["validation_accuracy"]), -float(row["validation_loss"]))
    )
    assert run.metrics["best_epoch"] == int(best["epoch"])
    for figure in ("accuracy", "loss"):  # without label smoothing, as in the evaluation
        assert run.metrics["validation"][figure] == pytest.approx(
            float(best[f"validation_{figure}"]), rel=1e-4
        )


def test_the_model_file_has_the_accuracy_that_the_run_reports(run, images):
    source = open_source(images)
    for kind in ("validation", "test"):
        result = measure(run.model.predict_on_batch, source.splits[kind], run.spec)
        assert result.to_dict() == run.metrics[kind] | {
            "loss": pytest.approx(run.metrics[kind]["loss"], rel=1e-4)
        }


def test_no_epoch_counts_a_left_over_image(run, images):
    # 49 images in batches of 8: a last batch of one would be no batch for BatchNorm
    assert open_source(images).splits["train"].size % run.recipe.batch_size == 1
    variances = [w for w in run.model.weights if w.path.endswith("moving_variance")]
    assert variances
    assert all(np.isfinite(variance.numpy()).all() for variance in variances)


def test_it_says_what_it_does(trained, quick_recipe):
    run, printed = trained
    lines = printed.splitlines()
    assert lines[0].endswith("float32: as the recipe says")
    assert "train: train/ (49 images); validation: val/ (9 images); test: test/ (12" in lines[1]
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert len(epochs) == quick_recipe.epochs
    assert f"kept epoch {run.metrics['best_epoch']} of {quick_recipe.epochs}" in printed
    for kind, n in (("validation", 9), ("test", 12)):
        accuracy = f"{run.metrics[kind]['accuracy']:.2%}"
        (line,) = (line for line in lines if line.startswith(f"{kind} ") and "accuracy" in line)
        for word in (accuracy, "95 % interval", f"n = {n}"):
            assert word in line
    assert lines[-1] == f"everything lies in {run.path}"


def test_a_run_of_arrays_in_another_precision(
    tiny_network, digits, quick_recipe, set_dtype_policy, tmp_path
):
    set_dtype_policy("float32")
    images, labels = digits
    source = from_arrays(images[:150], labels[:150])
    recipe = dataclasses.replace(
        quick_recipe, epochs=1, image_size=None, precision="mixed_bfloat16"
    )
    run = train(source, recipe, tmp_path / "run", console=QUIET)
    assert keras.config.dtype_policy().name == "float32"  # the user's setting is back
    assert run.environment["precision"] == "mixed_bfloat16"
    assert run.environment["precision_reason"] == "as the recipe says"
    assert run.model.get_layer("stem_conv").compute_dtype == "bfloat16"
    assert run.preprocess.size == (32, 32)  # the images' own
    assert run.source is None


def test_a_broken_validation_or_test_image_is_named_before_anything_is_trained(
    broken_images, quick_recipe, tmp_path
):
    with pytest.raises(InputError, match=r"val/bee/0\.png' \(.*\), and 1 more$"):
        train(broken_images, quick_recipe, tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_an_image_that_breaks_stops_the_training_with_its_name(
    tiny_network, broken_images, images, quick_recipe, tmp_path
):
    for split in ("val", "test"):
        shutil.copy(images / split / "bee" / "0.png", broken_images / split / "bee")
    before = keras.config.dtype_policy()
    with pytest.raises(InputError) as error:
        train(broken_images, quick_recipe, tmp_path / "run", console=QUIET)
    assert "train/bee/0.png" in str(error.value)
    assert "or with another in its place, train again with --overwrite" in str(error.value)
    assert "\n" not in str(error.value)
    assert keras.config.dtype_policy() == before
    with pytest.raises(InputError, match="unfinished run"):
        load_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("source", "recipe", "message"),
    [
        ("digit", "digits", "Received: 'digit'"),
        ("digits", "digit", "did you mean digits"),
        ("digits", "nowhere.toml", "Received: 'nowhere.toml', which is not there"),
        ("", "digits", "this folder is '.'"),
    ],
)
def test_what_cannot_be_used_leaves_nothing(tmp_path, source, recipe, message):
    with pytest.raises(InputError, match=message):
        train(source, recipe, tmp_path / "a" / "run", console=QUIET)
    assert list(tmp_path.iterdir()) == []


def test_balanced_classes_need_labels_that_are_known_before(digits, quick_recipe, tmp_path):
    source = from_arrays(digits[0][:60], digits[1][:60])
    splits = {kind: dataclasses.replace(s, labels=None) for kind, s in source.splits.items()}
    recipe = quick_recipe.changed(["optimizer.class_weights=balanced", "image_size=32"])
    with pytest.raises(InputError, match="needs a source whose labels are known"):
        train(dataclasses.replace(source, splits=splits), recipe, tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_weights_that_are_not_there_are_found_before_the_images_are_read(tmp_path):
    with pytest.raises(InputError, match=r"Received: 'nothere.pth', which is not there"):
        train("digits", out=tmp_path / "run", weights="nothere.pth", console=QUIET)


def test_a_link_to_itself_is_one_line(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(InputError, match="Received: "):
        train(tmp_path / "loop", "digits", tmp_path / "run", console=QUIET)
    with pytest.raises(InputError):
        train("digits", "digits", tmp_path / "loop" / "run", console=QUIET)


def test_one_setting_needs_no_list_around_it(tmp_path):
    with pytest.raises(InputError, match="epochs must be 1 or more"):
        train("digits", "digits", tmp_path / "run", settings="epochs=0", console=QUIET)


def test_images_of_many_sizes_need_an_image_size(images, quick_recipe, tmp_path):
    recipe = dataclasses.replace(quick_recipe, image_size=None)
    with pytest.raises(InputError, match="--set image_size=32"):
        train(images, recipe, tmp_path / "run", console=QUIET)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_taken_is_found_before_the_images_are_opened(run):
    with pytest.raises(InputError, match="holds a run"):
        train("no such source", "digits", run.path, console=QUIET)
    assert json.loads(run.metrics_file.read_text())


def test_a_run_is_named_after_its_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert default_out("digits").as_posix() == "saved_models/digits"
    assert default_out("tfds:mnist").as_posix() == "saved_models/tfds-mnist"
    assert default_out("tfds:a/160px-v2").as_posix() == "saved_models/tfds-a-160px-v2"
    assert default_out("/data/flowers/").as_posix() == "saved_models/flowers"
    assert default_out(".").as_posix() == f"saved_models/{tmp_path.name}"


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_wide_images_and_a_rectangular_input(tiny_network, quick_recipe, tmp_path, fit):
    """What is seen at the ends alone is learnt by every fit but the crop, which says so."""
    random = np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 8), ("test", 8)):
        for number, name in enumerate(("left", "right")):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 100, (10, 40, 3), np.uint8)
                pixels[:, 35 * number : 35 * number + 5] += 150
                Image.fromarray(pixels).save(tmp_path / "data" / split / name / f"{i}.png")
    recipe = quick_recipe.changed(["image_size=[8,12]", f"fit={fit}"])
    said = io.StringIO()
    out = tmp_path / "run"
    run = train(tmp_path / "data", recipe, out, console=Console(file=said, width=200))
    assert run.preprocess == Preprocess((8, 12), crop_ratio=1.0, fit=fit)
    assert run.model.input_shape == (None, 8, 12, 3)
    assert load_run(run.path).recipe == recipe
    unseen = "never see 62% of an image" in said.getvalue()
    assert unseen == (fit == "crop")
    assert (run.metrics["test"]["accuracy"] > 0.9) == (fit != "crop")
    (report,) = export(run, "tflite", tmp_path / "export")
    assert open_classifier(report.path).preprocess == run.preprocess
