"""The image files below a folder: one walk for training and for prediction, without TensorFlow."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from keras_resnet18.errors import InputError
from keras_resnet18.images import is_image_name

# What systems and network drives leave beside people's files; names that begin with a dot too.
_SYSTEM_NAMES = frozenset(
    {
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "@eadir",
        "@recycle",
        "@tmp",
        "__macosx",
        "desktop.ini",
        "lost+found",
        "system volume information",
        "thumbs.db",
    }
)


@dataclasses.dataclass
class Tree:
    """What lies below a folder, as sorted POSIX paths relative to it.

    Attributes:
        images: Files that are named as images.
        folders: Folders.
        hidden: Hidden and system files and folders, which are not entered.
        links: Links that are not followed: to what is listed already, or to nothing.
        others: All other files.
    """

    images: list[str] = dataclasses.field(default_factory=list)
    folders: list[str] = dataclasses.field(default_factory=list)
    hidden: list[str] = dataclasses.field(default_factory=list)
    links: list[str] = dataclasses.field(default_factory=list)
    others: list[str] = dataclasses.field(default_factory=list)


def walk(root: str | os.PathLike[str]) -> Tree:
    """Lists what lies below a folder, every file once.

    Links are followed after everything else, in the order of their names, and only to files and
    folders that are not listed yet: what has a name of its own keeps it, and a loop ends.

    Raises:
        InputError: If a folder cannot be read.
    """
    tree = Tree()
    folders: set[str] = set()  # real paths of all that is listed
    files: set[str] = set()
    links: list[tuple[str, str]] = []  # path and real path

    def enter(place: str, folder: str) -> None:
        ahead = [(place, folder)]
        while ahead:
            place, folder = ahead.pop()
            folders.add(folder)
            for entry in _entries(folder):
                path, real = place + entry.name, f"{folder}/{entry.name}"
                if _is_hidden(entry.name):
                    tree.hidden.append(path)
                elif entry.is_symlink():
                    links.append((path, os.path.realpath(real)))
                elif not entry.is_dir():
                    add_file(path, real, entry.is_file())
                elif real not in folders:
                    tree.folders.append(path)
                    ahead.append((f"{path}/", real))

    def add_file(path: str, real: str, is_file: bool) -> None:
        files.add(real)
        (tree.images if is_file and is_image_name(path) else tree.others).append(path)

    enter("", os.path.realpath(root))
    to_files = []
    while links:
        links.sort(reverse=True)
        path, real = links.pop()
        if not Path(real).is_dir():
            to_files.append((path, real))
        elif real in folders:
            tree.links.append(path)
        else:
            tree.folders.append(path)
            enter(f"{path}/", real)
    for path, real in sorted(to_files):
        if real in files or not Path(real).exists():
            tree.links.append(path)
        else:
            add_file(path, real, Path(real).is_file())
    for paths in (tree.images, tree.folders, tree.hidden, tree.links, tree.others):
        paths.sort()  # the file system's own order differs from machine to machine
    return tree


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise InputError(
            f"every folder must be readable. Received: {folder!r} ({error.strerror}). "
            "Change its permissions, or move it away."
        ) from None


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def by_suffix(paths: Sequence[str]) -> str:
    """Counts files by the endings of their names, for a sentence: `12 .heic and 3 .txt`."""
    suffixes = Counter(Path(path).suffix.lower() or "without ending" for path in paths)
    return " and ".join(f"{count:,} {suffix}" for suffix, count in suffixes.most_common(3))
