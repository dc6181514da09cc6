"""A table of paths and labels is a source like a folder."""

from __future__ import annotations

import pytest

from keras_resnet18 import check
from keras_resnet18.classify.evaluate import open_whole
from keras_resnet18.data.sources import labeled_files, open_source
from keras_resnet18.errors import InputError
from keras_resnet18.recipe import SPLITS

HEAD = ["path", "label", "split", "group"]


@pytest.fixture
def table(make_folder, tmp_path):
    """`table(columns, rows)` writes 60 images, `0.png` and so on, and a table of the rows."""
    make_folder(*[f"{i}.png" for i in range(60)])

    def write(columns, rows, name="table.csv"):
        separator = "\t" if name.endswith("tsv") else ","
        lines = [separator.join(row) + "\n" for row in (columns, *rows)]
        (tmp_path / name).write_text("".join(lines), encoding="utf-8-sig")
        return tmp_path / name

    return write


def names(source):
    return {kind: source.splits[kind].names for kind in SPLITS}


@pytest.mark.parametrize("name", ["table.csv", "table.tsv"])
def test_a_table_of_paths_and_labels_is_dealt_out(table, tmp_path, name):
    images = [f"{i}.png" if i % 3 else str(tmp_path / f"{i}.png") for i in range(40)]
    rows = [[image, ("ant", "蝉")[i % 2], "x", "", " "] for i, image in enumerate(images)]
    path = table(["Path", "LABEL", "note"], rows, name)  # empty cells beyond it are nothing
    source = open_source(path)
    assert source.classes == ("ant", "蝉") and source.spec == str(path)
    labels = {}
    for split in source.splits.values():
        labels |= dict(zip(split.names, split.labels.tolist(), strict=True))
    assert labels == {image: i % 2 for i, image in enumerate(images)}
    test = source.splits["test"]
    image, label = next(iter(test.elements(None, 0).map(test.fetch)))
    assert image.shape == (12, 10, 3) and label == test.labels[0]
    assert sum(split.size for split in open_whole(path, source.classes).splits) == 40


def test_splits_of_the_table_are_used_and_the_missing_one_is_carved(table):
    kinds = ["test"] * 6 + ["Train"] * 24
    source = open_source(table(HEAD[:3], [[f"{i}.png", "ab"[i % 2], kinds[i]] for i in range(30)]))
    assert source.splits["test"].names == tuple(f"{i}.png" for i in range(6))
    assert source.splits["train"].size + source.splits["validation"].size == 24
    assert "validation: about 10 % of rows of table.csv by hash" in source.split_notes[0]


