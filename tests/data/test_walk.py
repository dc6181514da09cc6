"""Every file below a folder is listed once, whatever links and systems leave there."""

from __future__ import annotations

import os

import pytest

from keras_resnet18 import images
from keras_resnet18.data.folder import walk
from keras_resnet18.data.sources import open_source
from keras_resnet18.errors import InputError


def test_files_are_listed_sorted_and_what_is_not_a_file_is_never_opened(make_folder):
    folder = make_folder("b/2.png", "a/x/1.JPG", "3.png")
    os.mkfifo(folder / "a/pipe.png")  # to read it would wait for ever
    (folder / "a/folder.png").mkdir()
    tree = walk(folder)
    assert tree.images == ["3.png", "a/x/1.JPG", "b/2.png"] and tree.others == ["a/pipe.png"]
    assert tree.folders == ["a", "a/folder.png", "a/x", "b"]


def test_folders_of_systems_and_network_drives_are_not_classes(make_folder):
    classes = [f"{c}/{i}.png" for c in "ab" for i in range(5)]
    hidden = ["#recycle", "$RECYCLE.BIN", ".git", "@eaDir", "System Volume Information"]
    folder = make_folder(*classes, *(f"{name}/x.png" for name in hidden), "a/__MACOSX/y.png")
    assert open_source(folder).classes == ("a", "b")
    assert walk(folder).images == classes
    assert walk(folder).hidden == sorted([*hidden, "a/__MACOSX"])


def test_links_in_a_circle_end(make_folder):
    folder = make_folder("a/1.png", "b/2.png")
    (folder / "a/up").symlink_to(folder)
    (folder / "b/self").symlink_to(folder / "b")
    assert walk(folder).images == ["a/1.png", "b/2.png"]
    assert walk(folder).links == ["a/up", "b/self"]


def test_a_folder_elsewhere_is_followed_once_and_its_files_keep_their_own_names(make_folder):
    root = make_folder("data/a/1.png", "data/b/2.png", "shelf/c/3.png", "shelf/c/deep/4.png")
    folder = root / "data"
    (folder / "a/0.png").symlink_to(root / "shelf/c/3.png")
    (folder / "c").symlink_to(root / "shelf/c")
    (folder / "again").symlink_to(root / "shelf/c/deep")
    tree = walk(folder)
    assert tree.images == ["a/1.png", "again/4.png", "b/2.png", "c/3.png"]
    assert tree.links == ["a/0.png"]


def test_an_image_and_a_link_to_it_are_one_image(make_folder):
    folder = make_folder("train/a/1.png", "train/b/2.png", "other/a/3.png")
    (folder / "test/a").mkdir(parents=True)
    (folder / "test/a/1.png").symlink_to(folder / "train/a/1.png")
    (folder / "test/a/gone.png").symlink_to(folder / "nowhere.png")
    tree = walk(folder)
    assert tree.images == ["other/a/3.png", "train/a/1.png", "train/b/2.png"]
    assert tree.links == ["test/a/1.png", "test/a/gone.png"]


def test_links_into_a_hidden_store_are_followed(make_folder):
    folder = make_folder(".git/annex/1.png", ".git/annex/2.png")  # as git-annex and DVC have it
    for number, name in enumerate("ab", 1):
        (folder / name).mkdir()
        (folder / name / "x.png").symlink_to(folder / f".git/annex/{number}.png")
    assert walk(folder).images == ["a/x.png", "b/x.png"]


def test_a_folder_that_cannot_be_read_is_an_input_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"readable. Received: '.*file' .Not a directory"):
        walk(tmp_path / "file")


@pytest.mark.parametrize(
    ("suffix", "remedy"), [(".heic", r"keras-resnet18\[heic\]"), (".tif", "Convert the files")]
)
def test_a_folder_of_another_format_says_so_by_extension(tmp_path, suffix, remedy, monkeypatch):
    monkeypatch.delitem(images.FORMATS, "HEIF", raising=False)  # as without the extra
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"1{suffix.upper()}").touch()
    with pytest.raises(InputError, match=f"0 images and 2 {suffix} files.*{remedy}"):
        open_source(tmp_path)
