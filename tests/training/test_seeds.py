"""training/seeds.py, with a network that is trained in no time."""

from __future__ import annotations

import contextlib
import io
import shutil

import numpy as np
import pytest
import seeds
from rows import read_rows

from keras_resnet18 import load_run
from keras_resnet18.fit import train as trainer

pytestmark = pytest.mark.usefixtures("tiny_network")


def command(images, out, *more):
    options = ("--recipe=digits", "--set=epochs=2", "--set=batch_size=8", f"--out={out}")
    return [str(images), *options, *more]


@pytest.fixture(scope="module")
def printed_and_done(images, tmp_path_factory):
    """What two seeds printed, of which the first was interrupted, and their folder."""
    from small import train_quickly

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    out, printed = tmp_path_factory.mktemp("seeds") / "insects", io.StringIO()
    words = command(images, out, "--seeds", "0", "3", "--flip")
    with pytest.MonkeyPatch.context() as patch:
        train_quickly(patch)
        with pytest.MonkeyPatch.context() as first, pytest.raises(KeyboardInterrupt):
            first.setattr(trainer, "measure", interrupt)
            seeds.main(words)
        with contextlib.redirect_stdout(printed):
            seeds.main(words)
    return printed.getvalue(), out


@pytest.fixture(scope="module")
def done(printed_and_done):
    """What a folder holds after two seeds."""
    return printed_and_done[1]


def test_every_seed_leaves_a_run_and_a_row(done):
    rows = read_rows(done / "rows.jsonl")
    assert [row["seed"] for row in rows] == [0, 3]
    for row in rows:
        run = load_run(done / f"seed{row['seed']}")
        assert run.recipe.seed == row["seed"] and run.recipe.batch_size == 8
        assert row["test_accuracy"] == run.metrics["test"]["accuracy"]
        assert row["n"] == 12 and row["minutes"] > 0 and 0 <= row["flip_accuracy"] <= 1
    weights = [load_run(done / f"seed{seed}").model.get_weights()[0] for seed in (0, 3)]
    assert not np.array_equal(*weights)


def test_the_table_is_printed_again_without_training(images, done, capsys, monkeypatch):
    monkeypatch.delattr(seeds, "train")
    seeds.main(command(images, done, "--seeds", "0", "3"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| 0", "| 3", "| all 2"]
    accuracies = [row["test_accuracy"] for row in read_rows(done / "rows.jsonl")]
    assert seeds.mean_and_spread(accuracies) in lines[4]
    assert "test n = 12 images" in lines[6]


def test_a_seed_that_was_interrupted_goes_on(printed_and_done):
    assert printed_and_done[0].count("going on at ") == 1


def test_a_folder_keeps_to_one_recipe(images, done, tmp_path):
    other = shutil.copytree(done, tmp_path / "copy")
    with pytest.raises(SystemExit, match=r"^error: .* another folder.*--set epochs=3; before: "):
        seeds.main([*command(images, other), "--set=epochs=3"])


def test_a_run_is_fine_tuned(images, done, tmp_path):
    options = ["--weights", str(done / "seed0"), "--set=epochs=0", "--set=finetune.head_epochs=2"]
    seeds.main([str(images), *options, "--seeds", "1", f"--out={tmp_path}"])
    (row,) = read_rows(tmp_path / "rows.jsonl")
    assert row["epochs"] == 2 and load_run(tmp_path / "seed1").recipe.finetune
    assert str(seeds.default_out("/data/flowers/", None, "saved_models/insects")) == (
        "saved_models/seeds/flowers-from-insects"
    )
