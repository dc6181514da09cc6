"""training/rejection.py, on a tiny run and images that are not of its kind."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import rejection
from images import answers
from rows import read_rows

from keras_resnet18 import load_run, open_classifier


def test_auroc_is_the_chance_that_an_own_image_scores_higher():
    assert rejection.auroc([0.9, 0.8], [0.1, 0.2, 0.85]) == pytest.approx(5 / 6)


def test_images_below_the_threshold_are_refused():
    row = rejection.refused(np.array([0.2, 0.5, 0.7, 0.9]), 0.5)
    assert (row["n"], row["refused"]) == (4, 0.25)
    own = np.array([0.2, 0.5, 0.7, 0.9]), None, np.array([False, True, True, True])
    assert rejection.accuracies(own, 0.5) == {"accuracy": 0.75, "accuracy_kept": 1.0}
    assert rejection.accuracies(own, 1.0)["accuracy_kept"] is None


def test_energy_is_of_the_logits_behind_the_probabilities(run):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8)
    found = rejection.with_energy(run.model)(pixels)
    np.testing.assert_allclose(found[:, :3], run.model.predict_on_batch(pixels), atol=1e-6)
    _, bias = run.model.layers[-1].get_weights()
    run.model.layers[-1].bias.assign(bias + 2)  # the probabilities stay
    moved = rejection.with_energy(run.model)(pixels)
    run.model.layers[-1].bias.assign(bias)
    np.testing.assert_allclose(moved[:, :3], found[:, :3], atol=1e-6)
    np.testing.assert_allclose(moved[:, 3], found[:, 3] + 2, atol=1e-5)


def test_the_threshold_is_that_of_metrics_or_of_the_validation_images(run, tmp_path):
    copy = load_run(shutil.copytree(run.path, tmp_path / "run"))
    assert copy.spec.threshold is None  # of 9 validation images
    threshold, _ = rejection.threshold_of(copy, lambda: np.linspace(0, 1, 101))
    assert threshold == pytest.approx(0.05)
    copy.spec_file.write_text(dataclasses.replace(copy.spec, threshold=0.3).to_json())
    assert rejection.threshold_of(load_run(copy.path), pytest.fail) == (0.3, "classifier.json")


def test_a_limit_is_shared_out_among_splits():
    assert rejection.parts_of(10, [33, 33, 34]) == [3, 4, 3]
    assert rejection.parts_of(2, [98, 1, 1]) == [2, 0, 0]
    assert rejection.parts_of(None, [5, 5]) == rejection.parts_of(10, [5, 5]) == [None, None]


def test_own_and_foreign_images_are_measured_once(run, tmp_path, capsys, monkeypatch):
    file = tmp_path / "rows.jsonl"
    command = ["--run", str(run.path), "--images=50", f"--rows={file}", "--foreign=eights=digits"]
    command.append("--other=bee")
    rejection.main(command)
    own, foreign = read_rows(file)
    assert own["refused"] + 0.1 < own["refused_or_other"] < 1  # of 12 images 4 are bees
    assert "refused, or 'bee'" in capsys.readouterr().out
    rejection.main(command)
    assert own["n"] == 12 and own["accuracy"] == run.metrics["test"]["accuracy"]
    assert foreign["n"] == 50 and 0 <= foreign["refused"] <= 1
    validation = open_classifier(run).open_images().splits["validation"]
    found, _ = answers(run.model.predict_on_batch, validation, run.preprocess)
    assert own["threshold"] == pytest.approx(np.percentile(found.max(1), 5), abs=1e-6)
    printed = capsys.readouterr().out
    assert "| eights | " in printed and "on all of its own images" in printed

    monkeypatch.delattr(rejection, "answers")
    rejection.main(command)
    assert capsys.readouterr().out in printed
