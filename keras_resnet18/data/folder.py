"""A folder of images: `class/…`, or `train/class/…` beside `val/` and `test/`."""

from __future__ import annotations

import dataclasses
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_resnet18.data.splits import Source, Split, carve, decode_op, indexed_split, listed
from keras_resnet18.errors import InputError
from keras_resnet18.images import has_image_header, is_image_name, read_image
from keras_resnet18.names import SPLITS, SplitName

_SPLIT_FOLDERS: dict[str, SplitName] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
_SYSTEM_NAMES = frozenset({"__macosx", "thumbs.db", "desktop.ini"})


def open_folder(root: Path, name: str, split_seed: int) -> Source:
    """Reads a tree of image files whose folders name the classes.

    Classes are the sorted names of the training folders, the same list for all splits. A split
    without a folder is carved out of the training images by a hash of their paths. The headers
    of all files are read; the pixels are not.

    Args:
        root: The folder.
        name: What to call the source.
        split_seed: Of the hash.

    Raises:
        InputError: If the folder holds no usable classes, or files that are no images.
    """
    tree = _walk(root)
    folders = _split_folders(tree, name)
    given = {kind: _images_below(folder, tree) for kind, folder in folders.items()}
    given = {kind: images for kind, images in given.items() if images}
    classes = _class_names(given, tree, name)
    _check_headers(root, [image.path for images in given.values() for image in images])

    training = given["train"]
    wanted = [kind for kind in SPLITS if kind not in given]
    dealt = carve([image.key for image in training], wanted, split_seed)
    parts = given | {kind: [training[i] for i in rows] for kind, rows in dealt.items()}
    whole = f"{folders['train'] or root.resolve().name}/"
    return Source(
        name=name,
        classes=classes,
        splits={kind: _split(root, parts[kind], classes) for kind in SPLITS},
        notes=_notes_on_ignored(tree, folders, sum(map(len, given.values()))),
    ).with_notes_on(
        dict.fromkeys(wanted, f"10 % of {whole} by hash")
        | {kind: f"{folders[kind]}/" for kind in given}
        | {"train": whole}
    )


@dataclasses.dataclass
class _Tree:
    """What lies below a folder, as POSIX paths relative to it."""

    images: list[str] = dataclasses.field(default_factory=list)
    folders: list[str] = dataclasses.field(default_factory=list)
    hidden: list[str] = dataclasses.field(default_factory=list)
    others: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class _Image:
    """An image file in a class folder.

    Attributes:
        path: Relative to the root, as the file system spells it.
        class_name: Its folder's name, in Unicode's composed form: macOS decomposes é, Linux does
            not, and both mean the same class.
        key: What its split is hashed from: its path from the class folder on, composed too.
    """

    path: str
    class_name: str
    key: str


def _walk(root: Path) -> _Tree:
    tree = _Tree()
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=_refuse_folder):
        here = PurePosixPath(Path(folder).relative_to(root).as_posix())
        tree.hidden += [str(here / name) for name in subfolders + files if _is_hidden(name)]
        subfolders[:] = [name for name in subfolders if not _is_hidden(name)]
        tree.folders += [str(here / name) for name in subfolders]
        for name in files:
            if not _is_hidden(name):
                kept = tree.images if is_image_name(name) else tree.others
                kept.append(str(here / name))
    for paths in (tree.images, tree.folders, tree.hidden, tree.others):
        paths.sort()  # the file system's own order differs from machine to machine
    return tree


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def _refuse_folder(error: OSError) -> NoReturn:
    raise InputError(
        f"every folder must be readable. Received: {error.filename!r} ({error.strerror}). "
        "Change its permissions, or move it away."
    ) from error


