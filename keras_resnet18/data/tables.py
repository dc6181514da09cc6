"""Manifests, tables with a row for each image, and MNIST's IDX files; no TensorFlow."""

from __future__ import annotations

import csv
import gzip
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from keras_resnet18.data.folder import SPLIT_NAMES, SPLIT_WORDS, ImageFile, Listing, composed
from keras_resnet18.errors import InputError, listed
from keras_resnet18.recipe import SplitName

MANIFESTS = (".csv", ".tsv")  # endings of tables; the first row shows what separates the columns

_SEPARATORS = ",;\t"  # Excel writes a semicolon where the comma is in numbers
_BEYOND = "\n"  # for the cells of a row that have no column
_COLUMNS = {"path", "label", "split", "group"}
# Names of other columns that are likely to hold splits or groups
_LIKELY = {
    "split": r"(?<![a-z])(is)?(set|subset|dataset|split|partition|fold|usage|phase|val"
    r"|valid(ation)?|(train|test)(ing|set)?)(?![a-z])",
    "group": r"(?<![a-z])(patient|subject|person|participant|individual|case|study|scene|video"
    r"|sequence|session|slide|specimen)",
}
_HOLD = {
    "split": "with train, validation or test in each row",
    "group": "and its images share a split",
}
_FLAGS = {"0", "1", "-1", "0.0", "1.0", "true", "false"}

_Row = dict[str, str]


def list_manifest(path: Path, name: str) -> Listing:
    """Lists the image files of a table with their classes.

    The table is a .csv or .tsv file in UTF-8 with commas, semicolons or tabs. The first row names
    the columns: `path`, absolute or relative to the table's folder, and `label`; optionally `split`
    (train, validation or test) and `group`. Images of one group, such as a patient or a scene,
    share a split. Other columns are not used, and notes name them.

    Raises:
        InputError: If a column, a value or a file is missing, a path comes twice, an image has
            several labels, or a group is in two splits.
    """
    given: dict[SplitName, list[ImageFile]] = {}
    group_splits: dict[str, str] = {}
    rows = _rows(path, name)
    for number, row in rows:
        split = SPLIT_NAMES[row.get("split", "train").lower()]
        group = row.get("group") or row["path"]
        if group_splits.setdefault(group, split) != split:
            raise _refusal("a path or a group must be in one split alone", name, number, group)
        given.setdefault(split, []).append(_image(row, group))
    if missing := [row["path"] for _, row in rows if not (path.parent / row["path"]).is_file()]:
        here = ", but in the working directory" if Path(missing[0]).is_file() else ""
        raise InputError(
            f"paths in a manifest are absolute, or relative to the table: {str(path.parent)!r}. "
            f"Received: {name!r} with {len(missing):,} of {len(rows):,} that are not there{here}: "
            f"{listed(missing)}. Correct the paths."
        )
    if "train" not in given:
        raise InputError(f"a manifest needs training images. Received: {name!r} without any.")
    unused = [column for column in rows[0][1] if column and column not in _COLUMNS]
    notes = [f"columns of {path.name} that are not used: {listed(unused, 20)}"] if unused else []
    origins = dict.fromkeys(given, f"rows of {path.name}")
    return Listing(path.parent, given, origins, tuple(notes), tuple(_warnings(rows)))


def _warnings(rows: list[tuple[int, _Row]]) -> Iterator[str]:
    """Yields warnings of unused columns that probably hold splits or groups."""
    columns = list(rows[0][1])
    for wanted, pattern in _LIKELY.items():
        if wanted in columns:
            continue
        words = {*SPLIT_WORDS} if wanted == "split" else set()
        likely = [
            column
            for column in columns
            if column not in _COLUMNS
            and (re.search(pattern, column) or {row[column].lower() for _, row in rows} <= words)
        ]
        if likely:
            yield (
                f"columns that look like a {wanted}, and are not used: {listed(likely, 20)}. "
                f"Name the column {wanted}, {_HOLD[wanted]}, to use it"
            )


def manifest_images(path: Path, name: str) -> list[ImageFile]:
    """All images of a manifest, whichever splits they are in."""
    return [_image(row, row["path"]) for _, row in _rows(path, name)]


def _image(row: _Row, key: str) -> ImageFile:
    return ImageFile(row["path"], composed(row["label"]), composed(key))


