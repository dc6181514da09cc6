"""Image files with class names as a `Source`: what a folder and a manifest have in common."""

from __future__ import annotations

import dataclasses
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_resnet18.data.each_file import Advance, each_file, size_and_end
from keras_resnet18.data.hash_split import carve
from keras_resnet18.data.headers import Header, read_headers
from keras_resnet18.data.splits import Source, Split, indexed_split, listed, on_cpu
from keras_resnet18.data.stored import StoredImage, encoded_image
from keras_resnet18.errors import InputError
from keras_resnet18.images import FORMATS_IN_WORDS, read_image
from keras_resnet18.names import SPLITS, SplitName

# How people name splits, in folders and in manifests.
SPLIT_NAMES: dict[str, SplitName] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "testset", "eval", "pred"), "test"),
}


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """A labelled image file.

    Attributes:
        path: Relative to the source's folder, or absolute, as the file system spells it.
        class_name: In Unicode's composed form: macOS decomposes é, Linux does not.
        key: What its split is hashed from: files of one key stay together.
    """

    path: str
    class_name: str
    key: str


def composed(text: str) -> str:
    """Text in Unicode's composed form."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def split_like(names: Iterable[str]) -> dict[str, str]:
    """Names of folders that look like those of splits, and which: `{"seg_test": "test"}`."""
    found = {}
    for name in names:
        words = re.findall("[a-z]+", name.lower())
        kinds = {_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS}
        if len(kinds) == 1 and len(words) <= 2:
            found[name] = kinds.pop()
    return found


def open_files(
    root: Path,
    name: str,
    given: Mapping[SplitName, Sequence[ImageFile]],
    *,
    origins: Mapping[SplitName, str],
    notes: tuple[str, ...],
    split_seed: int,
    leave_out: Collection[str],
    advance: Advance,
) -> Source:
    """Makes a source of image files; the headers of all are read, the pixels are not.

    Classes are the sorted class names of the training images, the same list for all splits. A split
    that is not given is carved out of the training images by a hash of their keys.

    Args:
        root: The folder that paths are relative to.
        name: What to call the source.
        given: The images of each split, `"train"` among them.
        origins: Where the images of each given split come from, for the notes.
        notes: Other notes.
        split_seed: Of the hash.
        leave_out: Paths of images that are not used; the splits of the others stay the same.
        advance: Is told of the headers that are read.

    Raises:
        InputError: If a class has no training images, or a file is not an image.
    """
    classes = sorted({image.class_name for image in given["train"]})
    for kind in given:
        unknown = sorted({image.class_name for image in given[kind]} - set(classes))
        if unknown:
            raise InputError(
                f"every class needs training images. Received: {listed(unknown)}, which only the "
                f"{kind} images have. Add training images of it, or remove it."
            )
    unused = frozenset(leave_out)
    everything = [i.path for images in given.values() for i in images if i.path not in unused]
    plain = _plain_jpegs(root, everything, advance)
    training = given["train"]
    wanted = [kind for kind in SPLITS if kind not in given]
    keys, labels = zip(*((image.key, image.class_name) for image in training), strict=True)
    dealt = carve(keys, labels, wanted, split_seed)
    parts = {**given, **{kind: [training[i] for i in rows] for kind, rows in dealt.items()}}
    used = {
        kind: [image for image in images if image.path not in unused]
        for kind, images in parts.items()
    }
    return Source(
        name=name,
        classes=tuple(classes),
        splits={kind: _split(root, used[kind], classes, plain) for kind in SPLITS},
        notes=notes,
        folder=root,
    ).with_notes_on(
        dict.fromkeys(wanted, f"about 10 % of {origins['train']} by hash") | dict(origins)
    )


def open_test_files(
    root: Path, name: str, images: Sequence[ImageFile], classes: Sequence[str], advance: Advance
) -> Split:
    """Makes one split of image files for a test: any of the classes, and any number of images.

    Args:
        root: The folder that paths are relative to.
        name: What to call the source.
        images: The images.
        classes: All class names; a label is an index into them.
        advance: Is told of the headers that are read.

    Raises:
        InputError: If there are none, one has another class, or a file is not an image.
    """
    if not images:
        raise InputError(
            f"images to test must be {FORMATS_IN_WORDS} and lie in one folder for each "
            f"class. Received: {name!r} with none of them so."
        )
    if unknown := sorted({image.class_name for image in images} - set(classes)):
        raise InputError(
            f"the images must be of the classifier's classes, {listed(classes)}. Received: "
            f"{name!r} with {listed(unknown)}. Rename or remove them."
        )
    plain = _plain_jpegs(root, [image.path for image in images], advance)
    return _split(root, images, classes, plain)


def _plain_jpegs(root: Path, paths: Sequence[str], advance: Advance) -> set[str]:
    """Reads the headers of files: those that TensorFlow decodes as they are."""
    found = read_headers([root / path for path in paths], advance)
    headers = dict(zip(paths, found, strict=True))
    broken = [path for path, header in headers.items() if header is Header.BROKEN]
    if broken:
        raise InputError(
            f"image files must hold {FORMATS_IN_WORDS}. "
            f"Received: {len(broken):,} of {len(headers):,} that do not: {listed(broken)}. "
            "Replace or delete them, or train with --on-bad-image skip; `keras-resnet18 check` "
            "lists them all."
        )
    return {path for path, header in headers.items() if header is Header.PLAIN_JPEG}


def _split(
    root: Path, images: Sequence[ImageFile], classes: Sequence[str], plain: set[str]
) -> Split:
    index_of = {class_name: index for index, class_name in enumerate(classes)}
    labels = np.array([index_of[image.class_name] for image in images], np.int64)
    names = tuple(image.path for image in images)
    paths = on_cpu([os.fsencode(root / name) for name in names])
    is_plain = on_cpu([name in plain for name in names])

    def read(path: bytes) -> np.ndarray:
        return read_image(os.fsdecode(path))

    def image(index: tf.Tensor) -> StoredImage:
        data = tf.cond(is_plain[index], lambda: tf.io.read_file(paths[index]), lambda: "")
        return encoded_image(data, is_plain[index], read, paths[index])

    def content() -> Iterator[bytes]:
        files = each_file(size_and_end, [root / name for name in names])
        for name, (size, end) in zip(names, files, strict=True):
            yield os.fsencode(f"{name} {size} ") + end + b"\n"

    return indexed_split(labels, image, names, content)
