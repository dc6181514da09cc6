from __future__ import annotations

import gzip
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_resnet18 import train
from keras_resnet18.data.sources import Source, Split, from_arrays, open_source
from keras_resnet18.errors import InputError

SPLITS = ("train", "validation", "test")
MakeFolder = Callable[..., Path]


def numbered(folder: str, count: int, suffix: str = ".png") -> list[str]:
    return [f"{folder}/{i:03d}{suffix}" for i in range(count)]


def fetched(split: Split) -> tuple[list[np.ndarray], list[int]]:
    examples = list(split.elements(None, 0).map(split.fetch).as_numpy_iterator())
    return [image for image, _ in examples], [int(label) for _, label in examples]


def homes(source: Source) -> dict[str, str]:
    """The split of each named image."""
    return {name: kind for kind in SPLITS for name in source.splits[kind].names or ()}


def notes(source: Source) -> str:
    return "\n".join(source.notes)


# Digits and arrays


def test_digits_are_scikit_learns_in_rgb() -> None:
    source = open_source("digits")
    sizes = {kind: split.size for kind, split in source.splits.items()}
    assert tuple(sizes) == SPLITS and sum(sizes.values()) == 1797
    assert 140 < sizes["validation"] < 220 and 140 < sizes["test"] < 220
    assert source.classes == tuple("0123456789") and source.image_size == (8, 8)
    images, labels = fetched(source.splits["test"])
    assert images[0].shape == (8, 8, 3) and images[0].dtype == np.uint8
    assert (images[0] == images[0][..., :1]).all()
    assert min(image.min() for image in images) == 0
    assert max(image.max() for image in images) == 255
    np.testing.assert_array_equal(labels, source.splits["test"].labels)


IMAGES = np.arange(200 * 4 * 5, dtype=np.int64).reshape(200, 4, 5).astype(np.uint8)
LABELS = np.arange(200) % 3


@pytest.mark.parametrize("channels", ["none", "one", "three"])
def test_arrays_come_back_as_rgb(channels: str) -> None:
    rgb = np.stack([IMAGES] * 3, -1)
    given = {"none": IMAGES, "one": IMAGES[..., np.newaxis], "three": rgb}[channels]
    source = from_arrays(given, LABELS, test=(given[:7], LABELS[:7]))
    images, labels = fetched(source.splits["test"])
    np.testing.assert_array_equal(images, rgb[:7])
    assert labels == [0, 1, 2, 0, 1, 2, 0]
    assert source.image_size == (4, 5) and source.splits["test"].names is None


def test_no_array_row_is_in_two_splits_and_none_is_lost() -> None:
    numbered = np.arange(200, dtype=np.uint8).reshape(200, 1, 1)
    splits = from_arrays(numbered, LABELS).splits
    rows = [int(image[0, 0, 0]) for kind in SPLITS for image in fetched(splits[kind])[0]]
    assert sorted(rows) == list(range(200))


