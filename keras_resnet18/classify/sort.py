"""Images sorted into a folder for each class."""

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

_IN_NO_NAME = re.compile(r'[\\/:*?"<>|\x00-\x1f]')  # of a file, on one system or another


def check_folder(folder: Path, images: Iterable[str | os.PathLike[str]]) -> None:
    """Raises InputError unless images can be sorted into a folder.

    It must not lie among the images: sorted a second time, they would be images themselves.
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

    Nothing is overwritten: an image gets another name where a different one has its own, and an
    image that is there already stays, so that an interrupted call can be repeated.

    Args:
        folder: Where the folders of the classes are made.
        predictions: What `predict` gives.
        labels: All classes of the classifier.
        link: Whether to make symbolic links instead of copies.

    Yields:
        Each prediction, and where the image is now; None for a file that could not be read.

    Raises:
        InputError: If the folder cannot be written.
    """
    names = _folder_names([*labels, NOT_SURE])
    for found in predictions:
        if found.error is not None:
            yield found, None
            continue
        place = folder / names[NOT_SURE if found.not_sure else found.top[0][0]]
        yield found, _put(found.path.resolve(), place / found.path.name, link)


def _folder_names(labels: Sequence[str]) -> dict[str, str]:
    """A name for the folder of each class, different for all of them on any file system."""
    names: dict[str, str] = {}
    for label in labels:
        plain = _IN_NO_NAME.sub("_", label).strip(". ") or "_"
        taken = {name.casefold() for name in names.values()}
        names[label] = next(name for name in _numbered(plain, "") if name.casefold() not in taken)
    return names


def _numbered(stem: str, suffix: str) -> Iterator[str]:
    yield stem + suffix
    yield from (f"{stem}-{number}{suffix}" for number in itertools.count(2))


def _put(image: Path, wanted: Path, link: bool) -> Path:
    for name in _numbered(wanted.stem, wanted.suffix):
        path = wanted.with_name(name)
        if path.is_symlink() or path.exists():
            same = path.resolve() == image or (not link and _same_content(path, image))
            if same:
                return path
            continue
        if link:
            _link(path, image)
        else:
            with staged(path) as new:
                shutil.copy2(image, new)
        return path
    raise AssertionError  # names do not end


def _link(path: Path, image: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(image)
    except OSError as error:
        raise InputError(
            f"{path} cannot be made a link: {error.strerror}. Give another folder, or let the "
            "images be copied"
        ) from None


def _same_content(path: Path, image: Path) -> bool:
    return path.is_file() and filecmp.cmp(path, image, shallow=False)
