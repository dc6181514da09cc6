"""Manifest as a source: a .csv or .tsv file with a row for each image."""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt

from keras_resnet18.data.files import SPLIT_NAMES, Advance, ImageFile, composed, open_files
from keras_resnet18.data.splits import Source, listed
from keras_resnet18.errors import InputError
from keras_resnet18.recipe import SplitName

MANIFESTS = {".csv": ",", ".tsv": "\t"}  # endings and what they separate columns by

_COLUMNS = ("path", "label", "split", "group")
_BEYOND = "\n"  # for the cells of a row that have no column


def open_manifest(
    path: Path, name: str, split_seed: int, leave_out: Collection[str], advance: Advance
) -> Source:
    """Reads a table of image files with their classes.

    The first row names the columns: `path`, absolute or relative to the table's folder, and
    `label`; if wanted, `split` (train, validation or test) and `group`. Images of one group, such
    as a patient or a scene, always share a split. Other columns are ignored.

    Args:
        path: A .csv or .tsv file in UTF-8.
        name: What to call the source.
        split_seed: Of the hash that carves the splits that the table does not name.
        leave_out: Paths of images that are not used.
        advance: Is told of the headers that are read.

    Raises:
        InputError: If a column, a value or a file is missing, a path comes twice, a group is in two
            splits, or a file is not an image.
    """
    rows = _checked_rows(path, name)
    given: dict[SplitName, list[ImageFile]] = {}
    group_splits: dict[str, str] = {}
    for number, row in rows:
        split = SPLIT_NAMES[row.get("split", "train").lower()]
        group = row.get("group") or row["path"]
        if group_splits.setdefault(group, split) != split:
            raise _refusal("a path or a group must be in one split alone", name, number, group)
        image = ImageFile(row["path"], composed(row["label"]), composed(group))
        given.setdefault(split, []).append(image)
    paths = [row["path"] for _, row in rows]
    missing = [p for p in paths if not (path.parent / p).is_file()]
    if missing:
        raise InputError(
            f"paths in a manifest are absolute, or relative to its folder {str(path.parent)!r}. "
            f"Received: {name!r} with {len(missing):,} of {len(paths):,} that are not there: "
            f"{listed(missing)}. Correct the paths."
        )
    if "train" not in given:
        raise InputError(f"a manifest needs training images. Received: {name!r} without any.")
    origins: dict[SplitName, str] = dict.fromkeys(given, f"rows of {path.name}")
    return open_files(
        path.parent,
        name,
        given,
        origins=origins,
        notes=(),
        split_seed=split_seed,
        leave_out=leave_out,
        advance=advance,
    )


def test_rows(path: Path, name: str) -> list[ImageFile]:
    """All images of a manifest, whichever splits they are in."""
    return [
        ImageFile(row["path"], composed(row["label"]), row["path"])
        for _, row in _checked_rows(path, name)
    ]


def manifest_paths(path: Path, name: str) -> list[str]:
    """The paths in a manifest, relative to its folder."""
    return [row["path"] for _, row in _rows(path, name)]


def _checked_rows(path: Path, name: str) -> list[tuple[int, dict[str, str]]]:
    """The rows as `_rows` gives them, each of another path, and of a split if they name any."""
    rows = _rows(path, name)
    for number, row in rows:
        if (word := row.get("split", "train")).lower() not in SPLIT_NAMES:
            raise _refusal("every row needs a split: train, validation or test", name, number, word)
    counts = Counter(row["path"] for _, row in rows)
    if twice := [p for p, count in counts.items() if count > 1]:
        raise InputError(
            f"a manifest names each path once. Received: {name!r} with more than one row for "
            f"{listed(twice)}. Remove the others."
        )
    return rows


def _rows(path: Path, name: str) -> list[tuple[int, dict[str, str]]]:
    """The rows of a table with their line numbers, known columns alone, names in lower case."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(
                file, restkey=_BEYOND, delimiter=MANIFESTS[path.suffix.lower()], strict=True
            )
            columns = {c: c.strip().lower() for c in reader.fieldnames or ()}
            if not {"path", "label"} <= set(columns.values()):
                raise InputError(
                    "a manifest needs a first row with the columns path and label. "
                    f"Received: {name!r} with {listed(list(columns), 9) or 'none'}. Add it."
                )
            words = Counter(c.strip().lower() for c in reader.fieldnames or ())
            if twice := [word for word in _COLUMNS if words[word] > 1]:
                raise InputError(
                    f"a manifest names each column once. Received: {name!r} with more than one "
                    f"{listed(twice)}. Remove the others."
                )
            rows = []
            for row in reader:
                beyond = [cell for cell in row.pop(_BEYOND, ()) if cell.strip()]
                if beyond:
                    what = "a row has a cell for each column at most, with commas quoted"
                    raise _refusal(what, name, reader.line_num, beyond[0])
                values = {columns[c]: (v or "").strip() for c, v in row.items() if c in columns}
                if not values["path"] or not values["label"]:
                    raise _refusal("every row needs a path and a label", name, reader.line_num, "")
                rows.append((reader.line_num, values))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"a manifest must be a table in UTF-8. Received: {name!r} ({error}). Save it again."
        ) from None
    return rows


def _refusal(expected: str, name: str, line: int, received: str) -> InputError:
    return InputError(f"{expected}. Received: {name!r}, line {line}, {received!r}. Correct it.")


# MNIST's IDX files: images and labels as arrays of bytes, packed by gzip or not.

_Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]


def has_idx(folder: Path) -> bool:
    """Whether a folder holds the training images of MNIST or of a dataset like it."""
    return _find(folder, "train", "images") is not None


def read_idx_folder(folder: Path, name: str) -> tuple[_Arrays, _Arrays | None]:
    """Reads images and labels for training, and for the test if there are any.

    Args:
        folder: Holds `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`, with or without
            `.gz`, and perhaps the same with `t10k`.
        name: What an error should call the folder.

    Raises:
        InputError: If a file is missing or damaged.
    """

    def read(prefix: str) -> _Arrays:
        found = {content: _find(folder, prefix, content) for content in ("images", "labels")}
        if lacking := [content for content, path in found.items() if path is None]:
            raise InputError(
                f"IDX images need labels and the other way round. Received: {name!r} without "
                f"{prefix}-{lacking[0]}-…-ubyte. Add the file."
            )
        images, labels = (path for path in found.values() if path)
        return _read(images, rank=3), _read(labels, rank=1)

    has_test = any(_find(folder, "t10k", content) for content in ("images", "labels"))
    return read("train"), read("t10k") if has_test else None


def _find(folder: Path, prefix: str, content: str) -> Path | None:
    rank = {"images": 3, "labels": 1}[content]
    for dot in "-.":  # LeCun's files have a dash, many unpacked copies a dot
        for suffix in ("", ".gz"):
            path = folder / f"{prefix}-{content}{dot}idx{rank}-ubyte{suffix}"
            if path.is_file():
                return path
    return None


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
