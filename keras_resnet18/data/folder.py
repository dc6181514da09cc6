"""The image files below a folder: one walk for training and for prediction, without TensorFlow."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath

from keras_resnet18.data.files import (
    SPLIT_NAMES,
    Advance,
    ImageFile,
    composed,
    open_files,
    split_like,
)
from keras_resnet18.data.splits import Source, listed
from keras_resnet18.errors import InputError
from keras_resnet18.images import FORMATS_IN_WORDS, is_image_name
from keras_resnet18.recipe import SplitName

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


# Folder of images as a source: `class/…`, or `train/class/…` beside `val/` and `test/`.


def open_folder(
    root: Path, name: str, split_seed: int, leave_out: Collection[str], advance: Advance
) -> Source:
    """Reads a tree of image files whose folders name the classes.

    Args:
        root: The folder.
        name: What to call the source.
        split_seed: Of the hash that carves the splits that have no folder.
        leave_out: Paths of images that are not used.
        advance: Is told of the headers that are read.

    Raises:
        InputError: If the folder holds no usable classes, or files that are not images.
    """
    tree = walk(root)
    folders = _split_folders(tree, name)
    given = {kind: _images_below(folder, tree) for kind, folder in folders.items()}
    given = {kind: images for kind, images in given.items() if images}
    if "train" not in given:
        others = f" and {by_suffix(tree.others)} files" if tree.others else ""
        heic = any(path.lower().endswith((".heic", ".heif")) for path in tree.others)
        remedy = "pip install 'keras-resnet18[heic]' for HEIC" if heic else "Convert the files"
        if not tree.images and not tree.others:
            raise InputError(
                "training images must lie in one folder for each class, such as "
                f"flowers/rose/1.jpg. Received: {name!r}, in which no file is"
            )
        raise InputError(
            f"training images must be {FORMATS_IN_WORDS} and lie in one folder for each "
            f"class, such as flowers/rose/1.jpg. Received: {name!r} with {len(tree.images):,} "
            f"images{others}, none of them so. {remedy}, or make a folder for each class."
        )
    whole = f"{folders['train'] or root.resolve().name}/"
    return open_files(
        root,
        name,
        given,
        origins={kind: f"{folders[kind]}/" for kind in given} | {"train": whole},
        notes=_notes_on_ignored(tree, folders, sum(map(len, given.values()))),
        split_seed=split_seed,
        leave_out=leave_out,
        advance=advance,
    )


def test_images(root: Path) -> list[ImageFile]:
    """All images of a tree in class folders, whichever splits they are in."""
    tree = walk(root)
    tops = {path.split("/")[0] for path in tree.images if "/" in path}
    are_splits = all(top.lower() in SPLIT_NAMES for top in tops)
    folders = sorted(tops) if are_splits else [""]
    return [image for folder in folders for image in _images_below(folder, tree)]


def _split_folders(tree: Tree, name: str) -> dict[SplitName, str]:
    """The splits that have folders of their own; `{"train": ""}` if the classes lie on top."""
    tops = sorted({path.split("/")[0] for path in tree.images if "/" in path})
    splits = {top: SPLIT_NAMES[top.lower()] for top in tops if top.lower() in SPLIT_NAMES}
    kinds = list(splits.values())
    classes_on_top = len(splits) < len(tops)
    if not splits or (kinds == ["train"] and classes_on_top):
        likely = split_like(tops)
        if len(tops) > 1 and len(likely) == len(tops):
            renames = ", ".join(f"{top!r} to {split}/" for top, split in likely.items())
            raise InputError(
                "classes lie in one folder each, or below train/, val/ and test/. "
                f"Received: {name!r} with folders that look like splits: rename {renames}."
            )
        return {"train": ""}  # a train beside cars and buses is a class
    if classes_on_top or "train" not in kinds or len(set(kinds)) < len(kinds):
        raise InputError(
            "beside val/ or test/ there must be train/, at most one folder for each split, and "
            f"no class. Received: {name!r} with {listed(tops, 5)}. Rename or move folders."
        )
    return {kind: folder for folder, kind in splits.items()}


def _images_below(folder: str, tree: Tree) -> list[ImageFile]:
    """The images in class folders; the key of each is its path from the class folder on."""
    prefix = f"{folder}/" if folder else ""
    images = []
    for path in tree.images:
        if path.startswith(prefix):
            key = composed(path[len(prefix) :])
            class_name, slash, _ = key.partition("/")
            if slash:
                images.append(ImageFile(path, class_name, key))
    return images


def _notes_on_ignored(tree: Tree, folders: Mapping[SplitName, str], used: int) -> tuple[str, ...]:
    levels = {PurePosixPath(folder) for folder in ("", *folders.values())}
    parents = {path.rpartition("/")[0] for path in tree.images}
    parents |= {str(above) for parent in parents for above in PurePosixPath(parent).parents}
    empty = [
        folder
        for folder in tree.folders
        if PurePosixPath(folder).parent in levels and folder not in parents
    ]
    counted = {
        f"files that are not images ({by_suffix(tree.others)})": tree.others,
        "files and folders that are hidden or the system's": tree.hidden,
        "links to what is there already, or to nothing": tree.links,
    }
    notes = [
        f"ignored {len(paths):,} {what}: {listed(paths)}"
        for what, paths in counted.items()
        if paths
    ]
    if stray := len(tree.images) - used:
        notes.append(f"ignored {stray:,} images that lie in no class folder")
    if empty:
        notes.append(f"not a class, because there are no images in it: {listed(empty)}")
    return tuple(notes)
