"""With folds every image tests once, and the network that ships has trained on all of them."""

from __future__ import annotations

import csv
import dataclasses
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from small import build_tiny, draw_images, train_quickly

from keras_resnet18 import (
    evaluate,
    export,
    from_arrays,
    load_run,
    report,
    save_weights,
    train,
    verify as verify_export,
)
from keras_resnet18.data.folds import deal, fold_source
from keras_resnet18.data.sources import open_source
from keras_resnet18.errors import InputError
from keras_resnet18.fit import batches, resume
from keras_resnet18.fit.resume import Checkpoints
from keras_resnet18.recipe import Augment, Finetune, Recipe
from keras_resnet18.reports.info import info
from keras_resnet18.run import Run

QUIET = Console(quiet=True)


class Killed(BaseException):
    """In the place of a kill: nothing of the library expects it."""


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        train_quickly(patch)
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 + 30 images of two classes, one of them twice in other bytes."""
    folder = draw_images(tmp_path_factory.mktemp("folds") / "photos", {"ant": 90, "bee": 30})
    Image.open(folder / "bee/7.png").save(folder / "bee/copy.bmp")
    return folder


@pytest.fixture(scope="module")
def recipe(quick_recipe: Recipe) -> Recipe:
    network = dataclasses.replace(quick_recipe.network, dropout=0.3)
    return dataclasses.replace(quick_recipe, augment=Augment(shift=1, flip=True), network=network)


@pytest.fixture(scope="module")
def finetune(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_weights(build_tiny(input_shape=(16, 16, 3), classes=2, stem="", dropout=0), path)
    tuned = Finetune(str(path), head_epochs=2, head_learning_rate=0.01)
    return dataclasses.replace(recipe, epochs=1, finetune=tuned)


@pytest.fixture(scope="module")
def run(photos: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(photos, recipe, tmp_path_factory.mktemp("run") / "run", folds=2, console=QUIET)


class TestDeal:
    def test_every_class_is_dealt_evenly_and_copies_and_groups_stay_together(
        self, tmp_path: Path, photos: Path
    ) -> None:
        rows = [f"{path},{path.parent.name},{path.stem[0]}" for path in photos.rglob("*.png")]
        (tmp_path / "t.csv").write_text("path,label,group\n" + "\n".join(rows) + "\n")
        source = open_source(tmp_path / "t.csv")
        folds = deal(source, 3, 0, [])
        pool = source.pool()
        assert sorted(pool.names) == sorted(str(path) for path in photos.rglob("*.png"))
        of_group: dict[str, set[int]] = {}
        for name, number in zip(pool.names, folds.numbers, strict=True):
            of_group.setdefault(Path(name).stem[0], set()).add(number)
        assert len(of_group) == 10 and all(len(numbers) == 1 for numbers in of_group.values())

        source = open_source(photos)
        copies = ["bee/7.png", "bee/copy.bmp", "ant/1.png"]
        folds = deal(source, 3, 0, [copies])
        pool = source.pool()
        counts = Counter(zip(folds.numbers.tolist(), pool.labels.tolist(), strict=True))
        assert all(29 <= counts[i, 0] <= 31 and 9 <= counts[i, 1] <= 12 for i in range(3))
        assert len({folds.numbers[pool.names.index(name)] for name in copies}) == 1
        assert (deal(source, 3, 0, [copies]).numbers == folds.numbers).all()
        assert (deal(source, 3, 1, [copies]).numbers != folds.numbers).any()

    def test_a_fold_trains_on_all_other_images(self) -> None:
        pixels = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((4, 4, 3), np.uint8)
        test = (pixels[30:] + 100, np.arange(10) % 2)
        source = from_arrays(pixels[:30], np.arange(30) % 2, test=test)
        folds = deal(source, 4, 0, [])
        seen = Counter[int]()
        for number in range(4):
            splits = fold_source(source, folds, number).splits
            values = [
                {int(splits[kind].fetch(i)[0][0, 0, 0]) for i in range(splits[kind].size)}
                for kind in ("train", "test")
            ]
            assert len(values[0] | values[1]) == 40 and not values[0] & values[1]
            seen.update(values[1])
        assert set(seen.values()) == {1}

    @pytest.mark.parametrize(
        ("labels", "count", "words"),
        [
            (np.arange(20) % 2, 2.0, "folds must be a whole number, 2 to 10"),
            (np.arange(20) % 2, 11, "folds must be a whole number, 2 to 10"),
            ([0] * 19 + [1] * 4, 5, None),
            ([0] * 23 + [1], 3, "every class images in two of them.*'1' in one fold alone"),
        ],
    )
    def test_numbers_and_classes_that_cannot_be_dealt_are_refused(
        self, tmp_path: Path, recipe: Recipe, labels: Any, count: Any, words: str | None
    ) -> None:
        source = from_arrays(np.zeros((len(labels), 16, 16, 3), np.uint8), labels)
        if words is None:
            assert len(set(deal(source, count, 0, []).numbers)) == count
            return
        with pytest.raises(InputError, match=words):
            train(source, recipe, tmp_path / "run", folds=count, console=QUIET)
        assert not (tmp_path / "run").exists()


class TestRun:
    def test_every_image_is_tested_once_and_nothing_is_called_a_test_split(self, run: Run) -> None:
        figures = run.figures
        assert figures["n"] == 121 and figures["folds"] == run.folds == 2
        assert "test" not in run.metrics and "validation" not in run.metrics
        with run.predictions_file.open(newline="") as file:
            rows = list(csv.DictReader(file))
        paths = [row["path"] for row in rows]
        assert all(row["true class"] == row["path"].split("/")[0] for row in rows)
        assert len(set(paths)) == 121 and "bee/copy.bmp" in paths
        assert run.metrics["calibration"]["n"] == 121 and run.spec.threshold is not None
        assert run.metrics["images"]["compared"] == 121
        assert run.metrics["best_epoch"] == run.metrics["epochs"] == len(run.history)
        assert {x.name for x in run.path.iterdir()}.isdisjoint({"checkpoints", ".lock", "folds"})

    def test_the_figures_are_of_networks_that_had_not_seen_the_image(
        self, tmp_path: Path, recipe: Recipe
    ) -> None:
        random = np.random.default_rng(0)
        pixels = random.integers(0, 256, (60, 16, 16, 3)).astype(np.uint8)
        labels = random.permutation(np.arange(60) % 2)  # nothing to learn but the images
        by_heart = dataclasses.replace(recipe, epochs=12, augment=Augment())
        source = from_arrays(pixels, labels)
        found = train(source, by_heart, tmp_path / "run", folds=2, console=QUIET)
        assert found.history[-1]["accuracy"] > 0.9
        assert found.figures["accuracy"] < 0.7

    def test_what_is_written_says_what_the_figures_are(self, run: Run) -> None:
        found = evaluate(run)
        assert (found.accuracy, found.n) == (run.figures["accuracy"], 121)
        page = report(run).read_text()
        texts = (page, run.card_file.read_text(), info(run.path), " ".join(found.notes()))
        for text in texts:
            assert re.search("2-fold|estimated from 2 folds", text)
            assert not re.search("test image|validation|test accuracy|test split", text)
        assert "not used" not in page and "confidence interval" in page

    def test_an_export_is_compared_on_images_seen_in_training(self, run: Run) -> None:
        (made,) = export(run, "tflite-dynamic")
        checked = verify_export(made.path, run)
        for found in (made, checked):
            assert found.fault is None and found.comparison.n == 121 and found.seen
            assert found.comparison.accuracy is None and found.comparison.coverage is not None
            assert "seen in training" in f"{found}" and "seen in training" in found.table()
        assert made.threshold == run.spec.threshold
        assert evaluate(made.path).trained_on == 121

    def test_new_images_are_measured_as_ever(self, run: Run, tmp_path: Path) -> None:
        others = draw_images(tmp_path / "others", {"ant": 5, "bee": 4})
        found = evaluate(run, data=str(others))
        assert (found.n, found.trained_on, found.folds) == (9, 0, None)


def test_a_training_killed_in_any_fold_goes_on_bit_equal(
    run: Run, photos: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EVERY", "AT_AN_EPOCH", "TIMES_ITS_COST"):
        monkeypatch.setattr(resume, name, 0)
    killed: set[str] = set()
    original = Checkpoints.on_train_batch_end

    def end(self: Checkpoints, batch: int, logs: Any = None) -> None:
        original(self, batch, logs)
        if (self._epoch, self._step) == (1, 4) and (where := str(self._folder)) not in killed:
            killed.add(where)
            raise Killed

    monkeypatch.setattr(Checkpoints, "on_train_batch_end", end)
    out = tmp_path / "run"
    with pytest.raises(Killed):
        train(photos, recipe, out, folds=2, console=QUIET)
    for fold in (2, 3):
        with pytest.raises(InputError, match="unfinished run"):
            load_run(out)
        with pytest.raises(Killed):
            train(resume=out, console=QUIET)
        if fold == 2:  # the first is done, by the recipe as it was
            text = (out / "recipe.toml").read_text()
            (out / "recipe.toml").write_text(text.replace("rate = 0.002", "rate = 0.001"))
            with pytest.raises(InputError, match=r"fold1 cannot go on.*rate: 0.002, now 0.001"):
                train(resume=out, console=QUIET)
            (out / "recipe.toml").write_text(text)
    (out / "checkpoints/fold1/held-out.npz").write_bytes(b"garbage")  # is trained again
    again = train(resume=out, console=QUIET)
    assert len(killed) == 3
    for ours, theirs in zip(again.model.get_weights(), run.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert again.metrics == run.metrics
    assert again.predictions_file.read_text() == run.predictions_file.read_text()
    assert sorted(x.name for x in out.iterdir()) == sorted(
        x.name for x in run.path.iterdir() if x.name not in ("README.md", "export", "report.html")
    )


def test_a_run_is_replaced_whole_by_folds_whose_features_are_computed_once(
    run: Run, photos: Path, finetune: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, original = [], batches.features_of

    def count(body: Any, split: Any, *others: Any) -> Any:
        sizes.append(split.size)
        return original(body, split, *others)

    monkeypatch.setattr(batches, "features_of", count)
    copied = shutil.copytree(run.path, tmp_path / "run")
    again = train(photos, finetune, copied, folds=3, overwrite=True, console=QUIET)
    assert sizes == [121] and again.figures["n"] == 121 and len(again.history) == 3
    assert again.folds == 3
    assert not again.replacement.path.exists() and not again.checkpoints_folder.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dedupe": True}, "leave out dedupe and cluster"),
        ({"settings": "patience=3"}, "leave out patience and max_minutes. Received: .*patience"),
    ],
)
def test_arguments_that_contradict_folds_are_refused(
    photos: Path, recipe: Recipe, tmp_path: Path, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        train(photos, recipe, tmp_path / "run", folds=3, console=QUIET, **arguments)
    assert not (tmp_path / "run").exists()