def test_another_split_seed_deals_differently_and_the_same_one_alike() -> None:
    first, again, other = (
        from_arrays(IMAGES, LABELS, split_seed=seed).splits["test"] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(fetched(first)[0], fetched(again)[0])
    assert first.size != other.size or (fetched(first)[0][0] != fetched(other)[0][0]).any()


def test_given_validation_and_test_arrays_are_used_whole() -> None:
    source = from_arrays(
        IMAGES, LABELS, validation=(IMAGES[:9], LABELS[:9]), test=(IMAGES[:8], LABELS[:8])
    )
    assert [source.splits[kind].size for kind in SPLITS] == [200, 9, 8]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES / 255.0, LABELS, "uint8, 0 to 255.*float64"),
        (IMAGES.astype(np.int32), LABELS, "uint8, 0 to 255.*int32"),
        (IMAGES[0], LABELS, "shape .n, height, width.*4, 5"),
        (np.zeros((200, 4, 5, 2), np.uint8), LABELS, "1 or 3 channels"),
        (IMAGES, LABELS[:-1], "one for each of 200"),
        (IMAGES, np.eye(3)[LABELS], "one for each of 200.*argmax"),
        (IMAGES, LABELS / 1, "whole numbers"),
        (IMAGES, LABELS - 1, "count from 0.*-1"),
        (IMAGES, LABELS * 0, "two classes or more"),
        (IMAGES[:0], LABELS[:0], "two classes or more"),
        (IMAGES, LABELS * 2, "training image.*none of '1', '3'"),
        (IMAGES[:4], LABELS[:4], "every split needs an image.*4 images"),
    ],
)
def test_unusable_arrays_are_an_input_error(
    images: np.ndarray, labels: np.ndarray, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        from_arrays(images, labels)


def test_classes_must_be_different_and_enough() -> None:
    for classes in (["a", "b"], ["a", "b", "b"]):
        with pytest.raises(InputError, match="different names, one for each label"):
            from_arrays(IMAGES, LABELS, classes=classes)
    assert from_arrays(IMAGES, LABELS, classes=["a", "b", "c"]).classes == ("a", "b", "c")


@pytest.mark.parametrize("name", ["two\nlines", "", "\u2028", "a\x85b", "\udcff"])
def test_classes_of_arrays_must_be_lines_of_text(name: str) -> None:
    with pytest.raises(InputError, match="one-line strings"):
        from_arrays(IMAGES, LABELS, classes=["a", "b", name])


@pytest.mark.parametrize(
    "name", ["می\u200cخواهم", "全角\u3000空白", "née", "🐈\u200d⬛", "a\u00a0b"]
)
def test_classes_may_be_named_in_any_orthography(name: str, make_folder: MakeFolder) -> None:
    assert from_arrays(IMAGES, LABELS, classes=["a", "b", name]).classes[2] == name
    assert name in open_source(make_folder(*numbered(name, 5), *numbered("x", 5))).classes


@pytest.mark.parametrize(
    "images",
    [
        tf.data.Dataset.range(3),
        (IMAGES, LABELS),
        [IMAGES, LABELS],
        {"train": []},
        IMAGES,
        None,
        3,
    ],
    ids=lambda images: type(images).__name__,
)
def test_what_is_neither_path_nor_name_is_told_of_from_arrays(images: object) -> None:
    for use in (open_source, train) if images is not None else (open_source,):
        with pytest.raises(
            InputError, match=r"from_arrays\(images, labels\). Received: "
        ) as caught:
            use(images)  # type: ignore[operator]
        assert "\n" not in str(caught.value)


def test_arrays_are_not_taken_for_what_they_are_named_after(tmp_path: Path) -> None:
    for name in ("digits", "tfds:mnist", str(tmp_path)):
        assert from_arrays(IMAGES, LABELS, name=name).spec is None
    assert open_source("digits").spec == "digits"


def test_a_folder_is_found_again_from_elsewhere(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(*numbered("a", 40), *numbered("b", 40))
    monkeypatch.chdir(folder)
    assert open_source(".").spec == str(folder.resolve())


def test_test_arrays_may_not_have_another_image_size() -> None:
    with pytest.raises(InputError, match="one size"):
        from_arrays(IMAGES, LABELS, test=(IMAGES[:, :3], LABELS))


# IDX files


def write_idx(path: Path, values: np.ndarray, count: int | None = None) -> None:
    shape = (len(values) if count is None else count, *values.shape[1:])
    header = bytes((0, 0, 8, values.ndim)) + b"".join(n.to_bytes(4) for n in shape)
    data = header + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_mnist(folder: Path, suffix: str = "", dot: str = "-") -> None:
    for prefix, size in (("train", 200), ("t10k", 30)):
        write_idx(folder / f"{prefix}-images{dot}idx3-ubyte{suffix}", IMAGES[:size])
        write_idx(folder / f"{prefix}-labels{dot}idx1-ubyte{suffix}", LABELS[:size])


@pytest.mark.parametrize(("suffix", "dot"), [("", "-"), (".gz", "-"), ("", ".")])
def test_idx_files_are_read_packed_or_not(tmp_path: Path, suffix: str, dot: str) -> None:
    write_mnist(tmp_path, suffix, dot)
    source = open_source(tmp_path)
    images, labels = fetched(source.splits["test"])
    np.testing.assert_array_equal(np.stack(images)[..., 0], IMAGES[:30])
    np.testing.assert_array_equal(labels, LABELS[:30])
    assert source.splits["train"].size + source.splits["validation"].size == 200
    assert source.image_size == (4, 5) and source.name == str(tmp_path)


def test_idx_without_test_files_is_carved(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    for path in tmp_path.glob("t10k*"):
        path.unlink()
    assert sum(split.size for split in open_source(tmp_path).splits.values()) == 200


def test_damaged_idx_files_are_an_input_error(tmp_path: Path) -> None:
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


# Folders


def test_a_folder_of_classes_is_dealt_out(make_folder: MakeFolder) -> None:
    names = [*numbered("dog", 60), *numbered("cat/young/deep", 60, ".JPG")]
    source = open_source(make_folder(*names))
    assert source.classes == ("cat", "dog") and source.image_size is None
    assert homes(source).keys() == set(names)
    for split in source.splits.values():
        assert list(split.names) == sorted(split.names)
        assert [name[:3] for name in split.names] == [source.classes[i][:3] for i in split.labels]
    assert 84 <= source.splits["train"].size <= 108
    assert "about 10 % of" in source.notes[0] and f"({source.splits['test'].size} images)" in notes(
        source
    )


def test_pixels_and_labels_are_those_of_the_named_file(make_folder: MakeFolder) -> None:
    split = open_source(make_folder(*numbered("a", 40), *numbered("b", 40))).splits["train"]
    images, labels = fetched(split)
    for name, image, label in zip(split.names or (), images, labels, strict=True):
        assert image.shape == (12, 10, 3)
        assert image[0, 0, 0] == int(name[2:5]) + 40 * (name[0] == "b")
        assert label == (name[0] == "b")


def test_new_files_move_none_of_the_old_ones(make_folder: MakeFolder) -> None:
    before = homes(open_source(make_folder(*numbered("b", 50), *numbered("c", 50))))
    after = homes(open_source(make_folder(*numbered("a", 50), *numbered("b", 90))))
    assert len(after) == 190
    assert before.items() < after.items()


def test_a_copy_elsewhere_is_split_alike(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder(*numbered("one/a", 30), *numbered("one/b", 30)) / "one"
    shutil.copytree(root, tmp_path / "two/deeper")
    assert homes(open_source(root)) == homes(open_source(tmp_path / "two/deeper"))


def test_own_folders_are_the_splits(make_folder: MakeFolder) -> None:
    names = ["train/a/1.png", "train/b/1.png", "valid/a/2.png", "valid/b/2.png", "test/b/3.png"]
    source = open_source(make_folder(*names))
    assert homes(source) == dict(
        zip(names, ("train",) * 2 + ("validation",) * 2 + ("test",), strict=True)
    )
    assert source.notes == (
        "train: train/ (2 images); validation: valid/ (2 images); test: test/ (1 images)",
        "no test image of 'a'",
    )


@pytest.mark.parametrize(
    ("own", "kind", "carved"), [("val", "validation", "test"), ("test", "test", "validation")]
)
def test_the_missing_split_is_carved_from_train(
    make_folder: MakeFolder, own: str, kind: str, carved: str
) -> None:
    train = [*numbered("train/a", 60), *numbered("train/b", 60)]
    source = open_source(make_folder(*train, f"{own}/a/x.png", f"{own}/b/x.png"))
    assert set(source.splits[kind].names or ()) == {f"{own}/a/x.png", f"{own}/b/x.png"}
    assert 4 <= source.splits[carved].size <= 22
    assert source.splits["train"].size + source.splits[carved].size == 120
    assert f"{carved}: about 10 % of train/ by hash" in notes(source)
    assert f"{kind}: {own}/ (2 images)" in notes(source)


def test_only_a_train_folder_is_dealt_out(make_folder: MakeFolder) -> None:
    source = open_source(make_folder(*numbered("train/a", 60), *numbered("train/b", 60)))
    assert source.classes == ("a", "b") and all(split.size for split in source.splits.values())


def test_train_beside_other_vehicles_is_a_class(make_folder: MakeFolder) -> None:
    folder = make_folder(*numbered("bus", 40), *numbered("car", 40), *numbered("train", 40))
    assert open_source(folder).classes == ("bus", "car", "train")


def test_a_class_that_validation_lacks_shifts_no_index(make_folder: MakeFolder) -> None:
    train = [name for c in "abc" for name in numbered(f"train/{c}", 30)]
    source = open_source(make_folder(*train, "val/a/x.png", "val/c/x.png"))
    np.testing.assert_array_equal(source.splits["validation"].labels, [0, 2])
    assert "no validation image of 'b'" in notes(source)


@pytest.mark.parametrize("kind", ["val", "test"])
def test_a_class_that_training_lacks_is_an_input_error(make_folder: MakeFolder, kind: str) -> None:
    train = [*numbered("train/a", 5), *numbered("train/b", 5)]
    folder = make_folder(*train, f"{kind}/a/1.png", f"{kind}/zebra/1.png")
    with pytest.raises(InputError, match=r"training image.*none of 'zebra'"):
        open_source(folder)


def test_what_is_not_an_image_is_counted_and_said(make_folder: MakeFolder) -> None:
    folder = make_folder(
        *numbered("a", 40), *numbered("b", 40), ".git/x.png", "__MACOSX/a/x.png", "beside.png",
        "a/.ipynb_checkpoints/x.png", "a/.hidden.png",
    )  # fmt: skip
    (folder / "a/Thumbs.db").write_bytes(b"x")
    (folder / "b/notes.txt").write_text("x")
    (folder / "README").write_text("x")
    (folder / "empty/deeper").mkdir(parents=True)
    source = open_source(folder)
    assert source.classes == ("a", "b") and len(homes(source)) == 80
    assert source.notes[1:5] == (
        "ignored 2 files that are not images (1 without ending and 1 .txt): "
        "'README', 'b/notes.txt'",
        "ignored 5 files and folders that are hidden or the system's: "
        "'.git', '__MACOSX', 'a/.hidden.png' and 2 more",
        "ignored 1 images that lie in no class folder",
        "not a class, because there are no images in it: 'empty'",
    )


def test_an_empty_class_in_train_is_not_a_class(make_folder: MakeFolder) -> None:
    folder = make_folder(*numbered("train/a", 40), *numbered("train/b", 40))
    (folder / "train/aa").mkdir()
    (folder / "val").mkdir()
    source = open_source(folder)
    assert source.classes == ("a", "b")
    assert "no images in it: 'train/aa', 'val'" in notes(source)


def test_unlabelled_test_images_are_not_the_test_split(make_folder: MakeFolder) -> None:
    train = [*numbered("train/a", 60), *numbered("train/b", 60)]
    source = open_source(make_folder(*train, *numbered("test", 5)))
    assert "ignored 5 images that lie in no class folder" in notes(source)
    assert "test: about 10 % of train/ by hash" in notes(source)


def test_names_in_any_language_work_however_they_are_composed(make_folder: MakeFolder) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    folder = make_folder(
        *numbered(f"train/{composed}", 3), *numbered("train/犬", 3),
        f"val/{decomposed}/ö.png", "val/犬/Ω.png", f"test/{decomposed}/ö.png",
    )  # fmt: skip
    source = open_source(folder)
    assert source.classes == (composed, "犬")
    images, labels = fetched(source.splits["validation"])
    assert len(images) == 2 and sorted(labels) == [0, 1]


def test_a_class_name_of_two_lines_is_an_input_error(make_folder: MakeFolder) -> None:
    with pytest.raises(InputError, match=r"one-line strings.*'a\\nb'"):
        open_source(make_folder("a\nb/1.png", "c/1.png"))


def test_files_that_are_not_images_are_found_at_once_and_named(make_folder: MakeFolder) -> None:
    folder = make_folder(*numbered("a", 40), *numbered("b", 40))
    (folder / "a/text.jpg").write_text("no image")
    (folder / "b/empty.png").touch()
    with pytest.raises(InputError, match=r"2 of 82 .*'a/text.jpg', 'b/empty.png'.*Replace"):
        open_source(folder)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "one folder for each class.* with 0 images"),
        (["1.png", "2.png"], "one folder for each class.* with 2 images"),
        (["a/1.png", "a/2.png"], "two classes or more. Received: .* with 'a'"),
        (["a/1.png", "b/1.png", "b/2.png"], "every split needs an image.* 3 images"),
        (["val/a/1.png", "val/b/1.png"], "there must be train/"),
        (["train/a/1.png", "val/a/1.png", "valid/a/1.png"], "at most one folder for each split"),
        (["train/a/1.png", "val/a/1.png", "cats/1.png"], "and no class.*'cats'"),
        (["train/1.png", "val/a/1.png"], "one folder for each class.* with 2 images"),
    ],
)
def test_unusable_folders_are_an_input_error_of_one_line(
    make_folder: MakeFolder, names: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_source(make_folder(*names))
    assert "\n" not in str(caught.value) and "Received: " in str(caught.value)


def test_an_unknown_spec_says_what_is_possible(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"folder.*tfds:NAME.*digits.*'digitz', which is not there"
    ):
        open_source("digitz")
    (tmp_path / "one.png").touch()
    with pytest.raises(InputError, match="a file"):
        open_source(tmp_path / "one.png")


def test_a_folder_called_digits_opens_by_its_path(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make_folder(*numbered("digits/a", 40), *numbered("digits/b", 40)))
    assert open_source("./digits").classes == open_source(Path("digits")).classes == ("a", "b")
    assert open_source("digits").image_size == (8, 8)
