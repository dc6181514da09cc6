"""Digits, arrays, IDX files and folders as one `Source`: used, split, named or refused."""

from __future__ import annotations

import gzip
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_resnet18 import train
from keras_resnet18.data.sources import from_arrays, open_source
from keras_resnet18.errors import InputError
from keras_resnet18.images import read_image
from keras_resnet18.recipe import SPLITS


def numbered(folder, count, suffix=".png"):
    return [f"{folder}/{i:03d}{suffix}" for i in range(count)]


def fetched(split):
    examples = list(split.elements(None, 0).map(split.fetch).as_numpy_iterator())
    return [image for image, _ in examples], [int(label) for _, label in examples]


def homes(source):
    """The split of each named image."""
    return {name: kind for kind in SPLITS for name in source.splits[kind].names or ()}


def sizes(source):
    return [source.splits[kind].size for kind in SPLITS]


# Digits and arrays


def test_digits_are_scikit_learns_in_rgb():
    source = open_source("digits")
    _, validation, test = sizes(source)
    assert sum(sizes(source)) == 1797 and 140 < validation < 220 and 140 < test < 220
    assert source.classes == tuple("0123456789") and source.image_size == (8, 8)
    images, labels = fetched(source.splits["test"])
    assert images[0].shape == (8, 8, 3) and images[0].dtype == np.uint8
    assert (images[0] == images[0][..., :1]).all()
    assert (np.min(images), np.max(images)) == (0, 255)
    np.testing.assert_array_equal(labels, source.splits["test"].labels)


IMAGES = np.arange(200 * 4 * 5, dtype=np.int64).reshape(200, 4, 5).astype(np.uint8)
LABELS = np.arange(200) % 3


def test_arrays_of_any_channels_come_back_as_rgb():
    rgb = np.stack([IMAGES] * 3, -1)
    for given in (IMAGES, IMAGES[..., np.newaxis], rgb):
        source = from_arrays(given, LABELS, test=(given[:7], LABELS[:7]))
        images, labels = fetched(source.splits["test"])
        np.testing.assert_array_equal(images, rgb[:7])
        assert labels == [0, 1, 2, 0, 1, 2, 0]
        assert source.image_size == (4, 5) and source.splits["test"].names is None


def test_no_row_of_an_array_is_in_two_splits_and_none_is_lost():
    rows = np.arange(200, dtype=np.uint8).reshape(200, 1, 1)
    splits = from_arrays(rows, LABELS).splits
    dealt = [int(image[0, 0, 0]) for kind in SPLITS for image in fetched(splits[kind])[0]]
    assert sorted(dealt) == list(range(200))
    given = from_arrays(rows, LABELS, validation=(rows[:9], LABELS[:9]), test=(rows, LABELS))
    assert sizes(given) == [200, 9, 200]


@pytest.mark.parametrize(
    ("images", "labels", "options", "message"),
    [
        (IMAGES / 255.0, LABELS, {}, "uint8, 0 to 255.*float64"),
        (IMAGES[0], LABELS, {}, "shape .n, height, width.*4, 5"),
        (np.zeros((200, 4, 5, 2), np.uint8), LABELS, {}, "1 or 3 channels"),
        (IMAGES, LABELS[:-1], {}, "one for each of 200"),
        (IMAGES, np.eye(3)[LABELS], {}, "one for each of 200.*argmax"),
        (IMAGES, LABELS / 1, {}, "whole numbers"),
        (IMAGES, LABELS - 1, {}, "count from 0.*-1"),
        (IMAGES, LABELS * 0, {}, "two classes or more"),
        (IMAGES, LABELS * 2, {}, "training image.*none of '1', '3'"),
        (IMAGES[:4], LABELS[:4], {}, "every split needs an image.*4 images"),
        (IMAGES, LABELS, {"test": (IMAGES[:, :3], LABELS)}, "one size"),
        (IMAGES, LABELS, {"classes": ["a", "b", "b"]}, "different names, one for each label"),
        (IMAGES, LABELS, {"classes": ["a", "b", "\udcff"]}, "one-line strings"),
    ],
)
def test_unusable_arrays_are_an_input_error(images, labels, options, message):
    with pytest.raises(InputError, match=message):
        from_arrays(images, labels, **options)


