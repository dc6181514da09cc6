"""Findings about a source: broken and odd files, copies, class names, from facts of its images."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import re
import statistics
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
from rich.console import Console

from keras_resnet18.data.folder import split_like
from keras_resnet18.data.folds import is_whole
from keras_resnet18.data.progress import watched
from keras_resnet18.data.splits import Source
from keras_resnet18.errors import InputError, listed
from keras_resnet18.images import FORMATS, decode_image, image_format, jpeg_damage, largest_value
from keras_resnet18.machine import cpu_count
from keras_resnet18.preprocess import FULL_RANGE
from keras_resnet18.recipe import SPLITS, SplitName

_BLANK = 8  # levels between the darkest and the brightest value, at most
_EXTREME = 3.0  # times as wide as high, or as high as wide
_SMALL = 16  # pixels of the shorter side
_UNEVEN = 10.0  # times as many images in the largest class as in the smallest
_CHUNK = 16  # files at once, so that threads are worth their while
_EMPTY = {"nan", "null", "n/a", "#n/a", "<na>", "nat"}
_A_COPY = "a copy of "  # begins why an image is left out


@dataclasses.dataclass(frozen=True)
class Facts:
    """Facts of an image.

    Attributes:
        name: Path relative to the source's folder, or split and number.
        error: Why the image cannot be decoded; None if it can.
        kind: Format of the file, a key of `images.FORMATS`; None if there is no file.
        size: (height, width) in pixels, upright.
        digest: SHA-256 of size and pixels; empty if it cannot be decoded.
        spread: Largest difference between two values of a channel, 0 to 255.
        largest: Largest value of a 16-bit gray file, 0 to 65,535; None for any other.
    """

    name: str
    error: str | None = None
    kind: str | None = None
    size: tuple[int, int] = (0, 0)
    digest: str = ""
    spread: int = 0
    largest: int | None = None


def inspect_files(root: Path, names: Sequence[str], console: Console) -> list[Facts]:
    """Decodes image files below `root` on all cores; returns the facts of each in order."""

    def inspect(chunk: Sequence[str]) -> list[Facts]:
        return [_inspect_file(root, name) for name in chunk]

    facts: list[Facts] = []
    chunks = [names[i : i + _CHUNK] for i in range(0, len(names), _CHUNK)]
    with ThreadPoolExecutor(cpu_count()) as pool, watched(console, "checking", len(names)) as step:
        for done in pool.map(inspect, chunks):
            facts += done
            step(len(done))
    return facts


def _inspect_file(root: Path, name: str) -> Facts:
    try:
        data = (root / name).read_bytes()
        pixels = decode_image(data)
    except OSError as error:
        return Facts(name, error=error.strerror or str(error))
    except InputError as error:
        reason = str(error).partition(" (")[2].rpartition("). ")[0]
        return Facts(name, error=reason or str(error))
    if damage := jpeg_damage(data):
        return Facts(name, error=damage)
    found = facts_of(name, pixels, image_format(io.BytesIO(data)))
    return dataclasses.replace(found, largest=largest_value(data))


def facts_of(name: str, pixels: npt.NDArray[np.uint8], kind: str | None = None) -> Facts:
    """Facts of a decoded image, uint8 of shape (height, width, 3)."""
    height, width, _ = pixels.shape
    digest = hashlib.sha256(f"{height} {width} ".encode() + pixels.tobytes()).hexdigest()
    spread = int(np.ptp(pixels, axis=(0, 1)).max())
    return Facts(name, kind=kind, size=(height, width), digest=digest, spread=spread)


@dataclasses.dataclass(frozen=True)
class Place:
    """Split, class and name of an image."""

    split: SplitName
    class_name: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} ({self.split}, {self.class_name})"


def places(source: Source) -> Iterator[Place]:
    """Yields every image that has a name: training, validation, then test images."""
    for split in SPLITS:
        part = source.splits[split]
        if part.labels is not None and part.names is not None:
            for label, name in zip(part.labels, part.names, strict=True):
                yield Place(split, source.classes[label], name)


def same_content(source: Source, digests: Mapping[str, str]) -> list[list[Place]]:
    """Groups images by their digests, given by name; an image without one is left out."""
    groups: dict[str, list[Place]] = defaultdict(list)
    for place in places(source):
        if digests.get(place.name):
            groups[digests[place.name]].append(place)
    return [group for group in groups.values() if len(group) > 1]


def copies_to_leave_out(groups: Iterable[Sequence[Place]]) -> dict[str, str]:
    """Validation and test images that are copies of an earlier image, and the reason in words."""
    return {
        place.name: f"{_A_COPY}{group[0].name}"
        for group in groups
        for place in group[1:]
        if place.split != "train"
    }


def is_left_out_copy(reason: str) -> bool:
    """Whether an image was left out as a copy, and not because it is broken."""
    return reason.startswith(_A_COPY)


@dataclasses.dataclass(frozen=True)
class Finding:
    """Fact about a source that its user should know.

    Attributes:
        kind: Kind, such as `"undecodable"` or `"in two splits"`.
        spoils: Whether it would spoil a training or its figures.
        text: One line about it.
        images: Names of all images concerned.
    """

    kind: str
    spoils: bool
    text: str
    images: tuple[str, ...] = ()


def on_copies(groups: Iterable[Sequence[Place]]) -> Iterator[Finding]:
    """Yields findings on copies: in two classes, in two splits, or twice in one."""
    meaning = {
        "in two classes": "the same image in more than one class",
        "in two splits": "the same image in more than one split, so the figures flatter",
        "twice in a split": "the same image more than once in one split",
    }
    of_kind: dict[str, list[Sequence[Place]]] = {kind: [] for kind in meaning}
    for group in groups:
        if len({place.class_name for place in group}) > 1:
            of_kind["in two classes"].append(group)
        elif len({place.split for place in group}) > 1:
            of_kind["in two splits"].append(group)
        else:
            of_kind["twice in a split"].append(group)
    for kind, found in of_kind.items():
        if found:
            text = f"{meaning[kind]}: {len(found):,}, such as {', '.join(map(str, found[0]))}"
            names = tuple(place.name for group in found for place in group)
            yield Finding(kind, kind != "twice in a split", text, names)


def on_files(facts: Sequence[Facts]) -> Iterator[Finding]:
    """Yields findings on files: undecodable, of another format, blank, small, of extreme shape."""
    for fact in facts:
        if fact.error is not None:
            yield Finding("undecodable", True, f"{fact.name}: {fact.error}", (fact.name,))
    whole = [fact for fact in facts if fact.error is None]
    misnamed = {
        fact.name: f"{PurePosixPath(fact.name).suffix or 'no ending'} holds {fact.kind}"
        for fact in whole
        if fact.kind and not fact.name.lower().endswith(FORMATS[fact.kind])
    }
    extreme = [fact.name for fact in whole if max(fact.size) > _EXTREME * min(fact.size)]
    blank = [fact.name for fact in whole if fact.spread <= _BLANK]
    small = [fact.name for fact in whole if min(fact.size) < _SMALL]
    for kind, meaning, names in (
        ("another format than the ending says", ", ".join(sorted({*misnamed.values()})), misnamed),
        ("blank", f"values differ by {_BLANK} levels at most", blank),
        ("extreme shape", f"more than {_EXTREME:g} times as long as wide", extreme),
        ("small", f"a side of less than {_SMALL} pixels", small),
    ):
        if names:
            text = f"{kind}: {len(names):,} images ({meaning}): {listed(names)}"
            yield Finding(kind, False, text, tuple(names))


def on_classes(source: Source) -> Iterator[Finding]:
    """Yields findings on classes: uneven, untested, named like splits or like one another."""
    for split in ("validation", "test"):
        if absent := source.absent_from(split):
            text = f"classes without a {split} image: {listed(absent, 10)}"
            yield Finding(f"no {split} image", False, text)
    counts = Counter[str]()
    for split_counts in counts_of(source).values():
        counts.update(split_counts)
    if counts and max(counts.values()) >= _UNEVEN * min(counts.values()):
        (most, high), (least, low) = counts.most_common()[0], counts.most_common()[-1]
        text = (
            f"uneven classes: {most!r} has {high:,} images, {least!r} has {low:,}; "
            "settings='optimizer.class_weights=balanced' weighs them alike"
        )
        yield Finding("uneven classes", False, text)
    yield from on_names(source)
    tops = ((place.class_name, place.name) for place in places(source))
    if named := split_like(f"{top}/{name.partition(f'{top}/')[2]}" for top, name in tops):
        likely = ", ".join(f"{name!r} as {split}/" for name, split in named.items())
        text = f"classes named like splits: rename them if they are splits, {likely}"
        yield Finding("named like splits", True, text)


def on_names(source: Source) -> Iterator[Finding]:
    """Yields findings on class names that look alike, or like an empty cell of a table."""
    alike = defaultdict(list)
    for name in source.classes:
        alike[_as_read(name)].append(name)
    if groups := [", ".join(map(repr, names)) for names in alike.values() if len(names) > 1]:
        more = f" and {len(groups) - 5:,} more" if len(groups) > 5 else ""
        text = f"class names that look alike: {'; '.join(groups[:5])}{more}"
        yield Finding("names alike", True, text)
    if empty := [name for name in source.classes if _as_read(name) in _EMPTY]:
        text = f"classes named as tables name empty cells: {listed(empty, 10)}"
        yield Finding("named like empty cells", False, text)


def _as_read(name: str) -> str:
    """Normalizes a name: ignores invisible characters, spaces, case and decimals."""
    text = unicodedata.normalize("NFKC", name)
    text = "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Cc"))
    text = " ".join(text.split()).casefold()
    return str(Fraction(text)) if re.fullmatch(r"[+-]?[0-9]+(\.[0-9]*)?", text) else text


def on_range(facts: Iterable[Facts], max_value: int = FULL_RANGE) -> Iterator[Finding]:
    """Yields a finding if most 16-bit files use at most half of the range, or exceed it."""
    used = {fact.name: fact.largest for fact in facts if fact.largest is not None}
    largest = highest = max(used.values(), default=max_value)
    if used and highest <= max_value:  # a dead pixel in one of them says nothing of the others
        largest = int(np.percentile([*used.values()], 90, method="higher"))
    fitting = max(2 ** largest.bit_length() - 1, 1)
    if largest > max_value // 2 and largest <= max_value:
        return
    what = f"{round(255 * largest / max_value) + 1} levels of 256"
    if largest > max_value:
        what = f"white from {max_value:,} on"
    text = (
        f"16-bit files: {len(used):,}, {'nine in ten ' if largest < highest else ''}with values up "
        f"to {largest:,}, become {what} by "
        f"max_value={max_value}; settings='max_value={fitting}' scales them by {fitting:,}"
    )
    yield Finding("16-bit range", False, text, tuple(used))


def on_sizes(facts: Sequence[Facts]) -> Iterator[Finding]:
    """Yields a finding on the sizes of all images."""
    sizes = [fact.size for fact in facts if fact.error is None]
    if len(set(sizes)) == 1:
        height, width = sizes[0]
        yield Finding("sizes", False, f"all images have {width} × {height} pixels")
    elif sizes:
        shorter = sorted(min(size) for size in sizes)
        middle = statistics.median_low(shorter)
        text = f"shorter sides of {shorter[0]:,} to {shorter[-1]:,} pixels, median {middle:,}"
        yield Finding("sizes", False, text)


def counts_of(source: Source) -> dict[str, dict[str, int]]:
    """Number of images of each class in each split; empty where labels are not known."""
    count = len(source.classes)
    return {
        split: dict(zip(source.classes, np.bincount(labels, minlength=count).tolist(), strict=True))
        for split in SPLITS
        if (labels := source.splits[split].labels) is not None
    }


def counts_in_words(source: Source, most: int = 20) -> str:
    """Formats `2 classes (training/validation/test images): ant 17/3/4, bee 16/3/4`."""
    counts = counts_of(source)
    if is_whole(source):
        counts = {"train": counts["train"]} if counts else {}
    shown = ", ".join(
        " ".join([name, "/".join(str(of_split[name]) for of_split in counts.values())])
        for name in source.classes[:most]
    )
    more = len(source.classes) - most
    what = " (training/validation/test images)" if len(counts) > 1 else " (images)" * len(counts)
    rest = f" and {more:,} more" if more > 0 else ""
    return f"{len(source.classes)} classes{what}: {shown}{rest}"
