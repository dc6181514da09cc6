"""What all sources become: class names and three splits that do not overlap."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_resnet18.errors import InputError
from keras_resnet18.names import SPLITS, SplitName

_CARVED: tuple[SplitName, ...] = (
    "test",
    "validation",
)  # each takes a tenth of the hash, in this order


@dataclasses.dataclass(frozen=True)
class Order:
    """One shuffle of a split: every (seed, epoch) has its own, the same on every machine.

    Attributes:
        seed: Of the whole training, 0 to 2**31 - 1.
        epoch: Counted from 0; may be an int64 scalar tensor.
    """

    seed: int
    epoch: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Labelled images for one use.

    Attributes:
        size: How many there are.
        elements: `elements(order, start)` is a finite dataset of one element for each image,
            without the first `start` (an int or an int64 scalar tensor). With an `Order` it is
            shuffled, with None it is as listed. An element is cheap; `fetch` makes it an image.
        fetch: From an element to (image, label): uint8 of shape (height, width, 3), upright RGB,
            and an int64 scalar. Can be traced into a graph.
        labels: int64 of shape (size,) in the order of `elements(None, 0)`, or None where only
            reading all images would tell.
        names: The images' POSIX paths below the folder, in the same order, or None.
        content: Gives what tells these images from others: names and sizes of files, or pixels.
    """

    size: int
    elements: Callable[[Order | None, Any], tf.data.Dataset]
    fetch: Callable[[Any], tuple[tf.Tensor, tf.Tensor]]
    labels: npt.NDArray[np.int64] | None = None
    names: tuple[str, ...] | None = None
    content: Callable[[], Iterable[bytes]] = tuple

    def fingerprint(self) -> str:
        """SHA-256 of content and labels: two splits that share it hold the same images."""
        digest = hashlib.sha256(b"" if self.labels is None else self.labels.tobytes())
        for content in self.content():
            digest.update(content)
        return digest.hexdigest()


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Labelled images, ready for training.

    Attributes:
        name: What the person called it.
        classes: Names; a label is an index into them.
        splits: Exactly `"train"`, `"validation"` and `"test"`; no image is in two of them.
        notes: Sentences for the person: where each split comes from, what was ignored, what lacks.
        image_size: (height, width) where all images are known to share it, else None.
        spec: What `open_source` opens it by again, from any working directory; None for arrays.

    Raises:
        InputError: For fewer than two classes, a name that is no line of text, an empty split, or a
            class that nothing trains.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    notes: tuple[str, ...] = ()
    image_size: tuple[int, int] | None = None
    spec: str | None = None

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise InputError(
                "a classifier needs two classes or more. "
                f"Received: {self.name!r} with {listed(self.classes) or 'none'}. Add another class."
            )
        unprintable = [name for name in self.classes if not name or not name.isprintable()]
        if unprintable:  # labels.txt has a line for each
            raise InputError(
                "class names must be printable, in UTF-8. "
                f"Received: {self.name!r} with {listed(unprintable)}. Rename them."
            )
        empty = [kind for kind in SPLITS if not self.splits[kind].size]
        if empty:
            total = sum(split.size for split in self.splits.values())
            raise InputError(
                f"every split needs an image, and {' and '.join(empty)} got none. "
                f"Received: {self.name!r} with {total:,} images. Add images, or bring "
                "validation and test images of your own (a folder: val/ and test/)."
            )
        untrained = self.absent_from("train")
        if untrained:
            raise InputError(
                "every class needs a training image. "
                f"Received: {self.name!r} with none of {listed(untrained)}. "
                "Add images of it, or remove the class."
            )

    def absent_from(self, kind: SplitName) -> list[str]:
        """The classes without an image in a split; none where its labels are not known."""
        labels = self.splits[kind].labels
        if labels is None:
            return []
        counts = np.bincount(labels, minlength=len(self.classes))
        return [name for name, count in zip(self.classes, counts, strict=True) if not count]

    def with_notes_on(self, origins: Mapping[SplitName, str]) -> Source:
        """Adds what every source should say: where its splits come from, and what they lack.

        Args:
            origins: For each split, where its images come from.
        """
        sizes = {kind: f"{self.splits[kind].size:,} images" for kind in SPLITS}
        parts = "; ".join(f"{kind}: {origins[kind]} ({sizes[kind]})" for kind in SPLITS)
        lacking = [
            f"no {kind} image of {listed(absent)}"
            for kind in SPLITS
            if (absent := self.absent_from(kind))
        ]
        return dataclasses.replace(self, notes=(parts, *self.notes, *lacking))


