"""Labeled image files of a folder, found by one walk for training and prediction.

Nothing here imports TensorFlow, because exported files are run without it.
"""

from __future__ import annotations

import dataclasses
import heapq
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from keras_resnet18.errors import InputError, listed
from keras_resnet18.images import FORMATS_IN_WORDS, is_image_name
from keras_resnet18.recipe import SplitName

# How people name splits, in folders and in manifests
SPLIT_NAMES: dict[str, SplitName] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}

# Words in the names of folders, or in the cells of a table, that are likely to be splits
SPLIT_WORDS: dict[str, SplitName] = SPLIT_NAMES | {
    **dict.fromkeys(("training", "trainset"), "train"),
    "dev": "validation",
    **dict.fromkeys(("testing", "testset", "eval", "pred"), "test"),
}

# Files and folders of systems and network drives, besides names that begin with a dot
_SYSTEM_NAMES = {
    *("#recycle", "#snapshot", "$recycle.bin", "@eadir", "@recycle", "@tmp", "__macosx"),
    *("desktop.ini", "lost+found", "system volume information", "thumbs.db"),
}


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """A labeled image file.

    Attributes:
        path: Relative to the source's folder, or absolute, as the file system spells it.
        class_name: In Unicode's composed form: macOS decomposes é, Linux does not.
        key: What its split is hashed from: files of one key stay together.
    """

    path: str
    class_name: str
    key: str


@dataclasses.dataclass(frozen=True)
class Listing:
    """Labeled image files of a folder or a manifest.

    Attributes:
        root: The folder that their paths are relative to.
        given: The images of each split that is named, `"train"` among them.
        origins: Origin of each of these splits, for the notes.
        notes: Other notes for the user.
        warnings: Sentences on what may spoil a training.
    """

    root: Path
    given: Mapping[SplitName, Sequence[ImageFile]]
    origins: Mapping[SplitName, str]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass
