"""`report` makes the page and the model card of a run from its files."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

from keras_resnet18 import report
from keras_resnet18.errors import InputError
from keras_resnet18.run import Run


@pytest.fixture
def copy(run, tmp_path) -> Run:
    """The trained run once more, with a mistake that is said with 99 %, and no page."""
    copied = Run(Path(shutil.copytree(run.path, tmp_path / "insects")))
    copied.report_file.unlink()
    vars(copied)["model"] = run.model  # to open it takes seconds
    header, first, *rows = copied.predictions_file.read_text(encoding="utf-8").splitlines()
    path = first.split(",")[0]
    rows = [header, f"{path},ant,蝉,0.990000", *rows]
    copied.predictions_file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    metrics = copied.metrics
    metrics["test"]["accuracy"] = 11 / 12
    copied.write_json(copied.metrics_file, metrics)
    return copied


def reverse(rows: list[str]) -> list[str]:
    return rows[::-1]


def mend(rows: list[str]) -> list[str]:
    return [rows[0].replace("蝉", "ant"), *rows[1:]]


def exaggerate(rows: list[str]) -> list[str]:
    return [rows[0].replace("0.99", "7.5"), *rows[1:]]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (reverse, "rows in another order than the images"),
        (lambda rows: rows[:-1], "11 rows for 12 images"),
        (mend, "12 of 12 right for an accuracy of 91.67%"),
        (exaggerate, "probabilities that are none"),
    ],
)
def test_edited_predictions_make_no_page(copy, change, fault):
    header, *rows = copy.predictions_file.read_text(encoding="utf-8").splitlines()
    changed = "\n".join([header, *change(rows)]) + "\n"
    copy.predictions_file.write_text(changed, encoding="utf-8")
    with pytest.raises(InputError, match=f"measures again. Received: .* with {fault}"):
        report(copy)
    assert not copy.report_file.exists()


def test_the_command_that_makes_it_again_has_the_options_of_the_images(copy):
    left_out = {"a.png": "a copy of b.png", "c.png": "it is cut"}
    environment = copy.environment | {"split_seed": 3, "left_out": left_out}
    copy.write_json(copy.environment_file, environment)
    html = report(copy, data=copy.source).read_text(encoding="utf-8")
    assert "--split-seed 3 --dedupe --on-bad-image skip --out again" in html


def test_train_ends_by_naming_the_page(trained):
    run, printed = trained
    assert f"a page to look at: {run.report_file}" in printed
    assert f"{run.metrics['test']['accuracy']:.1%} of 12 test images right" in (
        run.report_file.read_text(encoding="utf-8")
    )


def test_the_page_shows_the_mistake_with_its_image(copy):
    assert report(copy) == copy.report_file
    html = copy.report_file.read_text(encoding="utf-8")
    mistake = re.search(r"<li>.*?</li>", html, re.DOTALL)[0]
    assert "said with 99.0%" in mistake and "test/ant/0.png" in mistake
    assert 'alt="Image of ant, taken for 蝉"' in mistake
    assert "keras-resnet18 train" in html and copy.source in html


def test_copies_are_said_to_be_none_only_where_they_were_looked_for(copy):
    assert "No image is in two classes or two splits" in report(copy).read_text(encoding="utf-8")
    metrics = copy.metrics
    metrics["images"]["compared"] = False  # as for arrays, TFDS and the digits
    copy.write_json(copy.metrics_file, metrics)
    html = report(copy).read_text(encoding="utf-8")
    assert "No image is in" not in html and "was not looked for" in html


def test_the_card_has_metadata_that_the_hub_reads(copy):
    report(copy)
    card = ModelCard.load(copy.card_file)
    assert card.data.pipeline_tag == "image-classification"
    (accuracy, _) = card.data.eval_results
    assert accuracy.metric_value == copy.metrics["test"]["accuracy"]
    assert str(Path(copy.source).parent) not in card.content  # a path of this machine
    assert "`ant`, `bee`, `蝉`" in card.text


def test_somebodys_readme_is_not_replaced(copy):
    copy.card_file.write_text("mine")
    report(copy)
    assert copy.card_file.read_text() == "mine"


def test_a_run_without_predictions_is_measured_again(run, copy):
    copy.predictions_file.unlink()
    report(copy)
    assert copy.predictions_file.read_text() == run.predictions_file.read_text()


def test_a_run_with_older_figures_is_measured_again(run, copy):
    metrics = copy.metrics
    for figures in (metrics["validation"], metrics["test"]):
        for name in ("ece", "threshold", "coverage", "accuracy_answered"):
            del figures[name]
    del metrics["calibration"]
    copy.write_json(copy.metrics_file, metrics)
    html = report(copy).read_text(encoding="utf-8")
    assert f"{run.metrics['test']['accuracy']:.1%} of 12 test images right" in html


@pytest.mark.parametrize("key", ["test", "best_epoch", "calibration", "images"])
@pytest.mark.parametrize("value", [None, 3, "x", {"threshold": None}])
def test_damaged_metrics_are_one_line_or_do_not_matter(copy, key, value):
    metrics = copy.metrics | {key: value}
    copy.write_json(copy.metrics_file, metrics)
    try:
        report(copy)
    except InputError as error:
        assert "\n" not in str(error) and "metrics.json" in str(error)


def test_images_that_moved_are_found_by_data(copy, images, tmp_path):
    moved = Path(shutil.copytree(images, tmp_path / "moved"))
    environment = copy.environment | {"source": str(tmp_path / "gone")}
    copy.write_json(copy.environment_file, environment)
    with pytest.raises(InputError, match=r"have moved: give their place with --data"):
        report(copy)
    assert report(copy, data=str(moved)).is_file()
    for image in (moved / "test" / "ant").iterdir():
        image.rename(image.with_name(f"new-{image.name}"))
    with pytest.raises(InputError, match="12 images that the run was tested on"):
        report(copy, data=str(moved))
    copy.write_json(copy.environment_file, copy.environment | {"images": {}})
    with pytest.raises(InputError, match=r"the \? images that the run was tested on"):
        report(copy, data=str(moved))


def test_a_run_of_arrays_has_a_page_without_their_images(copy):
    copy.write_json(copy.environment_file, copy.environment | {"source": None})
    html = report(copy).read_text(encoding="utf-8")
    assert "The run was trained on arrays" in html and "<li>" not in html
    copy.predictions_file.unlink()
    with pytest.raises(InputError, match=r"needs predictions\.csv or the images"):
        report(copy)


@pytest.mark.parametrize("text", ["", "path\n", "path,true class,predicted class,probability\n"])
def test_damaged_predictions_are_one_line(copy, text):
    copy.predictions_file.write_text(text)
    with pytest.raises(InputError, match=r"predictions\.csv must be the table") as error:
        report(copy)
    assert "\n" not in str(error.value)


def test_images_are_cropped_as_the_network_got_them(run, images):
    from keras_resnet18.data.sources import open_source
    from keras_resnet18.reports.report import images_at

    split = open_source(images).splits["test"]
    found = images_at(split, run.preprocess, [5, 0])
    for index, image in zip((5, 0), found, strict=True):
        expected = list(split.elements(None, 0).map(split.fetch))[index][0]
        np.testing.assert_array_equal(image, run.preprocess.resize_and_crop(expected))
