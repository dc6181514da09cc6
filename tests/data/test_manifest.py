"""A table of paths and labels is a source like a folder."""

from __future__ import annotations

import pytest

from keras_resnet18.checking.findings import digests_of_alike
from keras_resnet18.classify.evaluate import open_whole
from keras_resnet18.data.sources import open_source
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
    assert set(digests_of_alike(source.folder, images)) <= set(images)
    assert sum(split.size for split in open_whole(path, source.classes).splits) == 40


def test_splits_of_the_table_are_used_and_the_missing_one_is_carved(table):
    kinds = ["test"] * 6 + ["Train"] * 24
    source = open_source(table(HEAD[:3], [[f"{i}.png", "ab"[i % 2], kinds[i]] for i in range(30)]))
    assert source.splits["test"].names == tuple(f"{i}.png" for i in range(6))
    assert source.splits["train"].size + source.splits["validation"].size == 24
    assert "validation: about 10 % of rows of table.csv by hash" in source.notes[0]


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
        (HEAD, [["0.png", "a", "", ""]], "needs a split.*line 2, ''"),
        (HEAD, [["0.png", "a", "train", ""], ["99.png", "a", "train", ""]], "there: '99.png'"),
        (HEAD, [["0.png", "a", "train", ""], ["0.png", "b", "train", ""]], "more than one row"),
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


def test_a_table_in_another_encoding_is_an_input_error(tmp_path):
    (tmp_path / "table.csv").write_bytes("path,label\nä.png,a\n".encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8"):
        open_source(str(tmp_path / "table.csv"))
