"""Image files as a `Source`; the header of each file is read."""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import os
import struct
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import tensorflow as tf

from keras_resnet18.data.folder import ImageFile, Listing
from keras_resnet18.data.splits import Source, Split, carve, indexed_split, on_cpu
from keras_resnet18.data.stored import StoredImage, encoded_image
from keras_resnet18.errors import InputError, listed
from keras_resnet18.images import (
    FORMATS_IN_WORDS,
    MAX_PIXELS,
    image_format,
    orientation,
    read_image,
)
from keras_resnet18.preprocess import FULL_RANGE
from keras_resnet18.recipe import SPLITS

# Receives the number of files that were done since its last call, and of all
Advance = Callable[[int, int], object]

# How to open a file for `os.read`; Windows would else take it for text
_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0)

_Result = TypeVar("_Result")

_CHUNK = 500  # files at once
_THREADS = 16  # that wait for the storage
_SLOW = 1e-4  # seconds for a file: a disk or the network, not the memory
BEGIN, END = 2**14, 64  # bytes of a file that are looked at


def size_and_look(path: str | os.PathLike[str]) -> tuple[int, bytes]:
    """Size of a file, and SHA-256 of its first 16 KiB and last bytes, or of a whole BMP.

    An edit changes the size or the last bytes of a compressed image, and a rotation by EXIF the
    first ones; a BMP keeps its size.
    """
    file = os.open(path, _READ)
    try:
        size = os.fstat(file).st_size
        digest = hashlib.sha256(data := os.read(file, BEGIN))
        if not data.startswith(b"BM"):
            os.lseek(file, max(len(data), size - END), os.SEEK_SET)
        while data := os.read(file, _MOST_BYTES):
            digest.update(data)
        return size, digest.digest()
    finally:
        os.close(file)


def silent(count: int, total: int) -> None:
    """Shows no progress."""


def each_file(
    look: Callable[[str | os.PathLike[str]], _Result],
    paths: Sequence[str | os.PathLike[str]],
    advance: Advance = silent,
) -> list[_Result]:
    """Calls `look`, which computes little, with each path; in threads once the storage is slow."""

    def look_into(chunk: Sequence[str | os.PathLike[str]]) -> list[_Result]:
        return [look(path) for path in chunk]

    results: list[_Result] = []
    chunks = iter([paths[i : i + _CHUNK] for i in range(0, len(paths), _CHUNK)])
    for chunk in chunks:
        start = time.perf_counter()
        results += look_into(chunk)
        advance(len(chunk), len(paths))
        if time.perf_counter() - start > _SLOW * len(chunk):
            break
    # not before, because threads make slower what Python itself computes
    with ThreadPoolExecutor(_THREADS) as pool:
        for found in pool.map(look_into, chunks):
            results += found
            advance(len(found), len(paths))
    return results


def digests_of_alike(paths: Iterable[Path], advance: Advance = silent) -> dict[Path, str]:
    """SHA-256 of the files that share size, first and last bytes with another one.

    The others have no copy, and are not read whole.
    """
    paths = list(paths)
    looks = each_file(size_and_look, paths, advance)
    counts = Counter(looks)
    alike = [path for path, look in zip(paths, looks, strict=True) if counts[look] > 1]

    def digest(path: str | os.PathLike[str]) -> str:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return dict(zip(alike, each_file(digest, alike), strict=True))


_FIRST_BYTES = 2**13  # the whole header of most files
_MOST_BYTES = 2**20  # of a header with a thumbnail and a color profile

# Markers of JPEG (ITU T.81, table B.1); the 4, 8 and C among C0 to CF begin no frame
_FRAMES = frozenset(range(0xFFC0, 0xFFD0)) - {0xFFC4, 0xFFC8, 0xFFCC}
_BASELINE, _SCAN, _APP1, _APP14 = 0xFFC0, 0xFFDA, 0xFFE1, 0xFFEE
_segment = struct.Struct(">HH").unpack_from  # marker and length


class Header(enum.Enum):
    """Kind of a file by its first bytes.

    PLAIN_JPEG is an upright baseline JPEG, gray or color, which TensorFlow decodes to the pixels
    of `images.decode_image`; IMAGE is any other image, BROKEN anything else.
    """

    PLAIN_JPEG = enum.auto()
    IMAGE = enum.auto()
    BROKEN = enum.auto()


def read_header(path: str | os.PathLike[str]) -> Header:
    """Reads the header of a file; no pixel is decoded."""
    try:
        file = os.open(path, _READ)
        try:
            data = os.read(file, _FIRST_BYTES)
            header = header_of(data)
            if header is None and data[:2] == b"\xff\xd8":
                header = header_of(data + os.read(file, _MOST_BYTES))
        finally:
            os.close(file)
    except OSError:
        return Header.BROKEN
    if header is None:
        return Header.BROKEN if image_format(path) is None else Header.IMAGE
    return header


