"""Images go into the folders of their classes; nothing is lost, and nothing is overwritten."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from keras_resnet18.classify.predict import Prediction
from keras_resnet18.classify.sort import check_folder, sort_into
from keras_resnet18.errors import InputError

LABELS = ("a/b", "a:b", "..", "cat")


@pytest.fixture
def photos(tmp_path: Path) -> list[Prediction]:
    """Three images of one name, one of a strange class, one uncertain, one broken."""
    rows = [("x", "cat"), ("y", "cat"), ("z", "a/b"), ("x", "a:b"), ("y", ".."), ("z", None)]
    found = []
    for number, (folder, label) in enumerate(rows):
        path = tmp_path / "photos" / f"{folder}{number // 3}" / "1.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]))
        error = None if number != 5 else "broken"
        top = () if label is None else ((label, 0.9),)
        found.append(Prediction(path, top, error, len(LABELS), None if error else False))
    unsure = tmp_path / "photos" / "u.jpg"
    unsure.write_bytes(b"u")
    return [*found, Prediction(unsure, (("cat", 0.3),), None, len(LABELS), True)]


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("link", [False, True])
def test_each_image_is_there_once_however_often_it_is_sorted(
    tmp_path: Path, photos: list[Prediction], link: bool
) -> None:
    out = tmp_path / "sorted"
    (out / "cat").mkdir(parents=True)
    (out / "cat" / "1.jpg").write_bytes(b"mine")
    expected = {
        "cat/1.jpg": b"mine",
        "cat/1-2.jpg": b"\0",
        "cat/1-3.jpg": b"\1",
        "a_b/1.jpg": b"\2",
        "a_b-2/1.jpg": b"\3",
        "_/1.jpg": b"\4",
        "not sure/u.jpg": b"u",
    }
    steps = sort_into(out, iter(photos), LABELS, link=link)
    for _ in range(3):  # and is interrupted
        next(steps)
    for _ in range(2):
        found = list(sort_into(out, photos, LABELS, link=link))
        assert contents(out) == expected
        assert [path is None for _, path in found] == [one.error is not None for one in photos]
    assert (out / "cat/1-2.jpg").is_symlink() == link
    assert all(one.path.exists() for one in photos)


def test_a_folder_among_the_images_or_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "file").touch()
    for folder, words in (
        ("photos/sorted", "outside of theirs"),
        ("photos", "outside of theirs"),
        ("file", "which is a file"),
        ("file/below", "below the file"),
    ):
        with pytest.raises(InputError, match=words):
            check_folder(tmp_path / folder, [tmp_path / "photos"])


def test_predict_sorts_and_prints_as_ever(trained, images: Path, tmp_path: Path) -> None:
    from keras_resnet18.cli.app import app

    run, _ = trained
    out = tmp_path / "sorted"
    arguments = ["predict", str(run.path), str(images / "test"), "--sort-into", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    names = {path.read_bytes() for path in (images / "test").rglob("*.png")}
    assert {path.read_bytes() for path in out.rglob("*.png")} == names
    assert len(result.stdout.splitlines()) == 12
    assert "sorted: " in result.stderr and os.fspath(out) in result.stderr
    refused = CliRunner().invoke(app, ["predict", str(run.path), str(images), "--link"])
    assert refused.exit_code == 2 or isinstance(refused.exception, InputError)
