"""`report` makes the page and the model card of a run from its files."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from small import build_tiny

from keras_resnet18 import evaluate, export, load_run, open_source, report
from keras_resnet18.classify.exported import TFLiteFile
from keras_resnet18.errors import InputError
from keras_resnet18.reports.report import activation_maps, images_at
from keras_resnet18.run import Run
from keras_resnet18.spec import ClassifierSpec


@pytest.fixture
def copy(run, tmp_path) -> Run:
    """The trained run once more, with a mistake with a probability of 99 %, and no page."""
    copied = Run(Path(shutil.copytree(run.path, tmp_path / "insects")))
    copied.report_file.unlink()
    vars(copied)["model"] = run.model  # to open it takes seconds
    header, first, *rows = copied.predictions_file.read_text(encoding="utf-8").splitlines()
    rows = [header, f"{first.split(',')[0]},ant,蝉,0.990000", *rows]
    copied.predictions_file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    metrics = copied.metrics
    metrics["test"]["accuracy"] = 11 / 12
    copied.write_json(copied.metrics_file, metrics)
    return copied


def html_of(run, **options):
    assert report(run, **options) == run.report_file
    return run.report_file.read_text(encoding="utf-8")


def test_train_ends_by_naming_the_page(trained):
    run, printed = trained
    assert f"report: {run.report_file}" in printed
    said = f"{run.metrics['test']['accuracy']:.1%} of 12 test images right"
    assert said in run.report_file.read_text(encoding="utf-8")


def test_the_page_shows_the_mistake_with_its_image(copy):
    html = html_of(copy)
    mistake = re.search(r"<li>.*?</li>", html, re.DOTALL)[0]
    assert "(99.0%), true" in mistake and "test/ant/0.png" in mistake
    assert 'alt="Image of ant, taken for 蝉"' in mistake
    assert f"keras-resnet18 train {copy.source} --recipe" in html


def test_the_command_that_makes_it_again_has_the_options_of_the_images(copy):
    left_out = {"a.png": "a copy of b.png", "c.png": "it is cut"}
    environment = copy.environment | {"split_seed": 3, "left_out": left_out}
    copy.write_json(copy.environment_file, environment)
    html = html_of(copy, data=copy.source)
    assert "--split-seed 3 --dedupe --on-bad-image skip --out again" in html


def test_copies_are_said_to_be_none_only_where_they_were_looked_for(copy):
    assert "no image is in two classes or two splits: 70 compared" in html_of(copy)
    metrics = copy.metrics
    metrics["images"]["compared_by"] = None  # as for arrays, TFDS and the digits
    copy.write_json(copy.metrics_file, metrics)
    html = html_of(copy)
    assert "no image is in" not in html and "were not searched for" in html


def test_page_and_card_say_what_the_score_threshold_does(copy):
    spec = dataclasses.replace(ClassifierSpec.read(copy.spec_file), threshold=0.625)
    copy.spec_file.write_text(spec.to_json(), encoding="utf-8")
    metrics = copy.metrics
    metrics["test"] |= {"threshold": 0.625, "coverage": 0.75, "accuracy_answered": None}
    copy.write_json(copy.metrics_file, metrics)
    html = html_of(copy)
    assert "the answer is “not sure”" in html
    assert "<dt>score threshold</dt><dd>62.5%</dd>" in html
    assert "<dt>test images answered at it</dt><dd>75.0%</dd>" in html
    assert "If the highest is below 62.5%" in copy.card_file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda rows: rows[::-1], "12 images in another order"),
        (lambda rows: [rows[0].replace("蝉", "ant"), *rows[1:]], "100.00% right, for 12 .*91.67%"),
        (lambda rows: [], "not enough values"),
    ],
)
def test_predictions_of_other_images_or_figures_make_no_page(copy, change, fault):
    header, *rows = copy.predictions_file.read_text(encoding="utf-8").splitlines()
    changed = "\n".join([header, *change(rows)]) + "\n"
    copy.predictions_file.write_text(changed, encoding="utf-8")
    with pytest.raises(InputError, match=rf"^predictions\.csv .* Received: .*{fault}"):
        report(copy)
    assert not copy.report_file.exists()


@pytest.mark.parametrize(
    ("name", "fault"), [("metrics.json", "with 'bee'"), ("predictions.csv", "with 'wasp'")]
)
def test_a_class_that_was_renamed_in_one_file_makes_no_page(copy, name, fault):
    text = (copy.path / name).read_text(encoding="utf-8")
    (copy.path / name).write_text(re.sub(r"(?<=[\",])bee(?=[\",])", "wasp", text), encoding="utf-8")
    with pytest.raises(InputError, match=fault) as error:
        report(copy.path)
    assert "\n" not in str(error.value) and not copy.report_file.exists()


def test_a_class_is_renamed_in_the_specification_alone(copy):
    text = copy.spec_file.read_text(encoding="utf-8")
    copy.spec_file.write_text(text.replace('"bee"', '"wasp"'), encoding="utf-8")
    run = load_run(copy.path)
    page = report(run).read_text(encoding="utf-8")
    assert '<th scope="row">wasp</th>' in page and ">bee<" not in page
    assert evaluate(run).per_class[1].name == "wasp"
    (made,) = export(run, "tflite")
    assert made.comparison.accuracy is not None  # of the images' folders, which keep their names
    assert TFLiteFile(made.path).spec.labels == ("ant", "wasp", "蝉")
    copy.spec_file.write_text(json.dumps(json.loads(text) | {"labels": ["a"] * 3}))
    with pytest.raises(InputError, match="different"):
        report(copy.path)


def test_the_card_has_metadata_that_the_hub_reads_and_a_program_that_runs(copy, monkeypatch):
    report(copy)
    card = ModelCard.load(copy.card_file)
    assert card.data.pipeline_tag == "image-classification"
    (accuracy, _) = card.data.eval_results
    assert accuracy.metric_value == copy.metrics["test"]["accuracy"]
    assert str(Path(copy.source).parent) not in card.content  # a path of this machine
    assert "`ant`, `bee`, `蝉`." in card.text
    program = re.search(r"```python\n(.*?)```", card.text, re.DOTALL)[1]
    monkeypatch.chdir(copy.path)
    names = {"pixels": np.zeros((2, 16, 16, 3), np.uint8)}
    exec(program, names)
    assert names["probabilities"].shape == (2, 3) and names["labels"] == ["ant", "bee", "蝉"]


def test_a_card_of_somebodys_own_stays(copy):
    report(copy)
    copy.card_file.write_text("mine")
    report(copy)
    assert copy.card_file.read_text() == "mine"


def test_images_that_moved_are_found_by_data(copy, images, tmp_path):
    moved = Path(shutil.copytree(images, tmp_path / "moved"))
    environment = copy.environment | {"source": str(tmp_path / "gone")}
    copy.write_json(copy.environment_file, environment)
    with pytest.raises(InputError, match=r"have moved: give their place as data="):
        report(copy)
    assert report(copy, data=str(moved)).is_file()
    for image in (moved / "test" / "ant").iterdir():
        image.rename(image.with_name(f"new-{image.name}"))
    with pytest.raises(InputError, match="12 images that the run was tested on"):
        report(copy, data=str(moved))


def test_a_run_of_arrays_has_a_page_without_their_images(copy):
    copy.write_json(copy.environment_file, copy.environment | {"source": None})
    html = html_of(copy)
    assert "The run was trained on arrays" in html and 'alt="Image of' not in html


def test_images_are_cropped_as_the_network_got_them(run, images):
    split = open_source(images).splits["test"]
    found = images_at(split, run.preprocess, [5, 0])
    for index, image in zip((5, 0), found, strict=True):
        expected = list(split.elements(None, 0).map(split.fetch))[index][0]
        np.testing.assert_array_equal(image, run.preprocess.resize_and_crop(expected))


# Class activation maps


@pytest.fixture(scope="module")
def network():
    """A network whose first map is the red of an image, and its second the blue."""
    import keras

    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(2, 1, use_bias=False)(image)
    pooled = keras.layers.GlobalAveragePooling2D(name="head_pool")(maps)
    answer = keras.layers.Dense(2, activation="softmax", name="predictions")(pooled)
    model = keras.Model(image, answer)
    model.layers[1].set_weights([np.array([[[[1, 0], [0, 0], [0, 1]]]], np.float32)])
    model.get_layer("predictions").set_weights([np.eye(2) * 2 - 1, np.zeros(2)])
    return model


def test_the_map_of_a_class_is_its_weights_times_the_last_maps(network):
    pixels = np.zeros((3, 8, 8, 3), np.uint8)
    pixels[:, 1, 2, 0] = 200  # red
    pixels[:, 6, 5, 2] = 100  # blue
    pixels[2] = 0
    red, blue, empty = activation_maps(network, pixels, np.array([0, 1, 0]))
    assert np.argwhere(red).tolist() == [[1, 2]] and red[1, 2] == 1
    assert np.argwhere(blue).tolist() == [[6, 5]] and blue[6, 5] == 1
    assert not empty.any()


def test_another_head_has_no_map():
    model = build_tiny(input_shape=(8, 8, 3), classes=3, stem="small", dropout=0)
    assert activation_maps(model, np.zeros((1, 8, 8, 3), np.uint8), np.array([0])) is None


def test_the_training_time_counts_the_steps_that_were_taken(copy):
    rows = [{**row, "steps": 2.0, "images_per_second": 0.1} for row in copy.history]
    rows[-1]["steps"] = 1.0  # a limit in minutes came in the middle of the epoch
    copy.write_history(rows)
    batch = min(copy.recipe.batch_size, copy.environment["images"]["train"]["n"])
    minutes = sum(row["steps"] for row in rows) * batch / 0.1 / 60
    page = report(copy).read_text(encoding="utf-8")
    assert f"{minutes:.0f} min" in page
