"""`open_source` and `from_arrays`: labeled images by name, by path or from memory."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_resnet18.data.files import Advance, open_files, silent
from keras_resnet18.data.folder import ImageFile, class_images, list_folder
from keras_resnet18.data.folds import whole_source
from keras_resnet18.data.hub import open_hub
from keras_resnet18.data.splits import Order, Source, Split, carve, indexed_split, on_cpu
from keras_resnet18.data.stored import StoredImage, decoded_image
from keras_resnet18.data.tables import (
    MANIFESTS,
    has_idx,
    list_manifest,
    manifest_images,
    read_idx_folder,
)
from keras_resnet18.data.tfds import open_tfds
from keras_resnet18.errors import InputError, check_no_url
from keras_resnet18.recipe import HUB, SPLITS, SplitName

__all__ = ["Order", "Source", "Split", "from_arrays", "open_source"]


def open_source(
    spec: str | os.PathLike[str],
    *,
    split_seed: int = 0,
    leave_out: Collection[str] = (),
    whole: bool = False,
    advance: Advance = silent,
) -> Source:
    """Opens labeled images by name or path.

    Args:
        spec: `"digits"`, scikit-learn's 1,797 digits of 8 by 8 pixels; `"tfds:NAME"`, or
            `"tfds:NAME/CONFIG:VERSION"`; `"hf:OWNER/NAME"`, a dataset of the Hugging Face Hub, as
            `open_hub` of `data/hub.py` names it; or the path of a folder of images (`class/…`, or
            `train/class/…` beside `val/` and `test/`), of a folder of MNIST's IDX files, or of a
            .csv or .tsv file with the columns path and label, and split and group if wanted. A
            `Path` is always a path.
        split_seed: Of the hash that carves the splits that a source lacks. TFDS carves by percent
            and does not use it.
        leave_out: Image files that are not used, by their paths relative to the folder, or to the
            table's. The splits of the others stay the same.
        whole: Whether all images train, and are validation and test images too.
        advance: Is called with the number of image files whose headers were read since its last
            call, and of all; shows nothing by default.

    Raises:
        InputError: If there is no such source, or it cannot be used.
    """
    kind, path = _located(spec)
    name = os.fspath(spec)
    if kind == "digits":
        source = _digits(split_seed)
    elif kind == "tfds":
        source = open_tfds(name)
    elif kind == "hf":
        source = open_hub(name, split_seed)
    elif kind == "idx":
        train, test = read_idx_folder(path, name)
        source = from_arrays(*train, test=test, name=name, split_seed=split_seed)
    else:
        listing = list_folder(path, name) if kind == "folder" else list_manifest(path, name)
        source = open_files(listing, name, split_seed, leave_out, advance)
    if source.spec is None:
        named = kind in ("digits", "tfds")
        source = dataclasses.replace(source, spec=name if named else str(path.resolve()))
    return whole_source(source) if whole else source


def labeled_files(spec: str | os.PathLike[str]) -> tuple[Path, list[ImageFile]] | None:
    """Lists the labeled image files of all splits without opening them; some may not be images.

    Returns:
        The folder that their paths are relative to, and the files; None for a source that does not
        consist of image files.

    Raises:
        InputError: If there is no such source.
    """
    kind, path = _located(spec)
    if kind == "folder":
        return path, class_images(path)
    if kind == "manifest":
        return path.parent, manifest_images(path, os.fspath(spec))
    return None


def _located(spec: str | os.PathLike[str]) -> tuple[str, Path]:
    """Kind of a source, "digits", "tfds", "hf", "idx", "folder" or "manifest", and its path."""
    check_spec(spec)
    path = Path(spec).expanduser()
    if isinstance(spec, str) and (spec == "digits" or spec.startswith(("tfds:", HUB))):
        return spec.partition(":")[0], path
    if path.is_dir():
        return "idx" if has_idx(path) else "folder", path
    if path.is_file() and path.suffix.lower() in MANIFESTS:
        return "manifest", path
    raise InputError(
        "images must be a folder of images or of IDX files, a .csv or .tsv file, "
        f'"hf:OWNER/NAME", "tfds:NAME" or "digits". Received: {os.fspath(spec)!r}, which is '
        f"{'a file' if path.is_file() else 'not there'}. Check the spelling, or unpack an archive "
        "first."
    )


def check_spec(spec: Any) -> None:
    """Raises InputError unless `spec` could name or locate images."""
    if not isinstance(spec, str | os.PathLike):
        raise InputError(
            'images must be a path, "hf:OWNER/NAME", "tfds:NAME", "digits" or a Source; arrays, '
            "lists and datasets become one by from_arrays(images, labels). "
            f"Received: {type(spec).__module__}.{type(spec).__qualname__}."
        )
    check_no_url(spec)
    if not os.fspath(spec):
        raise InputError("images must be a path or a name; this folder is '.'. Received: ''.")


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
    """Makes a `Source` of arrays in memory.

    Args:
        images: uint8, shape (n, height, width), (n, height, width, 1) or (n, height, width, 3).
        labels: Whole numbers from 0, shape (n,).
        classes: Their names; by default `"0"`, `"1"`, … up to the highest label.
        validation: Images and labels for validation; by default about a tenth of `images`, chosen
            by a hash of the index.
        test: Images and labels for the test; by default about another tenth.
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
    lowest = min(int(targets.min(initial=highest)) for _, targets in given.values())
    if lowest > 0 and (classes is None or highest >= len(classes)):
        raise InputError(
            f"labels must count from 0. Received: {name!r} with labels from {lowest} to {highest}. "
            f"Subtract {lowest} from all of them."
        )
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
    labels_of_train = given["train"][1].tolist()
    rows |= carve([str(i) for i in range(size)], labels_of_train, wanted, split_seed)
    stored = {kind: on_cpu(pixels) for kind, (pixels, _) in given.items()}

    def split(kind: SplitName) -> Split:
        home: SplitName = kind if kind in given else "train"
        return _split(stored[home], given[home][1], rows[kind])

    def pool() -> Split:
        height, width = sizes[0]
        pixels = [np.broadcast_to(x, (len(x), height, width, 3)) for x, _ in given.values()]
        targets = np.concatenate([targets for _, targets in given.values()])
        return _split(on_cpu(np.concatenate(pixels)), targets, np.arange(len(targets)))

    return Source(
        name=name,
        classes=names,
        splits={kind: split(kind) for kind in SPLITS},
        image_size=sizes[0],
        pool=pool,
    ).with_notes_on(
        dict.fromkeys(given, "as given")
        | dict.fromkeys(wanted, f"about 10 % of {size:,} by hash")
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
            f"labels must count from 0. Received: {targets.min()}. Leave unlabeled images out."
        )
    return pixels, targets.astype(np.int64)


def _split(pixels: tf.Tensor, targets: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> Split:
    """Makes a split of some rows of arrays, which the splits share to store no pixel twice."""
    kept = on_cpu(rows)
    height, width = pixels.shape[1:3]

    def image(index: tf.Tensor) -> StoredImage:
        return decoded_image(tf.broadcast_to(pixels[kept[index]], (height, width, 3)))

    def content() -> Iterator[bytes]:
        values = pixels.numpy()
        return (values[row].tobytes() for row in rows)

    return indexed_split(targets[rows], image, content=content)


def _digits(split_seed: int) -> Source:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # published as 0 to 16
    return from_arrays(pixels, digits.target, name="digits", split_seed=split_seed)