@pytest.mark.parametrize("images", [tf.data.Dataset.range(3), (IMAGES, LABELS), 3], ids=type)
def test_what_is_neither_path_nor_name_is_told_of_from_arrays(images):
    for use in (open_source, train):
        with pytest.raises(InputError, match=r"from_arrays\(images, labels\). Received: ") as error:
            use(images)
        assert "\n" not in str(error.value)


def test_a_source_is_found_again_unless_it_came_from_arrays(make_folder, monkeypatch):
    folder = make_folder(*numbered("digits/a", 40), *numbered("digits/b", 40))
    monkeypatch.chdir(folder)
    assert open_source("digits").spec == "digits" and open_source("digits").image_size == (8, 8)
    for path in ("./digits", Path("digits")):
        assert open_source(path).spec == str(folder.resolve() / "digits")
    for name in ("digits", "tfds:mnist", str(folder)):
        assert from_arrays(IMAGES, LABELS, name=name).spec is None


# IDX files


def write_idx(path, values):
    header = bytes((0, 0, 8, values.ndim)) + b"".join(n.to_bytes(4) for n in values.shape)
    data = header + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_mnist(folder, suffix="", dot="-"):
    for prefix, size in (("train", 200), ("t10k", 30)):
        write_idx(folder / f"{prefix}-images{dot}idx3-ubyte{suffix}", IMAGES[:size])
        write_idx(folder / f"{prefix}-labels{dot}idx1-ubyte{suffix}", LABELS[:size])


@pytest.mark.parametrize(("suffix", "dot"), [("", "-"), (".gz", "-"), ("", ".")])
def test_idx_files_are_read_packed_or_not(tmp_path, suffix, dot):
    write_mnist(tmp_path, suffix, dot)
    source = open_source(tmp_path)
    images, labels = fetched(source.splits["test"])
    np.testing.assert_array_equal(np.stack(images)[..., 0], IMAGES[:30])
    np.testing.assert_array_equal(labels, LABELS[:30])
    assert sum(sizes(source)) == 230
    assert source.image_size == (4, 5) and source.name == str(tmp_path)
    for path in tmp_path.glob("t10k*"):
        path.unlink()
    assert sum(sizes(open_source(tmp_path))) == 200  # the test images are carved


def test_damaged_idx_files_are_an_input_error(tmp_path):
    write_mnist(tmp_path)
    images, labels = tmp_path / "train-images-idx3-ubyte", tmp_path / "train-labels-idx1-ubyte"
    good = images.read_bytes()
    for bad in (good[:-1], good[:9], b"", b"\0\0\x0b\x03" + good[4:], good + b"\0"):
        images.write_bytes(bad)
        with pytest.raises(InputError, match="an IDX file must hold"):
            open_source(tmp_path)
    images.write_bytes(good)
    write_idx(labels, LABELS[:100])
    with pytest.raises(InputError, match="one for each of 200"):
        open_source(tmp_path)
    labels.unlink()
    with pytest.raises(InputError, match="without train-labels"):
        open_source(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(good)[:-20])
    with pytest.raises(InputError, match="must be readable"):
        open_source(tmp_path)


def test_labels_that_begin_at_1_are_said_to(tmp_path):
    write_mnist(tmp_path)
    for path in tmp_path.glob("*labels*"):
        write_idx(path, LABELS[: 30 if "t10k" in path.name else 200] + 1)
    highest = LABELS[:200].max() + 1
    message = f"from 0. Received: .* labels from 1 to {highest}. Subtract 1"
    with pytest.raises(InputError, match=message):
        open_source(tmp_path)
    with pytest.raises(InputError, match="none of 'a'"):  # has a name, and no images
        from_arrays(IMAGES[:6], [1, 2, 2, 1, 2, 1], classes=["a", "b", "c"])


# Folders


def test_a_folder_of_classes_is_dealt_out(make_folder):
    names = [*numbered("dog", 60), *numbered("cat/young/deep", 60, ".JPG")]
    source = open_source(make_folder(*names))
    assert source.classes == ("cat", "dog") and source.image_size is None
    assert homes(source).keys() == set(names)
    for split in source.splits.values():
        assert list(split.names) == sorted(split.names)
        assert [name[:3] for name in split.names] == [source.classes[i][:3] for i in split.labels]
    train, _, test = sizes(source)
    assert 84 <= train <= 108
    assert "about 10 % of" in source.split_notes[0] and f"({test} images)" in source.split_notes[0]