def _split_folders(tree: _Tree, name: str) -> dict[SplitName, str]:
    """The splits that have folders of their own; `{"train": ""}` if the classes lie on top."""
    tops = sorted({path.split("/")[0] for path in tree.images if "/" in path})
    splits = {top: _SPLIT_FOLDERS[top.lower()] for top in tops if top.lower() in _SPLIT_FOLDERS}
    kinds = list(splits.values())
    classes_on_top = len(splits) < len(tops)
    if not splits or (kinds == ["train"] and classes_on_top):
        return {"train": ""}  # a train beside cars and buses is a class
    if classes_on_top or "train" not in kinds or len(set(kinds)) < len(kinds):
        raise InputError(
            "beside val/ or test/ there must be train/, at most one folder for each split, and "
            f"no class. Received: {name!r} with {listed(tops, 5)}. Rename or move folders."
        )
    return {kind: folder for folder, kind in splits.items()}


def _images_below(folder: str, tree: _Tree) -> list[_Image]:
    prefix = f"{folder}/" if folder else ""
    images = []
    for path in tree.images:
        key = unicodedata.normalize("NFC", path.removeprefix(prefix))
        class_name, slash, _ = key.partition("/")
        if path.startswith(prefix) and slash:
            images.append(_Image(path, class_name, key))
    return images


def _class_names(
    given: Mapping[SplitName, list[_Image]], tree: _Tree, name: str
) -> tuple[str, ...]:
    if "train" not in given:
        raise InputError(
            "training images must lie in one folder for each class, such as flowers/rose/1.jpg. "
            f"Received: {name!r} with {len(tree.images):,} images, none of them so. "
            "Make a folder for each class."
        )
    classes = {image.class_name for image in given["train"]}
    for kind in given:
        unknown = sorted({image.class_name for image in given[kind]} - classes)
        if unknown:
            raise InputError(
                f"every class needs training images. Received: {listed(unknown)}, which only the "
                f"{kind} folder has. Add them to train/, or remove them."
            )
    return tuple(sorted(classes))


def _check_headers(root: Path, paths: Sequence[str]) -> None:
    """Finds now what would otherwise stop the training an hour later."""
    with ThreadPoolExecutor(8) as pool:
        good = pool.map(has_image_header, [root / path for path in paths])
        broken = [path for path, is_good in zip(paths, good, strict=True) if not is_good]
    if broken:
        raise InputError(
            "image files must hold JPEG, PNG, BMP, GIF or WebP. "
            f"Received: {len(broken):,} of {len(paths):,} that do not: {listed(broken)}. "
            "Replace or delete them."
        )


def _split(root: Path, images: Sequence[_Image], classes: Sequence[str]) -> Split:
    index_of = {class_name: index for index, class_name in enumerate(classes)}
    labels = np.array([index_of[image.class_name] for image in images], np.int64)
    paths = tuple(image.path for image in images)

    def read(index: int) -> npt.NDArray[np.uint8]:
        return read_image(root / paths[index])

    def fetch_image(index: tf.Tensor) -> tf.Tensor:
        return decode_op(read, index)

    def content() -> Iterator[bytes]:
        for path in paths:
            yield f"{path} {(root / path).stat().st_size}\n".encode("utf-8", "surrogateescape")

    return indexed_split(labels, fetch_image, paths, content)


def _notes_on_ignored(tree: _Tree, folders: Mapping[SplitName, str], used: int) -> tuple[str, ...]:
    levels = {PurePosixPath(folder) for folder in ("", *folders.values())}
    parents = {str(parent) for path in tree.images for parent in PurePosixPath(path).parents}
    empty = [
        folder
        for folder in tree.folders
        if PurePosixPath(folder).parent in levels and folder not in parents
    ]
    stray = len(tree.images) - used
    counted = {
        "that are no images": tree.others,
        "and folders that are hidden or the system's": tree.hidden,
    }
    notes = [
        f"ignored {len(paths):,} files {what}: {listed(paths)}"
        for what, paths in counted.items()
        if paths
    ]
    if stray:
        notes.append(f"ignored {stray:,} images that lie in no class folder")
    if empty:
        notes.append(f"no class, because there are no images in it: {listed(empty)}")
    return tuple(notes)