def test_images_of_a_group_share_a_split(table):
    rows = [[f"{i}.png", "ab"[i % 2], f"patient {i // 4}"] for i in range(60)]
    source = open_source(table(["path", "label", "group"], rows))
    groups = [{int(name[:-4]) // 4 for name in of_split} for of_split in names(source).values()]
    assert sum(map(len, groups)) == 15 == len(set.union(*groups))


@pytest.mark.parametrize(
    ("columns", "rows", "message"),
    [
        (["file", "label"], [["0.png", "a"]], "columns path and label.*'file'"),
        ([], [], "columns path and label.*none"),
        (["path", "label", "Label"], [["0.png", "a", "b"]], "each once.*'label', 'label'"),
        (HEAD, [["0.png", "", "train", ""]], "needs a path and a label.*line 2"),
        (HEAD, [["0.png", "a", "held out", ""]], "needs a split.*line 2, 'held out'"),
        (HEAD, [["0.png", "a", "train", ""], ["99.png", "a", "train", ""]], "there: '99.png'"),
        (HEAD, [["0.png", "a", "train", ""], ["0.png", "a", "train", ""]], "more than one row"),
        (HEAD, [["0.png", "a", "train", "x"], ["1.png", "b", "test", "x"]], "line 3, 'x'"),
        (HEAD, [["0.png", "a", "test", ""]], "needs training images"),
        (["path", "label"], [["0.png", "a", "b"]], "a cell for each column.*line 2, 'b'"),
        (HEAD, [["0.png", 'a"b', "test", ""], ['"', "", "", ""]], "table in UTF-8"),
    ],
)
def test_an_unusable_table_is_an_input_error_of_one_line(table, columns, rows, message):
    path = table(columns, rows)
    with pytest.raises(InputError, match=message) as caught:
        open_source(path)
    assert "\n" not in str(caught.value)
    if "line 2" in message or "more than" in message:  # a table to test on is checked alike
        with pytest.raises(InputError, match=message):
            open_whole(path, ("a", "b"))


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_table_in_another_encoding_says_what_to_do(tmp_path, encoding):
    (tmp_path / "table.csv").write_bytes("path,label\nä.png,a\n".encode(encoding))
    with pytest.raises(InputError, match=r"in another encoding.*0x.*CSV UTF-8.*iconv") as caught:
        open_source(str(tmp_path / "table.csv"))
    assert "\n" not in str(caught.value)
    assert ("-f UTF-16 " in str(caught.value)) == (encoding == "utf-16")


@pytest.mark.parametrize("separator", [";", "\t", ","])
@pytest.mark.parametrize("name", ["table.csv", "table.tsv"])
def test_a_table_as_windows_and_excel_write_it_opens(make_folder, separator, name):
    images = [f"photos/{'ab'[i % 2]}/{i}.png" for i in range(20)]
    folder = make_folder(*images)
    rows = [["path", "label"], *([image.replace("/", "\\"), image[7]] for image in images)]
    lines = [separator.join(f'"{cell}"' for cell in row) for row in rows]
    (folder / name).write_text("\r\n".join(lines), encoding="utf-8-sig", newline="")
    used = names(open_source(folder / name))
    assert sorted(name for of_split in used.values() for name in of_split) == sorted(images)


def test_a_backslash_in_a_name_stays(make_folder):
    folder = make_folder(*[f"{i}\\x.png" for i in range(20)])
    lines = ["path,label", *(f"{i}\\x.png,{'ab'[i % 2]}" for i in range(20))]
    (folder / "table.csv").write_text("\n".join(lines))
    assert "0\\x.png" in sum(names(open_source(folder / "table.csv")).values(), ())


def test_paths_from_the_working_directory_are_said_to_be_so(table, tmp_path, monkeypatch):
    rows = [[f"{i}.png", "ab"[i % 2]] for i in range(60)]
    (tmp_path / "tables").mkdir()
    path = table(["path", "label"], rows, "tables/table.csv")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"relative to the table.*but in the working directory"):
        open_source(path)


@pytest.mark.parametrize(
    ("column", "cells", "kind"),
    [
        ("set", ["train", "valid"], "split"),
        ("is_valid", ["False", "True"], "split"),
        ("fold", ["1", "2"], "split"),
        ("patient", ["p1", "p2"], "group"),
        ("Subject_ID", ["7", "8"], "group"),
        ("offset", ["7", "8"], None),
    ],
)
def test_columns_that_are_not_used_are_named_and_likely_ones_offered(table, column, cells, kind):
    rows = [[f"{i}.png", "ab"[i % 2], cells[i // 2 % 2], "x"] for i in range(60)]
    path = table(["path", "label", column, "note"], rows)
    source = open_source(path)
    named = f"columns of table.csv that are not used: {column.lower()!r}, 'note'"
    assert named in source.notes
    offered = [
        f"columns that look like a {kind}, and are not used: {column.lower()!r}. Name the column "
        f"{kind}, "
    ]
    assert [text[: len(offered[0])] for text in source.warnings] == offered * (kind is not None)
    found = check(path)
    warned = [one for one in found.findings if one.kind == "unused columns"]
    assert [one.text for one in warned] == list(source.warnings)


@pytest.mark.parametrize(
    ("columns", "rows", "message"),
    [
        (HEAD[:2], [["0.png", "cats"], ["0.png", "animal"]], "'0.png' for 'cats', 'animal'"),
        (HEAD[:2], [["0.png", '"cats,animal"'], ["1.png", "dogs"]], "such as 'cats,animal'"),
        (HEAD[:2], [["0.png", '"cats, animal"'], ["1.png", "cats"]], "such as 'cats, animal'"),
        (["path", "cat", "dog"], [["0.png", "0", "1"], ["1.png", "1", "1"]], "'cat', 'dog'"),
        (["image", "cat", "dog"], [["0.png", "-1", "1"]], "columns of 0 and 1, 'cat', 'dog'"),
    ],
)
def test_several_labels_of_an_image_are_said_to_be_unsupported(table, columns, rows, message):
    path = table(columns, rows)
    for call in (open_source, labeled_files):
        with pytest.raises(InputError, match=f"multi-label.*not supported.*{message}") as caught:
            call(path)
        assert "\n" not in str(caught.value)


def test_a_class_of_several_names_is_one_class(table):
    labels = ['"tench, Tinca tinca"', "crane", '"crane, bird"', '"goldfish, Carassius auratus"']
    source = open_source(table(HEAD[:2], [[f"{i}.png", labels[i % 4]] for i in range(60)]))
    assert "tench, Tinca tinca" in source.classes and len(source.classes) == 4