def _rows(path: Path, name: str) -> list[tuple[int, _Row]]:
    """The rows of a table with their line numbers, names of columns in lower case."""
    rows = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            separator = max(_SEPARATORS, key=header.count)
            reader = csv.DictReader(file, None, _BEYOND, "", delimiter=separator, strict=True)
            columns = [column.strip().lower() for column in reader.fieldnames or ()]
            reader.fieldnames = columns
            if (columns.count("path"), columns.count("label")) != (1, 1):
                _refuse_flags(list(reader), columns, name)
                raise InputError(
                    "a manifest needs a first row with the columns path and label, each once. "
                    f"Received: {name!r} with {listed(columns, 9) or 'none'}. Correct it."
                )
            for cells in reader:
                row = {c: "".join(cell).strip() for c, cell in cells.items()}
                if beyond := row.pop(_BEYOND, ""):
                    what = "a row has a cell for each column at most, with commas quoted"
                    raise _refusal(what, name, reader.line_num, beyond)
                if not row["path"] or not row["label"]:
                    raise _refusal("every row needs a path and a label", name, reader.line_num, "")
                if (split := row.get("split", "train")).lower() not in SPLIT_NAMES:
                    what = "every row needs a split: train, validation or test"
                    raise _refusal(what, name, reader.line_num, split)
                row["path"] = _as_here(path.parent, row["path"])
                rows.append((reader.line_num, row))
    except UnicodeDecodeError as error:
        likely = "UTF-16" if error.object[:2] in (b"\xff\xfe", b"\xfe\xff") else "WINDOWS-1252"
        raise InputError(
            f"a manifest must be in UTF-8. Received: {name!r} in another encoding, by the byte "
            f"0x{error.object[error.start]:02x}. Save it again, in Excel as 'CSV UTF-8', or "
            f"convert it, such as by iconv -f {likely} -t UTF-8."
        ) from None
    except (OSError, csv.Error) as error:
        raise InputError(
            f"a manifest must be a table in UTF-8. Received: {name!r} ({error}). Save it again."
        ) from None
    _refuse_several_labels(rows, name)
    counts = Counter(row["path"] for _, row in rows)
    if twice := [p for p, count in counts.items() if count > 1]:
        raise InputError(
            f"a manifest names each path once. Received: {name!r} with more than one row for "
            f"{listed(twice)}. Remove the others."
        )
    return rows


def _as_here(root: Path, path: str) -> str:
    """A path with slashes if it has backslashes, as Windows writes them, and the file is there."""
    slashes = path.replace("\\", "/")
    is_windows = slashes != path and not (root / path).is_file() and (root / slashes).is_file()
    return slashes if is_windows else path


def _refuse_flags(rows: list[_Row], columns: list[str], name: str) -> None:
    """Refuses a table with a column of 0 and 1 for each class."""
    flags = [c for c in columns if rows and all(str(r[c]).strip().lower() in _FLAGS for r in rows)]
    if len(flags) > 1:
        raise _multi_label(name, f"columns of 0 and 1, {listed(flags)}")


def _refuse_several_labels(rows: list[tuple[int, _Row]], name: str) -> None:
    """Refuses rows that give an image several labels, or cells that hold several."""
    first: _Row = {}
    for _, row in rows:
        if first.setdefault(row["path"], row["label"]) != row["label"]:
            both = listed([first[row["path"]], row["label"]])
            raise _multi_label(name, f"rows of {row['path']!r} for {both}")
    parts = {label: set(re.split(r"\s*[,;|]\s*", label)) for label in set(first.values())}
    labels_of = Counter(part for of_label in parts.values() for part in of_label)
    several = [label for label, of_label in parts.items() if len(of_label) > 1]
    # ImageNet's names, such as "tench, Tinca tinca", are of one class: few share a part
    tags = [
        label
        for label in sorted(several)
        if re.search(r"\S[,;|]\S", label) or any(labels_of[part] > 1 for part in parts[label])
    ]
    if 2 * len(tags) > len(several):
        raise _multi_label(name, f"labels such as {listed(tags)}")


def _multi_label(name: str, received: str) -> InputError:
    return InputError(
        "multi-label classification is not supported: an image has one label. "
        f"Received: {name!r} with {received}. Write the name of one class for each image into the "
        "column label, without , ; or |."
    )


def _refusal(expected: str, name: str, line: int, received: str) -> InputError:
    return InputError(f"{expected}. Received: {name!r}, line {line}, {received!r}. Correct it.")


# MNIST's IDX files: images and labels as arrays of bytes, packed by gzip or not.

_Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]


def has_idx(folder: Path) -> bool:
    """Whether a folder holds the training images of MNIST or of a dataset like it."""
    return _find(folder, "train", "images") is not None


def read_idx_folder(folder: Path, name: str) -> tuple[_Arrays, _Arrays | None]:
    """Reads images and labels for training, and for the test if there are any.

    The files are `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`, with or without `.gz`,
    and optionally the same with `t10k`. Raises InputError if one is missing or damaged.
    """

    def read(prefix: str) -> _Arrays:
        images, labels = (_find(folder, prefix, content) for content in ("images", "labels"))
        if images is None or labels is None:
            raise InputError(
                f"IDX images need labels and the other way round. Received: {name!r} without "
                f"{prefix}-{'images' if images is None else 'labels'}-…-ubyte. Add the file."
            )
        return _read(images, rank=3), _read(labels, rank=1)

    return read("train"), read("t10k") if _find(folder, "t10k", "*") else None


def _find(folder: Path, prefix: str, content: str) -> Path | None:
    """A file by its name: LeCun's have a dash before `idx`, many unpacked copies a dot."""
    return min(folder.glob(f"{prefix}-{content}[-.]idx?-ubyte*"), default=None)


def _read(path: Path, rank: int) -> npt.NDArray[np.uint8]:
    """Reads an IDX file of bytes: magic 0x0008 and the rank, big-endian uint32 sizes, values."""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"IDX files must be readable. Received: {str(path)!r} ({error}). Get it again."
        ) from error
    begin = 4 + 4 * rank
    shape = tuple(int.from_bytes(data[i : i + 4]) for i in range(4, begin, 4))
    if data[:4] != bytes((0, 0, 8, rank)) or len(data) != begin + math.prod(shape):
        raise InputError(
            f"an IDX file must hold 0000080{rank}, its sizes, and as many bytes as they say. "
            f"Received: {str(path)!r} with {data[:4].hex()}, {shape} and "
            f"{len(data):,} bytes in all. Get it again."
        )
    return np.frombuffer(data, np.uint8, offset=begin).reshape(shape)