def indexed_split(
    labels: npt.NDArray[np.int64],
    fetch_image: Callable[[tf.Tensor], tf.Tensor],
    names: tuple[str, ...] | None = None,
    content: Callable[[], Iterable[bytes]] = tuple,
) -> Split:
    """A split whose images can be had in any order, so that its elements are indices.

    Args:
        labels: Shape (size,).
        fetch_image: From an int64 scalar tensor to a uint8 tensor of shape (height, width, 3).
        names: The images' names, if they have any.
        content: See `Split`.
    """
    size, targets = len(labels), on_cpu(labels)

    def elements(order: Order | None, start: Any) -> tf.data.Dataset:
        indices = tf.range(start, size, dtype=tf.int64)
        if order is not None:  # one op for a whole epoch: 0.25 s for ImageNet's 1.28 million
            seed = tf.stack([tf.cast(order.seed, tf.int64), tf.cast(order.epoch, tf.int64)])
            indices = tf.random.experimental.index_shuffle(indices, seed, max_index=size - 1)
        return tf.data.Dataset.from_tensor_slices(indices)

    def fetch(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return fetch_image(index), targets[index]

    return Split(size, elements, fetch, labels, names, content)


def decode_op(decode: Any, argument: tf.Tensor) -> tf.Tensor:
    """Runs a Python decoder inside `tf.data`.

    Args:
        decode: From a NumPy value to a uint8 array of shape (height, width, 3).
        argument: The tensor whose value `decode` gets.

    Returns:
        uint8 tensor of shape (height, width, 3), height and width unknown until it runs.
    """
    image = tf.numpy_function(decode, [argument], tf.uint8)
    return tf.ensure_shape(image, (None, None, 3))


def array_split(values: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> Split:
    """A split of arrays, one value for each label, such as features instead of images."""
    stored = on_cpu(values)
    return indexed_split(labels, lambda index: stored[index])


def on_cpu(values: npt.NDArray[Any]) -> tf.Tensor:
    """A constant where `tf.data` works, also when there is a GPU."""
    with tf.device("CPU"):
        return tf.constant(values)


def carve(
    keys: Sequence[str], wanted: Collection[SplitName], split_seed: int
) -> dict[SplitName, npt.NDArray[np.int64]]:
    """Deals images out by a hash of their keys, so that new images move none of the old ones.

    Args:
        keys: A name for each image that never changes.
        wanted: The splits to carve, a tenth of the images each; `"train"` keeps the rest.
        split_seed: Another seed deals differently.

    Returns:
        For `"train"` and each of `wanted` the indices of its images, rising.
    """
    dealt: dict[SplitName, list[int]] = {"train": [], **{kind: [] for kind in wanted}}
    for index, key in enumerate(keys):
        text = f"{split_seed}/{key}".encode("utf-8", "surrogateescape")
        tenth = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) % 10
        kind = _CARVED[tenth] if tenth < len(_CARVED) else "train"
        dealt[kind if kind in dealt else "train"].append(index)
    return {kind: np.array(indices, np.int64) for kind, indices in dealt.items()}


def listed(names: Collection[str], most: int = 3) -> str:
    """The first few of some names, for a sentence: `'a', 'b', 'c' and 4 more`."""
    shown = ", ".join(repr(name) for name in list(names)[:most])
    return f"{shown} and {len(names) - most:,} more" if len(names) > most else shown