class Tree:
    """Contents of a folder, as sorted POSIX paths relative to it.

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
    """Lists the contents of a folder recursively, every file once.

    Links are followed last, those to folders first, in the order of their names, and only to files
    and folders that are not listed yet: these keep their own names, and a loop ends.

    Raises:
        InputError: If a folder cannot be read.
    """
    tree = Tree()
    known: set[str] = set()  # real paths of all that is listed
    ahead = [("", os.path.realpath(root))]  # folders to enter: path and real path
    links: list[tuple[bool, str, str]] = []  # a heap: whether to a file, path, real path

    def add_file(path: str, real: str, is_file: bool) -> None:
        known.add(real)
        (tree.images if is_file and is_image_name(path) else tree.others).append(path)

    while ahead or links:
        if ahead:
            place, folder = ahead.pop()
            known.add(folder)
            for entry in _entries(folder):
                path, real = place + entry.name, f"{folder}/{entry.name}"
                if entry.name.startswith(".") or entry.name.lower() in _SYSTEM_NAMES:
                    tree.hidden.append(path)
                elif entry.is_symlink():
                    real = os.path.realpath(real)
                    heapq.heappush(links, (not Path(real).is_dir(), path, real))
                elif not entry.is_dir():
                    add_file(path, real, entry.is_file())
                elif real not in known:
                    tree.folders.append(path)
                    ahead.append((f"{path}/", real))
        else:
            is_to_file, path, real = heapq.heappop(links)
            if real in known or not Path(real).exists():
                tree.links.append(path)
            elif is_to_file:
                add_file(path, real, Path(real).is_file())
            else:
                tree.folders.append(path)
                ahead.append((f"{path}/", real))
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


def list_folder(root: Path, name: str) -> Listing:
    """Lists the images of a folder: `class/…`, or `train/class/…` beside `val/` and `test/`.

    Raises:
        InputError: If the folder, called `name` in the message, holds no usable classes.
    """
    tree = walk(root)
    folders = _split_folders(tree, name)
    below = {kind: _images_below(folder, tree) for kind, folder in folders.items()}
    given = {kind: images for kind, images in below.items() if images}
    if "train" not in given:
        others = f" and {_by_suffix(tree.others)} files" if tree.others else ""
        heic = any(path.lower().endswith((".heic", ".heif")) for path in tree.others)
        remedy = "pip install 'keras-resnet18[heic]' for HEIC, or c" if heic else "C"
        remedy = f"{remedy}onvert the files, and make" if tree.others else "Make"
        raise InputError(
            f"training images must be {FORMATS_IN_WORDS} and lie in one folder for each class, "
            f"such as flowers/rose/1.jpg. Received: {name!r} with {len(tree.images):,} images"
            f"{others}, none of them in the folder of a class. {remedy} a folder for each class."
        )
    origins = {kind: f"{folders[kind]}/" for kind in given}
    origins["train"] = f"{folders['train'] or root.resolve().name}/"
    return Listing(root, given, origins, _notes_on_ignored(tree, folders, below))


def class_images(root: Path) -> list[ImageFile]:
    """Lists all images in class folders, whichever splits they are in."""
    tree = walk(root)
    tops = _tops(tree)
    folders = tops if all(top.lower() in SPLIT_NAMES for top in tops) else [""]
    return [image for folder in folders for image in _images_below(folder, tree)]


def _tops(tree: Tree) -> list[str]:
    """The folders on top that hold images."""
    return sorted({path.split("/")[0] for path in tree.images if "/" in path})


def _split_folders(tree: Tree, name: str) -> dict[SplitName, str]:
    """The splits that have folders of their own; `{"train": ""}` if the classes lie on top."""
    tops = _tops(tree)
    splits = {top: SPLIT_NAMES[top.lower()] for top in tops if top.lower() in SPLIT_NAMES}
    kinds = list(splits.values())
    classes_on_top = len(splits) < len(tops)
    if not splits or (kinds == ["train"] and classes_on_top):
        likely = split_like(path for path in tree.images if "/" in path)
        if len(likely) == len(tops) > 1:
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


def _notes_on_ignored(
    tree: Tree, folders: Mapping[SplitName, str], used: Mapping[SplitName, Sequence[ImageFile]]
) -> tuple[str, ...]:
    levels = {PurePosixPath(folder) for folder in ("", *folders.values())}
    parents = {path.rpartition("/")[0] for path in tree.images}
    parents |= {str(above) for parent in parents for above in PurePosixPath(parent).parents}
    empty = [
        folder
        for folder in tree.folders
        if PurePosixPath(folder).parent in levels and folder not in parents
    ]
    counted = {
        f"files that are not images ({_by_suffix(tree.others)})": tree.others,
        "files and folders that are hidden or the system's": tree.hidden,
        "links to what is there already, or to nothing": tree.links,
    }
    notes = [
        f"ignored {len(paths):,} {what}: {listed(paths)}"
        for what, paths in counted.items()
        if paths
    ]
    if stray := len(tree.images) - sum(map(len, used.values())):
        notes.append(f"ignored {stray:,} images that lie in no class folder")
    if empty:
        notes.append(f"not a class, because there are no images in it: {listed(empty)}")
    return tuple(notes)


def _by_suffix(paths: Sequence[str]) -> str:
    """Counts files by the endings of their names, for a sentence: `12 .heic and 3 .txt`."""
    suffixes = Counter(Path(path).suffix.lower() or "without ending" for path in paths)
    return " and ".join(f"{count:,} {suffix}" for suffix, count in suffixes.most_common(3))


def composed(text: str) -> str:
    """Text in Unicode's composed form."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def split_like(paths: Iterable[str]) -> dict[str, SplitName]:
    """Finds top folders of images that are probably splits: `{"seg_test": "test"}`.

    One word of their names is a split's, they are of two splits or more, and two of them hold
    classes of one name.
    """
    below: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        top, *others, _ = path.split("/")
        below[top].update({*others[-1:]} - {top})
    found: dict[str, SplitName] = {}
    for name in sorted(below):
        words = re.findall("[a-z]+", name.lower())
        kinds = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
        if len(kinds) == 1 and len(words) <= 2:
            found[name] = kinds.pop()
    classes = Counter(class_name for name in found for class_name in below[name])
    return found if len({*found.values()}) > 1 and max(classes.values(), default=0) > 1 else {}
