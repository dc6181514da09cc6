"""Folds: cross-validation over all images of a source."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from keras_resnet18.data.splits import Source, Split, indexed_split, on_cpu
from keras_resnet18.data.stored import StoredImage
from keras_resnet18.errors import InputError, within

MAX_FOLDS = 10


@dataclasses.dataclass
class Folds:
    """Fold of each image of a source, which one training leaves out.

    Attributes:
        count: Number of folds, 2 to 10.
        numbers: The fold of each image, from 0, int64 (n,), in the order of `Source.pool`.
        features: Features of all images and their labels, once a training has computed them.
    """

    count: int
    numbers: npt.NDArray[np.int64]
    features: tuple[npt.NDArray[Any], npt.NDArray[np.int64]] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Values for JSON: a digit for each image."""
        return {"count": self.count, "of_images": "".join(map(str, self.numbers))}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Folds:
        """Folds from the values of `to_dict`."""
        return cls(values["count"], np.array(list(values["of_images"]), np.int64))


def check_folds(count: Any) -> None:
    """Raises InputError unless `count` is a number of folds."""
    whole = isinstance(count, int) and 2 <= count <= MAX_FOLDS
    within("folds", count, whole, f"a whole number, 2 to {MAX_FOLDS}")


def deal(source: Source, count: int, seed: int, copies: Iterable[Sequence[str]]) -> Folds:
    """Splits all images of a source into folds, by scikit-learn's `StratifiedGroupKFold`.

    Images of one key (a group of a table) stay together, and so do `copies`, groups of names.

    Raises:
        InputError: If the images have no order of their own (TFDS), there are too few, or a class
            would be in one fold alone.
    """
    pool = pool_of(source)
    assert pool.labels is not None  # or it would be no pool
    names = pool.names or tuple(map(str, range(pool.size)))
    group = groups_of(names, pool.keys or names, copies)
    return Folds(count, fold_numbers(source, pool.labels, group, count, seed))


def fold_numbers(
    source: Source,
    labels: npt.NDArray[np.int64],
    group: npt.NDArray[np.int32],
    count: int,
    seed: int,
) -> npt.NDArray[np.int64]:
    """The fold of each image, from 0; images of one group share it. Raises InputError as `deal`."""
    folds = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    numbers = np.zeros(len(labels), np.int64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a class smaller than the folds
            for number, (_, rows) in enumerate(folds.split(numbers, labels, group)):
                numbers[rows] = number
    except ValueError:  # every class is smaller than the folds
        numbers[:] = 0
    of_class = [set(numbers[labels == label]) for label in range(len(source.classes))]
    single = [name for name, of in zip(source.classes, of_class, strict=True) if len(of) < 2]
    if single or len(set(numbers)) < count:
        raise InputError(
            f"{count} folds need {count} images or more that are no copies, and every class images "
            f"in two of them. Received: {source.name!r} with {len(set(group)):,} different images"
            + (f", and {single[0]!r} in one fold alone" if single else "")
            + ". Add images, or take fewer folds."
        )
    return numbers


def groups_of(
    names: Sequence[str], keys: Sequence[str], copies: Iterable[Sequence[str]]
) -> npt.NDArray[np.int32]:
    """The group of each image; images of one key, and copies, share a group."""
    row_of = {name: row for row, name in enumerate(names)}
    together = [[row_of[name] for name in group] for group in copies]
    of_key: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        of_key.setdefault(key, []).append(row)
    pairs = [(rows[0], row) for rows in (*together, *of_key.values()) for row in rows]
    first, second = np.array(pairs).T
    edges = coo_array((np.ones(len(pairs)), (first, second)), shape=(len(names), len(names)))
    _, group = connected_components(edges, directed=False)
    return group  # type: ignore[no-any-return]


def pool_of(source: Source) -> Split:
    """All images of a source in one split. Raises InputError if they have no order of their own."""
    if source.pool is None:
        raise InputError(
            "folds need images that are files or arrays. "
            f"Received: {source.name!r}: export it as a folder first."
        )
    return source.pool()


def whole_source(source: Source) -> Source:
    """A source whose training, validation and test images are all images."""
    pool = pool_of(source)
    splits: dict[Any, Split] = dict.fromkeys(source.splits, pool)
    return dataclasses.replace(
        source,
        splits=splits,
        pool=lambda: pool,
        split_notes=(f"training on all {pool.size:,} images",),
    )


def is_whole(source: Source) -> bool:
    """Whether a source was made by `whole_source`, so that no image is held out."""
    return source.splits["train"] is source.splits["test"]


def fold_source(source: Source, folds: Folds, number: int) -> Source:
    """A source whose validation and test images are a fold; the other images train."""
    pool, out = pool_of(source), folds.numbers == number
    train, held_out = (_subset(pool, np.flatnonzero(rows)) for rows in (~out, out))
    splits: dict[Any, Split] = {"train": train, "validation": held_out, "test": held_out}
    notes = (f"training on {train.size:,} images, {held_out.size:,} are left out",)
    return dataclasses.replace(source, splits=splits, split_notes=notes)


def _subset(pool: Split, rows: npt.NDArray[np.int64]) -> Split:
    """Some images of a pool, in its order."""
    kept = on_cpu(rows)
    names = None if pool.names is None else tuple(pool.names[row] for row in rows)

    def image(index: tf.Tensor) -> StoredImage:
        return pool.stored(kept[index])[0]

    def content() -> list[bytes]:
        every = list(pool.content())
        return [every[row] for row in rows]

    def scaled(max_value: int) -> Split:
        return _subset(pool.scaled_by(max_value), rows)

    assert pool.labels is not None
    split = indexed_split(pool.labels[rows], image, names, content)
    return dataclasses.replace(split, scaled=scaled)
