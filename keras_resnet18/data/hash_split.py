"""Hash split: images dealt out to splits by a hash of their names, the same on every machine."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from keras_resnet18.names import SplitName

_CARVED: tuple[SplitName, ...] = ("test", "validation")  # a tenth of the hash each, in this order

_Ranked = list[tuple[int, int, str]]  # tenth of the hash, hash, key


def carve(
    keys: Sequence[str],
    classes: Sequence[Hashable],
    wanted: Collection[SplitName],
    split_seed: int,
) -> dict[SplitName, npt.NDArray[np.int64]]:
    """Deals images out to splits by a hash of their keys.

    In the order of their hashes, a class's images are first for test, then for validation, then for
    training: those with a hash in the first tenth of the range, those in the next tenth, and the
    rest. A class with more images than there are splits to carve lends, so that every split has one
    of its images: the next in order to test and validation, the last to training.

    Adding images keeps the order of the others. So an image that was lent to test or validation may
    come back to training, and a training image never goes to test; only an image lent to training
    may, of a class whose hashes all lie in the first tenth (1 of 1,000 classes of three images).

    A smaller class lends none and keeps its last image for training. If all classes are so small,
    their other images are dealt out together, as those of one class.

    Images of one key stay together and count as one, of the class of the first.

    Args:
        keys: A name for each image that never changes.
        classes: The class of each image.
        wanted: The splits to carve; `"train"` keeps the rest.
        split_seed: Another seed deals differently.

    Returns:
        For `"train"` and each of `wanted` the indices of its images, rising.
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
    """The tenth of a key's hash, counted from that of the first of `kinds`, and the hash."""
    text = f"{split_seed}/{key}".encode("utf-8", "surrogateescape")
    value = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())
    first = _CARVED.index(kinds[0]) if kinds else 0
    return (value - first) % 10, value


def _dealt(
    ranked: _Ranked, kinds: Sequence[SplitName], *, lend: bool, kept: int
) -> Iterator[tuple[str, SplitName]]:
    """Keys with the splits that they go to, of images in order; the others train.

    Args:
        ranked: The images, in the order of their hashes.
        kinds: The splits to carve.
        lend: Whether each split gets an image, whatever its hash.
        kept: How many are left for training, whatever their hashes.
    """
    end = 0
    for number, kind in enumerate(kinds):
        start, end = end, sum(tenth <= number for tenth, *_ in ranked)
        if lend:
            last = len(ranked) - kept - (len(kinds) - 1 - number)
            end = max(start, min(max(end, start + 1), last))
        for *_, key in ranked[start:end]:
            yield key, kind