def test_pixels_and_labels_are_those_of_the_named_file(make_folder):
    split = open_source(make_folder(*numbered("a", 40), *numbered("b", 40))).splits["train"]
    images, labels = fetched(split)
    for name, image, label in zip(split.names or (), images, labels, strict=True):
        assert image.shape == (12, 10, 3)
        assert image[0, 0, 0] == int(name[2:5]) + 40 * (name[0] == "b")
        assert label == (name[0] == "b")


def test_new_files_and_another_place_move_no_image_to_another_split(make_folder, tmp_path):
    before = homes(open_source(make_folder(*numbered("b", 50), *numbered("c", 50))))
    shutil.copytree(tmp_path, tmp_path / "copy/deeper")
    assert homes(open_source(tmp_path / "copy/deeper")) == before
    shutil.rmtree(tmp_path / "copy")
    after = homes(open_source(make_folder(*numbered("a", 50), *numbered("b", 90))))
    assert len(after) == 190
    assert before.items() < after.items()


def test_own_folders_are_the_splits(make_folder):
    names = ["train/a/1.png", "train/b/1.png", "valid/a/2.png", "valid/b/2.png", "test/b/3.png"]
    source = open_source(make_folder(*names))
    assert list(homes(source).items()) == list(
        zip(names, ["train"] * 2 + ["validation"] * 2 + ["test"], strict=True)
    )
    assert source.split_notes == (
        "train: train/ (2 images); validation: valid/ (2 images); test: test/ (1 images)",
        "no test image of 'a'",
    )


@pytest.mark.parametrize(
    ("own", "kind", "carved"), [("val", "validation", "test"), ("test", "test", "validation")]
)
def test_the_missing_split_is_carved_from_train(make_folder, own, kind, carved):
    train = [*numbered("train/a", 60), *numbered("train/b", 60)]
    source = open_source(make_folder(*train, f"{own}/a/x.png", f"{own}/b/x.png"))
    assert set(source.splits[kind].names) == {f"{own}/a/x.png", f"{own}/b/x.png"}
    assert 4 <= source.splits[carved].size <= 22 and sum(sizes(source)) == 122
    assert f"{carved}: about 10 % of train/ by hash" in source.split_notes[0]
    assert f"{kind}: {own}/ (2 images)" in source.split_notes[0]


@pytest.mark.parametrize(
    "tops",
    [
        ("train/a", "train/b"),
        ("bus", "car", "train"),
        ("bullet_train", "freight_train"),
        ("bullet_train/day", "freight_train/day"),  # of one split
        ("test_tube", "train_station"),
        ("test_tube/glass", "train_station/hall"),
    ],
)
def test_a_lone_train_is_a_split_and_among_other_vehicles_a_class(make_folder, tops):
    source = open_source(make_folder(*(name for top in tops for name in numbered(top, 40))))
    classes = tuple(top.removeprefix("train/").split("/")[0] for top in tops)
    assert source.classes == classes and all(sizes(source))


def test_a_class_that_validation_lacks_shifts_no_index(make_folder):
    train = [name for c in "abc" for name in numbered(f"train/{c}", 30)]
    source = open_source(make_folder(*train, "val/a/x.png", "val/c/x.png"))
    np.testing.assert_array_equal(source.splits["validation"].labels, [0, 2])
    assert "no validation image of 'b'" in source.split_notes


def test_what_is_not_used_is_counted_and_said(make_folder):
    classes = [*numbered("train/a", 40), *numbered("train/b", 40), *numbered("test", 5)]
    hidden = [".git/x.png", "train/a/.ipynb_checkpoints/x.png", "train/a/.hidden.png"]
    folder = make_folder(*classes, *hidden, "__MACOSX/a/x.png")
    (folder / "train/a/Thumbs.db").write_bytes(b"x")
    (folder / "train/b/notes.txt").write_text("x")
    (folder / "README").write_text("x")
    (folder / "train/aa/deeper").mkdir(parents=True)
    (folder / "val").mkdir()
    source = open_source(folder)
    assert source.classes == ("a", "b") and len(homes(source)) == 80
    assert "test: about 10 % of train/ by hash" in source.split_notes[0]
    assert source.notes == (
        "ignored 2 files that are not images (1 without ending and 1 .txt): "
        "'README', 'train/b/notes.txt'",
        "ignored 5 files and folders that are hidden or the system's: "
        "'.git', '__MACOSX', 'train/a/.hidden.png' and 2 more",
        "ignored 5 images that lie in no class folder",
        "not a class, because there are no images in it: 'train/aa', 'val'",
    )


