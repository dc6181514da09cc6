from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from keras_resnet18.checking.findings import digests_of_alike
from keras_resnet18.classify.evaluate import open_whole
from keras_resnet18.data.sources import open_source
from keras_resnet18.errors import InputError
from keras_resnet18.recipe import SPLITS

MakeFolder = Callable[..., Path]


def write(folder: Path, rows: Sequence[Sequence[str]], name: str = "table.csv") -> Path:
    separator = "\t" if name.endswith("tsv") else ","
    path = folder / name
    path.write_text("".join(separator.join(row) + "\n" for row in rows), encoding="utf-8-sig")
    return path


@pytest.mark.parametrize("name", ["table.csv", "table.TSV"])
def test_a_table_of_paths_and_labels_is_dealt_out(make_folder: MakeFolder, name: str) -> None:
    folder = make_folder(*[f"all/{i}.png" for i in range(40)])
    rows = [[f"all/{i}.png", ("ant", "蝉")[i % 2], "x"] for i in range(40)]
    source = open_source(write(folder, [["Path", "LABEL", "note"], *rows], name.lower()))
    assert source.classes == ("ant", "蝉")
    names = {n: int(label) for kind in SPLITS for n, label in zip(
        source.splits[kind].names or (), source.splits[kind].labels, strict=True
    )}  # fmt: skip
    assert names == {f"all/{i}.png": i % 2 for i in range(40)}
    assert source.spec == str(folder / name.lower())
    test = source.splits["test"]
    image, label = next(iter(test.elements(None, 0).map(test.fetch)))
    assert image.shape == (12, 10, 3) and label == test.labels[0]


def test_paths_may_be_absolute(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(*[f"{i}.png" for i in range(20)])
    rows = [[str(folder / f"{i}.png"), "ab"[i % 2]] for i in range(20)]
    (tmp_path / "elsewhere").mkdir()
    path = write(tmp_path / "elsewhere", [["path", "label"], *rows])
    source = open_source(path)
    test = source.splits["test"]
    assert next(iter(test.elements(None, 0).map(test.fetch)))[0].shape == (12, 10, 3)
    paths = {row[0] for row in rows}
    assert {name for kind in SPLITS for name in source.splits[kind].names or ()} == paths
    assert source.folder and set(digests_of_alike(source.folder, paths)) <= paths
    assert sum(split.size for split in open_whole(path, source.classes).splits) == 20


def test_splits_of_the_table_are_used_and_the_missing_one_is_carved(
    make_folder: MakeFolder,
) -> None:
    folder = make_folder(*[f"{i}.png" for i in range(30)])
    kinds = ["test"] * 6 + ["Train"] * 24
    rows = [[f"{i}.png", "ab"[i % 2], kinds[i]] for i in range(30)]
    source = open_source(write(folder, [["path", "label", "split"], *rows]))
    assert source.splits["test"].names == tuple(f"{i}.png" for i in range(6))
    assert source.splits["train"].size + source.splits["validation"].size == 24
    assert "validation: about 10 % of rows of table.csv by hash" in source.notes[0]


def test_images_of_a_group_share_a_split(make_folder: MakeFolder) -> None:
    folder = make_folder(*[f"{i}.png" for i in range(60)])
    rows = [[f"{i}.png", "ab"[i % 2], f"patient {i // 4}"] for i in range(60)]
    source = open_source(write(folder, [["path", "label", "group"], *rows]))
    groups = [{int(name[:-4]) // 4 for name in source.splits[kind].names or ()} for kind in SPLITS]
    assert sum(map(len, groups)) == 15 == len(set.union(*groups))


HEAD = ["path", "label", "split", "group"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["file", "label"], ["0.png", "a"]], "columns path and label.*'file'"),
        ([], "columns path and label.*none"),
        ([HEAD, ["0.png", "", "train", ""]], "needs a path and a label.*line 2"),
        ([HEAD, ["0.png", "a", "held out", ""]], "needs a split.*line 2, 'held out'"),
        ([HEAD, ["0.png", "a", "", ""]], "needs a split.*line 2, ''"),
        ([HEAD, ["0.png", "a", "train", ""], ["9.png", "a", "train", ""]], "not there: '9.png'"),
        ([HEAD, ["0.png", "a", "train", ""], ["0.png", "b", "train", ""]], "more than one row"),
        ([HEAD, ["0.png", "a", "train", "x"], ["1.png", "b", "test", "x"]], "line 3, 'x'"),
        ([HEAD, ["0.png", "a", "test", ""]], "needs training images"),
        ([["path", "label"], ["0.png", "a", "b"]], "a cell for each column.*line 2, 'b'"),
        ([["path", "label", "Label"], ["0.png", "a", "b"]], "each once.*'label', 'label'"),
        ([HEAD, ["0.png", 'a"b', "test", ""], ['"', "", "", ""]], "table in UTF-8"),
    ],
)  # fmt: skip
def test_an_unusable_table_is_an_input_error_of_one_line(
    make_folder: MakeFolder, rows: list[list[str]], message: str
) -> None:
    path = write(make_folder("0.png", "1.png"), rows)
    with pytest.raises(InputError, match=message) as caught:
        open_source(path)
    assert "\n" not in str(caught.value)


def test_empty_cells_at_the_end_of_a_row_are_nothing(make_folder: MakeFolder) -> None:
    folder = make_folder(*[f"{i}.png" for i in range(20)])
    rows = [[f"{i}.png", "ab"[i % 2], "", " "] for i in range(20)]
    assert open_source(write(folder, [["path", "label"], *rows])).classes == ("a", "b")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([HEAD[:2], ["0.png", "a"], ["0.png", "b"]], "more than one row for '0.png'"),
        ([HEAD[:3], ["0.png", "a", "bogus"]], "needs a split.*line 2, 'bogus'"),
    ],
)
def test_a_table_to_test_on_is_checked_alike(
    make_folder: MakeFolder, rows: list[list[str]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        open_whole(write(make_folder("0.png"), rows), ("a", "b"))


def test_a_table_in_another_encoding_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes("path,label\nä.png,a\n".encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8"):
        open_source(os.fspath(tmp_path / "table.csv"))
