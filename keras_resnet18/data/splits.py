"""`Source`: labeled images in three splits, each a `Split` that `tf.data` reads."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_resnet18.data.stored import StoredImage, decoded_image
from keras_resnet18.errors import InputError, listed
from keras_resnet18.preprocess import FULL_RANGE
from keras_resnet18.recipe import SPLITS, SplitName
from keras_resnet18.spec import ClassifierSpec


@dataclasses.dataclass(frozen=True)
class Order:
    """Shuffled order of a split, the same on every machine.

    Attributes:
        seed: Seed of the training, 0 to 2**31 - 1.
        epoch: Epoch from 0, an int or an int64 scalar tensor.
    """

    seed: int
    epoch: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Labeled images for one use.

    Attributes:
        size: Number of images.
        elements: `elements(order, start)` is a finite dataset of one element for each image,
            without the first `start` (an int or an int64 scalar tensor). With an `Order` it is
            shuffled, with None it is in the split's own order. An element is cheap to make.
        stored: From an element to (`StoredImage`, label), the label an int64 scalar; for use in a
            graph.
        labels: int64 of shape (size,) in the order of `elements(None, 0)`, or None where only
            reading all images would tell.
        names: The images' POSIX paths relative to the folder, in the same order, or None.
        content: Returns bytes that identify the images: names, sizes, first and last bytes of
            files, or pixels.
        keys: Keys that the hash split uses, in the same order: images of one key stay together.
            None where each image has its own.
        scaled: From a `Preprocess.max_value` to the same images, decoded with it; None where no
            image is a file.
    """

    size: int
    elements: Callable[[Order | None, Any], tf.data.Dataset]
    stored: Callable[[Any], tuple[StoredImage, tf.Tensor]]
    labels: npt.NDArray[np.int64] | None = None
    names: tuple[str, ...] | None = None
    content: Callable[[], Iterable[bytes]] = tuple
    keys: tuple[str, ...] | None = None
    scaled: Callable[[int], Split] | None = None

    def scaled_by(self, max_value: int) -> Split:
        """The same images with 16-bit files scaled by `Preprocess.max_value`."""
        return self if self.scaled is None or max_value == FULL_RANGE else self.scaled(max_value)

    def fingerprint(self) -> str:
        """SHA-256 of content and labels, the same for the same images."""
        digest = hashlib.sha256(b"" if self.labels is None else self.labels.tobytes())
        for content in self.content():
            digest.update(content)
        return digest.hexdigest()

    def facts(self) -> dict[str, Any]:
        """Number and fingerprint, for `environment.json`."""
        return {"n": self.size, "sha256": self.fingerprint()}

    def fetch(self, element: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the whole image of an element, uint8 (height, width, 3), and its label."""
        image, label = self.stored(element)
        return image.whole(), label

    def some(self, rows: Collection[int]) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        """Reads some images and no others; yields rows and pixels (height, width, 3) in order."""
        wanted = tf.constant(sorted(rows), tf.int64)
        elements = self.elements(None, 0).enumerate()
        chosen = elements.filter(lambda row, _: tf.reduce_any(row == wanted))
        yield from chosen.map(lambda row, x: (row, self.fetch(x)[0])).as_numpy_iterator()


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Labeled images, ready for training.

    Attributes:
        name: Name that the user gave.
        classes: Class names; a label is an index into them.
        splits: Exactly `"train"`, `"validation"` and `"test"`; no image is in two of them.
        notes: Sentences for the user, such as which files were ignored.
        image_size: (height, width) where all images are known to share it, else None.
        spec: Argument of `open_source` that opens it again from any working directory; None for
            arrays.
        folder: The folder that the images' names are relative to; None if they are not files.
        warnings: Sentences on what may spoil a training, for `train` and `check`.
        split_notes: Sentences for the user on the origin of each split, and missing classes.
        pool: All images in one split; None where they have no order of their own (TFDS).

    Raises:
        InputError: For fewer than two classes, a name that is not one line of text, an empty split,
            or a class without training images.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    notes: tuple[str, ...] = ()
    image_size: tuple[int, int] | None = None
    spec: str | None = None
    folder: Path | None = None
    warnings: tuple[str, ...] = ()
    split_notes: tuple[str, ...] = ()
    pool: Callable[[], Split] | None = None

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise InputError(
                "a classifier needs two classes or more. "
                f"Received: {self.name!r} with {listed(self.classes) or 'none'}. Add another class."
            )
        ClassifierSpec(self.classes, None)  # its rules for labels
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
        """Returns the classes without an image in a split; none where labels are not known."""
        labels = self.splits[kind].labels
        if labels is None:
            return []
        counts = np.bincount(labels, minlength=len(self.classes))
        return [name for name, count in zip(self.classes, counts, strict=True) if not count]

    def scaled(self, max_value: int) -> Source:
        """The same images with 16-bit files scaled by `Preprocess.max_value`."""
        made = {split: split.scaled_by(max_value) for split in set(self.splits.values())}
        splits = {kind: made[split] for kind, split in self.splits.items()}
        pool = self.pool
        scaled = None if pool is None else lambda: pool().scaled_by(max_value)
        return dataclasses.replace(self, splits=splits, pool=scaled)

    def with_notes_on(self, origins: Mapping[SplitName, str]) -> Source:
        """Returns the source with `split_notes` on the origin of each split and missing classes."""
        sizes = {kind: f"{self.splits[kind].size:,} images" for kind in SPLITS}
        parts = "; ".join(f"{kind}: {origins[kind]} ({sizes[kind]})" for kind in SPLITS)
        lacking = [
            f"no {kind} image of {listed(absent)}"
            for kind in SPLITS
            if (absent := self.absent_from(kind))
        ]
        return dataclasses.replace(self, split_notes=(parts, *lacking))


def indexed_split(
    labels: npt.NDArray[np.int64],
    image: Callable[[tf.Tensor], StoredImage],
    names: tuple[str, ...] | None = None,
    content: Callable[[], Iterable[bytes]] = tuple,
) -> Split:
    """Makes a split with random access, whose elements are indices.

    Args:
        labels: Shape (size,).
        image: Function of an int64 scalar tensor to the image of that index.
        names: Names of the images, if they have any.
        content: Attribute of `Split`.
    """
    size, targets = len(labels), on_cpu(labels)

    def elements(order: Order | None, start: Any) -> tf.data.Dataset:
        indices = tf.range(start, size, dtype=tf.int64)
        if order is not None:  # one op for a whole epoch: 0.25 s for ImageNet's 1.28 million
            seed = tf.stack([tf.cast(order.seed, tf.int64), tf.cast(order.epoch, tf.int64)])
            indices = tf.random.experimental.index_shuffle(indices, seed, max_index=size - 1)
        return tf.data.Dataset.from_tensor_slices(indices)

    def stored(index: tf.Tensor) -> tuple[StoredImage, tf.Tensor]:
        return image(index), targets[index]

    return Split(size, elements, stored, labels, names, content)


def array_split(values: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> Split:
    """Makes a split of arrays, one value for each label, such as features instead of images."""
    held = on_cpu(values)
    return indexed_split(labels, lambda index: decoded_image(held[index]))


def on_cpu(values: Any) -> tf.Tensor:
    """A constant in the memory of the CPU, where `tf.data` works, even if there is a GPU."""
    with tf.device("CPU"):
        return tf.constant(values)


# Hash split: a hash of an image's name decides on its split, the same on every machine.

_CARVED: tuple[SplitName, ...] = ("test", "validation")  # a tenth of the hash each, in this order

_Ranked = list[tuple[int, int, str]]  # tenth of the hash, hash, key


def carve(
    keys: Sequence[str],
    classes: Sequence[Hashable],
    wanted: Collection[SplitName],
    split_seed: int,
) -> dict[SplitName, npt.NDArray[np.int64]]:
    """Splits images by a hash of their keys.

    In the order of their hashes, a class's images are first for test, then for validation, then for
    training: those with a hash in the first tenth of the range, those in the next tenth, and the
    rest. A class with more images than there are splits to carve lends, so that every split has one
    of its images: the next in order to test and validation, the last to training.

    Adding images keeps the order of the others. So an image lent to test or validation may come
    back to training; a training image goes to test only if it was lent, from a class whose hashes
    are all in the first tenth (1 of 1,000 classes of three images).

    A smaller class lends none and keeps its last image for training. If all classes are so small,
    their other images are dealt out together, as those of one class.

    Images of one key stay together and count as one, of the class of the first.

    Args:
        keys: A permanent name of each image.
        classes: The class of each image.
        wanted: The splits to carve; `"train"` keeps the rest.
        split_seed: Seed of the hash.

    Returns:
        Ascending indices of the images of `"train"` and of each of `wanted`.
    """
    kinds = [kind for kind in _CARVED if kind in wanted]
    members: dict[str, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        members[key].append(index)
    of_class: dict[Hashable, _Ranked] = defaultdict(list)
    for key, indices in members.items():
        of_class[classes[indices[0]]].append((*_place(key, kinds, split_seed), key))
    home: dict[str, SplitName] = {}
    spare: _Ranked = []
    for ranked in map(sorted, of_class.values()):
        if len(ranked) > len(kinds):
            home |= _dealt(ranked, kinds, lend=True, kept=1)
        else:
            spare += ranked[:-1]
    home |= _dealt(sorted(spare), kinds, lend=not home, kept=0)
    rows: dict[SplitName, list[int]] = {"train": [], **{kind: [] for kind in kinds}}
    for index, key in enumerate(keys):
        rows[home.get(key, "train")].append(index)
    return {kind: np.array(indices, np.int64) for kind, indices in rows.items()}


def _place(key: str, kinds: Sequence[SplitName], split_seed: int) -> tuple[int, int]:
    """Tenth of a key's hash, counted from that of the first of `kinds`, and the hash."""
    text = f"{split_seed}/{key}".encode("utf-8", "surrogateescape")
    value = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())
    first = _CARVED.index(kinds[0]) if kinds else 0
    return (value - first) % 10, value


def _dealt(
    ranked: _Ranked, kinds: Sequence[SplitName], *, lend: bool, kept: int
) -> Iterator[tuple[str, SplitName]]:
    """Yields keys with their splits; the other images train.

    Args:
        ranked: The images, in the order of their hashes.
        kinds: The splits to carve.
        lend: Whether each split gets an image, whatever its hash.
        kept: Number of images left for training, whatever their hashes.
    """
    end = 0
    for number, kind in enumerate(kinds):
        start, end = end, sum(tenth <= number for tenth, *_ in ranked)
        if lend:
            last = len(ranked) - kept - (len(kinds) - 1 - number)
            end = max(start, min(max(end, start + 1), last))
        for *_, key in ranked[start:end]:
            yield key, kind