def test_names_in_any_script_work_however_they_are_composed(make_folder):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    others = ["می\u200cخواهم", "全角\u3000空白", "🐈\u200d⬛", "a\u00a0b"]
    training = (name for c in (composed, *others) for name in numbered(f"train/{c}", 3))
    held_out = f"val/{decomposed}/ö.png", f"val/{others[0]}/Ω.png", f"test/{decomposed}/ö.png"
    folder = make_folder(*training, *held_out)
    source = open_source(folder)
    assert source.classes == tuple(sorted([composed, *others]))
    images, labels = fetched(source.splits["validation"])
    assert len(images) == 2
    assert {source.classes[label] for label in labels} == {composed, others[0]}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "one folder for each class.* with 0 images"),
        (["1.png", "2.png"], "one folder for each class.* with 2 images"),
        (["a/1.png", "a/2.png"], "two classes or more. Received: .* with 'a'"),
        (["a/1.png", "b/1.png", "b/2.png"], "every split needs an image.* 3 images"),
        (["a\nb/1.png", "c/1.png"], r"one-line strings.*'a\\nb'"),
        (numbered("a", 9) + numbered("not sure", 9), "labels must not be 'not sure'"),
        (["val/a/1.png", "val/b/1.png"], "there must be train/"),
        (["train/a/1.png", "val/a/1.png", "valid/a/1.png"], "at most one folder for each split"),
        (["train/a/1.png", "val/a/1.png", "cats/1.png"], "and no class.*'cats'"),
        (["train/1.png", "val/a/1.png"], "one folder for each class.* with 2 images"),
        (
            [*numbered("train/a", 5), *numbered("train/b", 5), "val/a/1.png", "val/zebra/1.png"],
            "training image.*none of 'zebra'",
        ),
    ],
)
def test_unusable_folders_are_an_input_error_of_one_line(make_folder, names, message):
    with pytest.raises(InputError, match=message) as caught:
        open_source(make_folder(*names))
    assert "\n" not in str(caught.value) and "Received: " in str(caught.value)


def test_files_that_are_not_images_are_found_at_once_and_named(make_folder):
    folder = make_folder(*numbered("a", 40), *numbered("b", 40))
    (folder / "a/text.jpg").write_text("no image")
    (folder / "b/empty.png").touch()
    with pytest.raises(InputError, match=r"2 of 82 .*'a/text.jpg', 'b/empty.png'.*Replace"):
        open_source(folder)


def test_an_unknown_spec_says_what_is_possible(tmp_path):
    with pytest.raises(InputError, match=r"folder.*tfds:NAME.*'digitz', which is not there"):
        open_source("digitz")
    (tmp_path / "one.png").touch()
    with pytest.raises(InputError, match="which is a file"):
        open_source(tmp_path / "one.png")


def _painted(path: Path) -> None:
    image = Image.open(path)
    image.paste("white", (3, 3, 5, 5))
    image.save(path)


def _turned(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\x01\x12\0\x03\0\0\0\1\0\1", b"\x01\x12\0\x03\0\0\0\1\0\6"))


@pytest.mark.parametrize(
    ("ending", "edit", "same_size"),
    [
        ("bmp", _painted, True),
        ("png", _painted, False),
        ("jpg", _painted, False),
        ("webp", _painted, False),
        ("jpg", _turned, True),
    ],
)
def test_an_edited_file_of_the_same_name_is_another_image(tmp_path, ending, edit, same_size):
    exif = Image.Exif()
    exif.endian, exif[0x0112] = ">", 1
    for name in ("a", "b"):
        for number in range(4):
            path = tmp_path / name / f"{number}.{ending}"
            path.parent.mkdir(exist_ok=True)
            noise = np.random.default_rng(number).integers(0, 256, (90, 90, 3), np.uint8)
            Image.fromarray(noise).save(path, exif=exif)
    before = open_source(tmp_path).splits["train"]
    fingerprint = before.fingerprint()
    assert open_source(tmp_path).splits["train"].fingerprint() == fingerprint
    edited = tmp_path / before.names[0]
    size, pixels = edited.stat().st_size, read_image(edited)
    edit(edited)
    assert (edited.stat().st_size == size) is same_size
    assert not np.array_equal(read_image(edited), pixels)
    assert open_source(tmp_path).splits["train"].fingerprint() != fingerprint