def header_of(data: bytes) -> Header | None:
    """Kind of a file by its first bytes; None if it takes more bytes, or Pillow, to tell."""
    if data[:16] == b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" or data[:5] in (b"GIF87", b"GIF89"):
        return Header.IMAGE
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return Header.IMAGE
    if data[:2] != b"\xff\xd8":
        return None
    header, at, frame = Header.PLAIN_JPEG, 2, False
    while at + 4 <= len(data):
        marker, length = _segment(data, at)
        if marker == _SCAN and frame:
            return header
        if marker < 0xFF01:
            return None
        if marker in _FRAMES:
            frame = True
            plain = marker == _BASELINE and _is_plain_frame(data[at + 4 : at + 10])
        elif marker == _APP1:
            plain = orientation(data[at + 4 : at + 2 + length]) == 1
        else:  # Adobe's marker ends with the kind of the colors: 1 is YCbCr
            end = at + 2 + length
            plain = marker != _APP14 or data[end - 1 : end] == b"\1"
        if not plain:
            header = Header.IMAGE
        at += 2 + length
    return None


def is_plain(data: bytes) -> np.bool_:
    """Whether the bytes are a plain JPEG, for `tf.numpy_function`."""
    return np.bool_(header_of(data) is Header.PLAIN_JPEG)


def _is_plain_frame(segment: bytes) -> bool:
    """Whether a frame has 8 bits, gray or three colors, and a size that is allowed."""
    height, width = int.from_bytes(segment[1:3]), int.from_bytes(segment[3:5])
    return segment[:1] == b"\x08" and segment[5:6] in b"\1\3" and 0 < height * width <= MAX_PIXELS


def open_files(
    listing: Listing, name: str, split_seed: int, leave_out: Collection[str], advance: Advance
) -> Source:
    """Makes a source of image files by reading their headers.

    Classes are sorted by name, the same list for all splits. A split that is not given is carved
    out of the training images by a hash of their keys. Images in `leave_out` are not used; the
    splits of the others stay the same.

    Raises:
        InputError: If a class has no training images, or a file is not an image.
    """
    given, unused = listing.given, frozenset(leave_out)
    images = [image for of_split in given.values() for image in of_split]
    classes = tuple(sorted({image.class_name for image in images}))
    plain = _plain_jpegs(listing.root, [i.path for i in images if i.path not in unused], advance)
    training = given["train"]
    wanted = [kind for kind in SPLITS if kind not in given]
    keys, labels = zip(*((image.key, image.class_name) for image in training), strict=True)
    dealt = carve(keys, labels, wanted, split_seed)
    parts = {**given, **{kind: [training[i] for i in rows] for kind, rows in dealt.items()}}
    used = {kind: [i for i in of_split if i.path not in unused] for kind, of_split in parts.items()}
    split = functools.partial(_split, listing.root, classes=classes, plain=plain)
    return Source(
        name=name,
        classes=classes,
        splits={kind: split(used[kind]) for kind in SPLITS},
        pool=lambda: split([image for kind in SPLITS for image in used[kind]]),
        notes=listing.notes,
        warnings=listing.warnings,
        folder=listing.root,
    ).with_notes_on(
        dict.fromkeys(wanted, f"about 10 % of {listing.origins['train']} by hash")
        | dict(listing.origins)
    )


def open_test_files(
    root: Path, images: Sequence[ImageFile], name: str, classes: Sequence[str]
) -> Split:
    """Makes one split of image files for a test, of any number of images of any of the classes.

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
    plain = _plain_jpegs(root, [image.path for image in images])
    return _split(root, images, classes, plain)


def _plain_jpegs(root: Path, paths: Sequence[str], advance: Advance = silent) -> set[str]:
    """Reads the headers of files, and returns the plain JPEGs. Raises InputError for others."""
    found = each_file(read_header, [root / path for path in paths], advance)
    headers = dict(zip(paths, found, strict=True))
    broken = [path for path, header in headers.items() if header is Header.BROKEN]
    if broken:
        raise InputError(
            f"image files must hold {FORMATS_IN_WORDS}. "
            f"Received: {len(broken):,} of {len(headers):,} that do not: {listed(broken)}. "
            "Replace or delete them, or train with on_bad_image='skip'; `check` lists them all."
        )
    return {path for path, header in headers.items() if header is Header.PLAIN_JPEG}


def _split(
    root: Path,
    images: Sequence[ImageFile],
    classes: Sequence[str],
    plain: set[str],
    max_value: int = FULL_RANGE,
) -> Split:
    index_of = {class_name: index for index, class_name in enumerate(classes)}
    labels = np.array([index_of[image.class_name] for image in images], np.int64)
    names = tuple(image.path for image in images)
    paths = on_cpu([os.fsencode(root / name) for name in names])
    is_plain = on_cpu([name in plain for name in names])

    def read(path: bytes) -> np.ndarray:
        return read_image(os.fsdecode(path), max_value=max_value)

    def image(index: tf.Tensor) -> StoredImage:
        data = tf.cond(is_plain[index], lambda: tf.io.read_file(paths[index]), lambda: "")
        return encoded_image(data, is_plain[index], read, paths[index])

    def content() -> Iterator[bytes]:
        files = each_file(size_and_look, [root / name for name in names])
        for name, (size, digest) in zip(names, files, strict=True):
            yield os.fsencode(f"{name} {size} ") + digest + b"\n"

    split = indexed_split(labels, image, names, content)
    scaled = functools.partial(_split, root, images, classes, plain)
    return dataclasses.replace(split, scaled=scaled, keys=tuple(image.key for image in images))
