"""From what a person names to a `Source`: digits, arrays, IDX files, a folder or TFDS."""

from __future__ import annotations

import dataclasses
import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_resnet18.data.folder import open_folder
from keras_resnet18.data.splits import Order, Source, Split, carve, indexed_split, on_cpu
from keras_resnet18.data.tfds_stream import open_tfds
from keras_resnet18.errors import InputError
from keras_resnet18.names import SPLITS, SplitName

__all__ = ["Order", "Source", "Split", "from_arrays", "open_source"]


def open_source(spec: str | Path, *, split_seed: int = 0) -> Source:
    """Opens labelled images by name or path.

    Args:
        spec: `"digits"`, scikit-learn's 1,797 digits of 8 by 8 pixels; `"tfds:NAME"`, or
            `"tfds:NAME/CONFIG:VERSION"`; a folder with MNIST's IDX files; or a folder of
            images, `class/…` or `train/class/…` beside `val/` and `test/`.
        split_seed: Of the hash that carves the splits that a source lacks. TFDS carves by percent
            and does not use it.

    Raises:
        InputError: If there is no such source, or it cannot be used.
    """
    name = str(spec)
    if spec == "digits":
        return dataclasses.replace(_digits(split_seed), spec=name)
    if name.startswith("tfds:"):
        return dataclasses.replace(open_tfds(name), spec=name)
    path = Path(name).expanduser()
    if path.is_dir():
        is_idx = _find_idx(path, "train", "images") is not None
        source = (_open_idx if is_idx else open_folder)(path, name, split_seed)
        return dataclasses.replace(source, spec=str(path.resolve()))
    what = "a file" if path.is_file() else "no such folder"
    raise InputError(
        'data must be a folder of images or of IDX files, "tfds:NAME" or "digits". '
        f"Received: {name!r} ({what}). Check the spelling, or unpack an archive first."
    )


def from_arrays(
    images: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    classes: Sequence[str] | None = None,
    validation: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    test: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    name: str = "arrays",
    split_seed: int = 0,
) -> Source:
    """Makes a source of arrays.

    Args:
        images: uint8, shape (n, height, width), (n, height, width, 1) or (n, height, width, 3).
        labels: Whole numbers from 0, shape (n,).
        classes: Names; by default `"0"`, `"1"`, … up to the highest label.
        validation: Images and labels of their own; by default a tenth of `images`, chosen by a
            hash of the index.
        test: Likewise.
        name: What to call the source.
        split_seed: Of the hash.

    Raises:
        InputError: For another dtype, shape or number of values, or a label without a class.
    """
    given: dict[SplitName, _Arrays] = {"train": _checked(images, labels)}
    if validation is not None:
        given["validation"] = _checked(*validation)
    if test is not None:
        given["test"] = _checked(*test)
    sizes = sorted({pixels.shape[1:3] for pixels, _ in given.values()})
    if len(sizes) > 1:
        raise InputError(
            "training, validation and test arrays need images of one size. "
            f"Received: {' and '.join(map(str, sizes))}. Resize them first."
        )
    highest = max(int(targets.max(initial=-1)) for _, targets in given.values())
    names = tuple(str(i) for i in range(highest + 1)) if classes is None else tuple(classes)
    if highest >= len(names) or len(set(names)) < len(names):
        raise InputError(
            "classes must be different names, one for each label from 0. "
            f"Received: {len(names)} names, {len(set(names))} of them different, and labels up "
            f"to {highest}. Correct one or the other."
        )

    wanted = [kind for kind in SPLITS if kind not in given]
    size = len(given["train"][1])
    rows = {kind: np.arange(len(targets)) for kind, (_, targets) in given.items()}
    rows |= carve([str(i) for i in range(size)], wanted, split_seed)
    stored = {kind: on_cpu(pixels) for kind, (pixels, _) in given.items()}

    def split(kind: SplitName) -> Split:
        home: SplitName = kind if kind in given else "train"
        return _split(stored[home], given[home][1], rows[kind])

    return Source(
        name=name, classes=names, splits={kind: split(kind) for kind in SPLITS}, image_size=sizes[0]
    ).with_notes_on(
        dict.fromkeys(given, "as given")
        | dict.fromkeys(wanted, f"10 % of {size:,} by hash")
        | {"train": "the rest" if wanted else "as given"}
    )


_Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


def _checked(images: npt.ArrayLike, labels: npt.ArrayLike) -> _Arrays:
    pixels, targets = np.asarray(images), np.asarray(labels)
    if pixels.dtype != np.uint8:
        raise InputError(
            "images must be uint8, 0 to 255. "
            f"Received: {pixels.dtype}. Scale them to 0 to 255 and call .astype('uint8')."
        )
    if pixels.ndim == 3:
        pixels = pixels[..., np.newaxis]
    if pixels.ndim != 4 or pixels.shape[3] not in (1, 3) or 0 in pixels.shape[1:3]:
        raise InputError(
            "images must have the shape (n, height, width), with 1 or 3 channels at the end or "
            f"none. Received: shape {np.shape(images)}. Transpose or reshape them."
        )
    if targets.shape != (len(pixels),) or targets.dtype.kind not in "iu":
        raise InputError(
            f"labels must be whole numbers, one for each of {len(pixels):,} images. Received: "
            f"{targets.dtype} of shape {targets.shape}. One-hot labels need .argmax(-1)."
        )
    if targets.min(initial=0) < 0:
        raise InputError(
            f"labels must count from 0. Received: {targets.min()}. Leave unlabelled images out."
        )
    return pixels, targets.astype(np.int64)


def _split(pixels: tf.Tensor, targets: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> Split:
    """Some rows of arrays, which splits share so that no pixel lies in memory twice."""
    kept = on_cpu(rows)
    height, width = pixels.shape[1:3]

    def fetch_image(index: tf.Tensor) -> tf.Tensor:
        return tf.broadcast_to(pixels[kept[index]], (height, width, 3))

    def content() -> Iterator[bytes]:
        values = pixels.numpy()
        return (values[row].tobytes() for row in rows)

    return indexed_split(targets[rows], fetch_image, content=content)


def _digits(split_seed: int) -> Source:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # published as 0 to 16
    return from_arrays(pixels, digits.target, name="digits", split_seed=split_seed)


def _find_idx(folder: Path, prefix: str, content: str) -> Path | None:
    rank = {"images": 3, "labels": 1}[content]
    for dot in "-.":  # LeCun's files have a dash, many unpacked copies a dot
        for suffix in ("", ".gz"):
            path = folder / f"{prefix}-{content}{dot}idx{rank}-ubyte{suffix}"
            if path.is_file():
                return path
    return None


def _open_idx(folder: Path, name: str, split_seed: int) -> Source:
    def read(prefix: str) -> _Arrays:
        arrays = []
        for content in ("images", "labels"):
            path = _find_idx(folder, prefix, content)
            if path is None:
                raise InputError(
                    f"IDX images need labels and the other way round. Received: {name!r} without "
                    f"{prefix}-{content}-…-ubyte. Add the file."
                )
            arrays.append(_read_idx(path, rank=3 if content == "images" else 1))
        return _checked(*arrays)

    has_test = any(_find_idx(folder, "t10k", content) for content in ("images", "labels"))
    test = read("t10k") if has_test else None
    return from_arrays(*read("train"), test=test, name=name, split_seed=split_seed)


def _read_idx(path: Path, rank: int) -> npt.NDArray[np.uint8]:
    """Reads an IDX file of bytes: magic 0x0008 and the rank, big-endian uint32 sizes, values."""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"IDX files must be readable. Received: {str(path)!r} ({error}). Get it again."
        ) from error
    begin = 4 + 4 * rank
    shape = tuple(int.from_bytes(data[i : i + 4]) for i in range(4, begin, 4))
    if data[:4] != bytes((0, 0, 8, rank)) or len(data) != begin + math.prod(shape):
        raise InputError(
            f"an IDX file must hold 0000080{rank}, its sizes, and as many bytes as they say. "
            f"Received: {str(path)!r} with {data[:4].hex()}, {shape} and "
            f"{len(data):,} bytes in all. Get it again."
        )
    return np.frombuffer(data, np.uint8, offset=begin).reshape(shape)
