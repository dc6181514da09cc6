"""A checkpoint is whole or not there; a damaged one is named and the one before is used."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from keras_resnet18.fit import resume as checkpoints
from keras_resnet18.fit.resume import Checkpoint, load_checkpoint, save_checkpoint


def made(step):
    random = np.random.default_rng(step)
    return Checkpoint(
        phase=0,
        epoch=2,
        step=step,
        seconds=1.5,
        total_seconds=90.25,
        rows=[{"epoch": 1, "loss": float("nan")}, {"epoch": 2, "loss": 0.1 + 0.2}],
        settings={"classes": ["ant", "蝉"]},
        values=[random.random((40, 50), np.float32), np.array([1, 2], np.uint32), np.int64(7)],
        best=[random.random(3)],
    )


def same(a, b):
    """Whether two checkpoints have the same bits; NaN equals NaN."""
    plain = [dataclasses.replace(c, values=[], best=[]) for c in (a, b)]
    return repr(plain[0]) == repr(plain[1]) and all(
        np.array_equal(x, y) and np.asarray(x).dtype == y.dtype
        for x, y in zip([*a.values, *a.best], [*b.values, *b.best], strict=True)
    )


def load(folder):
    said = []
    return load_checkpoint(folder, said.append), said


def test_what_is_loaded_is_what_was_saved(tmp_path):
    save_checkpoint(made(3), tmp_path / "checkpoints")
    loaded, said = load(tmp_path / "checkpoints")
    assert same(made(3), loaded)
    assert said == []


def test_the_newest_two_are_kept(tmp_path):
    for step in (9, 10, 100):
        save_checkpoint(made(step), tmp_path)
    (tmp_path / ".writing-x").write_text("of a process that was killed")
    save_checkpoint(made(101), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert load(tmp_path)[0].step == 101


def test_no_folder_and_an_empty_one_have_no_checkpoint(tmp_path):
    assert load(tmp_path / "nothing") == (None, [])
    assert load(tmp_path) == (None, [])


@pytest.mark.parametrize("position", range(5, 100, 6))
@pytest.mark.parametrize("harm", ["flip", "cut"])
def test_a_damaged_newest_one_is_named_and_the_one_before_is_used(tmp_path, position, harm):
    for step in (1, 2):
        save_checkpoint(made(step), tmp_path)
    newest = max(tmp_path.iterdir())
    data = bytearray(newest.read_bytes())
    at = len(data) * position // 100
    if harm == "flip":
        data[at] ^= 0x10
    else:
        del data[at:]
    newest.write_bytes(data)
    loaded, said = load(tmp_path)
    if harm == "flip" and not said:  # in the time that the zip format notes for each file
        assert same(loaded, made(2))
        return
    assert same(loaded, made(1))
    (line,) = said
    assert newest.name in line and "damaged" in line and "\n" not in line
    assert not newest.exists()  # or it would be kept in the place of a good one


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    save_checkpoint(made(1), tmp_path)

    def fail(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.np, "savez", fail)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(made(2), tmp_path)
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 1
    assert same(load(tmp_path)[0], made(1))
