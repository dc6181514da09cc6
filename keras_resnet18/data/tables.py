"""Manifests, which are tables with a row for each image, and MNIST's IDX files; no TensorFlow."""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from keras_resnet18.data.folder import SPLIT_NAMES, ImageFile, Listing, composed
from keras_resnet18.errors import InputError, listed
from keras_resnet18.recipe import SplitName

MANIFESTS = {".csv": ",", ".tsv": "\t"}  # endings and what they separate columns by

_BEYOND = "\n"  # for the cells of a row that have no column
_COLUMNS = {"path", "label", "split", "group", _BEYOND}


def list_manifest(path: Path, name: str) -> Listing:
    """Lists the image files of a table with their classes.

    The first row names the columns: `path`, absolute or relative to the table's folder, and
    `label`; if wanted, `split` (train, validation or test) and `group`. Images of one group, such
    as a patient or a scene, always share a split. Other columns are ignored.

    Args:
        path: A .csv or .tsv file in UTF-8.
        name: What an error should call it.

    Raises:
        InputError: If a column, a value or a file is missing, a path comes twice, or a group is in
            two splits.
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
        raise InputError(
            f"paths in a manifest are absolute, or relative to its folder {str(path.parent)!r}. "
            f"Received: {name!r} with {len(missing):,} of {len(rows):,} that are not there: "
            f"{listed(missing)}. Correct the paths."
        )
    if "train" not in given:
        raise InputError(f"a manifest needs training images. Received: {name!r} without any.")
    return Listing(path.parent, given, dict.fromkeys(given, f"rows of {path.name}"))


def manifest_images(path: Path, name: str) -> list[ImageFile]:
    """All images of a manifest, whichever splits they are in."""
    return [_image(row, row["path"]) for _, row in _rows(path, name)]


def _image(row: dict[str, str], key: str) -> ImageFile:
    return ImageFile(row["path"], composed(row["label"]), composed(key))


def _rows(path: Path, name: str) -> list[tuple[int, dict[str, str]]]:
    """The rows of a table with their line numbers, known columns alone, names in lower case."""
    rows = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            separator = MANIFESTS[path.suffix.lower()]
            reader = csv.DictReader(file, None, _BEYOND, "", delimiter=separator, strict=True)
            columns = [column.strip().lower() for column in reader.fieldnames or ()]
            if (columns.count("path"), columns.count("label")) != (1, 1):
                raise InputError(
                    "a manifest needs a first row with the columns path and label, each once. "
                    f"Received: {name!r} with {listed(columns, 9) or 'none'}. Correct it."
                )
            reader.fieldnames = columns
            for cells in reader:
                row = {c: "".join(cell).strip() for c, cell in cells.items() if c in _COLUMNS}
                if beyond := row.pop(_BEYOND, ""):
                    what = "a row has a cell for each column at most, with commas quoted"
                    raise _refusal(what, name, reader.line_num, beyond)
                if not row["path"] or not row["label"]:
                    raise _refusal("every row needs a path and a label", name, reader.line_num, "")
                if (split := row.get("split", "train")).lower() not in SPLIT_NAMES:
                    what = "every row needs a split: train, validation or test"
                    raise _refusal(what, name, reader.line_num, split)
                rows.append((reader.line_num, row))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"a manifest must be a table in UTF-8. Received: {name!r} ({error}). Save it again."
        ) from None
    counts = Counter(row["path"] for _, row in rows)
    if twice := [p for p, count in counts.items() if count > 1]:
        raise InputError(
            f"a manifest names each path once. Received: {name!r} with more than one row for "
            f"{listed(twice)}. Remove the others."
        )
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
