"""Copies of images, sorted into a folder for each class."""

from __future__ import annotations

import filecmp
import itertools
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from keras_resnet18.classify.predict import Prediction
from keras_resnet18.errors import InputError
from keras_resnet18.files import check_parent, staged
from keras_resnet18.spec import NOT_SURE

_FORBIDDEN = re.compile(r'[\\/:*?"<>|\x00-\x1f]')  # in file names, on at least one system


def check_folder(folder: Path, images: Iterable[str | os.PathLike[str]]) -> None:
    """Raises InputError unless images can be sorted into a folder.

    A folder inside one of the images' folders is refused: a second call would sort the copies too.
    """
    check_parent(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"images are sorted into a folder. Received: {folder}, which is a file")
    real = folder.expanduser().resolve()
    for given in images:
        if Path(given).is_dir() and real.is_relative_to(Path(given).resolve()):
            raise InputError(
                f"images are sorted into a folder outside of theirs. Received: {folder}, in {given}"
            )


def sort_into(
    folder: Path, predictions: Iterable[Prediction], labels: Sequence[str], *, link: bool = False
) -> Iterator[tuple[Prediction, Path | None]]:
    """Copies each image into the folder of its class, or into `not sure`, as it is predicted.

    Nothing is overwritten: an image gets another name if a different file has its name, and a copy
    that exists stays, so that an interrupted call can be repeated. With `link`, the copies are
    symbolic links.

    Yields:
        Each prediction and the path of its copy, or None for a file that could not be read.
    """
    names = _folder_names([*labels, NOT_SURE])
    for found in predictions:
        if found.error is not None:
            yield found, None
            continue
        place = folder / names[NOT_SURE if found.not_sure else found.top[0][0]]
        yield found, _put(found.path.resolve(), place / found.path.name, link)


def _folder_names(labels: Sequence[str]) -> dict[str, str]:
    """Returns a folder name for each class, unique on every file system."""
    names: dict[str, str] = {}
    for label in labels:
        plain = _FORBIDDEN.sub("_", label).strip(". ") or "_"
        taken = {name.casefold() for name in names.values()}
        names[label] = next(name for name in _numbered(plain, "") if name.casefold() not in taken)
    return names


def _numbered(stem: str, suffix: str) -> Iterator[str]:
    yield stem + suffix
    yield from (f"{stem}-{number}{suffix}" for number in itertools.count(2))


def _put(image: Path, wanted: Path, link: bool) -> Path:
    for path in map(wanted.with_name, _numbered(wanted.stem, wanted.suffix)):
        if not path.is_symlink() and not path.exists():
            break
        copied = not link and path.is_file() and filecmp.cmp(path, image, shallow=False)
        if copied or path.resolve() == image:
            return path
    if not link:
        with staged(path) as new:
            shutil.copy2(image, new)
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(image)
    except OSError as error:
        raise InputError(
            f"{path} cannot be made a link: {error.strerror}. Give another folder, or copy the "
            "images instead"
        ) from None
    return path
