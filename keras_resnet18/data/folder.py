"""Folder of images as a source: `class/…`, or `train/class/…` beside `val/` and `test/`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

from keras_resnet18.data.each_file import Advance
from keras_resnet18.data.files import SPLIT_NAMES, ImageFile, composed, open_files, split_like
from keras_resnet18.data.splits import Source, listed
from keras_resnet18.data.walk import Tree, by_suffix, walk
from keras_resnet18.errors import InputError
from keras_resnet18.images import FORMATS_IN_WORDS
from keras_resnet18.names import SplitName


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
