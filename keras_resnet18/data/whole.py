"""All images of a source as one test: it needs neither splits nor every class."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from keras_resnet18.data.each_file import Advance, silent
from keras_resnet18.data.files import open_test_files
from keras_resnet18.data.folder import test_images
from keras_resnet18.data.idx import has_idx
from keras_resnet18.data.manifest import MANIFESTS, test_rows
from keras_resnet18.data.sources import check_spec, open_source
from keras_resnet18.data.splits import Source, Split, listed
from keras_resnet18.errors import InputError
from keras_resnet18.names import SPLITS, SplitName


@dataclasses.dataclass(frozen=True)
class Whole:
    """All images of a source.

    Attributes:
        splits: Hold each image once.
        numbers: The classifier's number of each class of the splits' labels.
        folder: The folder that the images' names are relative to; None if they are not files.
        spec: What they were opened by; None for arrays.
    """

    splits: tuple[Split, ...]
    numbers: tuple[int, ...]
    folder: Path | None
    spec: str | None


def open_whole(
    spec: str | os.PathLike[str], classes: Sequence[str], advance: Advance = silent
) -> Whole:
    """Opens all images of a source for a test, as `open_source` names it.

    A folder may have split folders or none, and few images of few classes.

    Args:
        spec: As `open_source` takes it.
        classes: The classifier's classes.
        advance: Is told of the headers that are read.

    Raises:
        InputError: If there is no such source, or it has an image of another class.
    """
    check_spec(spec)
    name = os.fspath(spec)
    path = Path(name).expanduser()
    named = isinstance(spec, str) and (spec == "digits" or spec.startswith("tfds:"))
    if not named and path.is_dir() and not has_idx(path):
        root, images = path, test_images(path)
    elif not named and path.is_file() and path.suffix.lower() in MANIFESTS:
        root, images = path.parent, test_rows(path, name)
    else:
        return whole_of(open_source(spec), classes)
    split = open_test_files(root, name, images, classes, advance)
    return Whole((split,), tuple(range(len(classes))), root, str(path.resolve()))


def whole_of(
    source: Source, classes: Sequence[str], split: SplitName | Literal["all"] = "all"
) -> Whole:
    """All images of an open source, or those of one of its splits.

    Raises:
        InputError: If it has a class that the classifier does not have.
    """
    if unknown := [name for name in source.classes if name not in classes]:
        raise InputError(
            f"the images must be of the classifier's classes, {listed(classes)}. "
            f"Received: {source.name} with {listed(unknown)}"
        )
    numbers = tuple(classes.index(name) for name in source.classes)
    splits = tuple(source.splits[kind] for kind in SPLITS if split in (kind, "all"))
    return Whole(splits, numbers, source.folder, source.spec)


def count_trained_on(whole: Whole, training: Source) -> int | None:
    """How many of the images are training images: of the same bytes, as files or as pixels.

    Args:
        whole: The images.
        training: What the classifier was trained on.

    Returns:
        Their number; None if it cannot be told.
    """
    trained = training.splits["train"]
    if whole.folder is not None and training.folder is not None and trained.names is not None:
        names = [name for split in whole.splits for name in split.names or ()]
        return _same_files(whole.folder, names, training.folder, trained.names)
    if whole.spec is not None and whole.spec == training.spec and len(whole.splits) == len(SPLITS):
        return trained.size
    if whole.folder is None and training.folder is None:
        known = set(map(_digest, trained.content()))
        found = [content for split in whole.splits for content in split.content()]
        if len(known) > 1 and len(found) == sum(split.size for split in whole.splits):
            return sum(_digest(content) in known for content in found)
    return None


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _same_files(root: Path, names: Sequence[str], other: Path, trained: Sequence[str]) -> int:
    """How many files have the bytes of one of the others; only those of one size are read."""
    of_size: dict[int, list[Path]] = defaultdict(list)
    for path in _paths(other, trained):
        of_size[path.stat().st_size].append(path)
    digests: dict[int, set[bytes]] = {}
    count = 0
    for path in _paths(root, names):
        size = path.stat().st_size
        if size in of_size:
            if size not in digests:
                digests[size] = {_digest(one.read_bytes()) for one in of_size[size]}
            count += _digest(path.read_bytes()) in digests[size]
    return count


def _paths(root: Path, names: Sequence[str]) -> Iterator[Path]:
    return (root / name for name in names)
