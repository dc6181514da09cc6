"""Findings about a source: what would spoil a training, and what is worth a look."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_resnet18.data.files import Advance, each_file, silent, size_and_end, split_like
from keras_resnet18.data.splits import Source, listed
from keras_resnet18.errors import InputError
from keras_resnet18.images import FORMATS, decode_image, image_format
from keras_resnet18.machine import cpu_count
from keras_resnet18.recipe import SPLITS, SplitName

_BLANK = 8  # levels between the darkest and the brightest value, at most
_EXTREME = 3.0  # times as wide as high, or as high as wide
_SMALL = 16  # pixels of the shorter side
_UNEVEN = 10.0  # times as many images in the largest class as in the smallest


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something about a source that a person should know.

    Attributes:
        kind: What it is, such as `"undecodable"` or `"in two splits"`.
        spoils: Whether it would spoil a training or its figures.
        text: A line about it.
        images: The names of all images that it is about.
    """

    kind: str
    spoils: bool
    text: str
    images: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values of JSON."""
        return {**dataclasses.asdict(self), "images": list(self.images)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Finding:
        """What `to_dict` gave."""
        return cls(**{**values, "images": tuple(values["images"])})


def on_copies(groups: Iterable[Sequence[Place]]) -> Iterator[Finding]:
    """Images of one content: in two classes, in two splits, or twice in one."""
    of_kind: dict[str, list[Sequence[Place]]] = defaultdict(list)
    for group in groups:
        if len({place.class_name for place in group}) > 1:
            of_kind["in two classes"].append(group)
        elif len({place.split for place in group}) > 1:
            of_kind["in two splits"].append(group)
        else:
            of_kind["twice in a split"].append(group)
    meaning = {
        "in two classes": "the same image in more than one class",
        "in two splits": "the same image in more than one split, so the figures flatter",
        "twice in a split": "the same image more than once in one split",
    }
    for kind, text in meaning.items():
        if found := of_kind[kind]:
            first = ", ".join(map(str, found[0]))
            names = tuple(place.name for group in found for place in group)
            spoils = kind != "twice in a split"
            yield Finding(kind, spoils, f"{text}: {len(found):,}, such as {first}", names)


def on_files(facts: Sequence[Facts]) -> Iterator[Finding]:
    """What single images are: undecodable, named as another format, blank, of an extreme shape."""
    for fact in facts:
        if fact.error is not None:
            yield Finding("undecodable", True, f"{fact.name}: {fact.error}", (fact.name,))
    whole = [fact for fact in facts if fact.error is None]
    lying = [
        fact
        for fact in facts
        if fact.kind and PurePosixPath(fact.name).suffix.lower() not in FORMATS[fact.kind]
    ]
    if lying:
        held = Counter(
            f"{PurePosixPath(fact.name).suffix or 'no ending'} holds {fact.kind}" for fact in lying
        )
        yield _about("another format than the ending says", lying, listed_counts(held))
    blank = [fact for fact in whole if fact.spread <= _BLANK]
    if blank:
        yield _about("blank", blank, f"values differ by {_BLANK} levels at most")
    extreme = [fact for fact in whole if max(fact.size) > _EXTREME * min(fact.size)]
    if extreme:
        yield _about("extreme shape", extreme, f"more than {_EXTREME:g} times as long as wide")
    small = [fact for fact in whole if min(fact.size) < _SMALL]
    if small:
        yield _about("small", small, f"a side of less than {_SMALL} pixels")


def _about(kind: str, facts: Sequence[Facts], what: str) -> Finding:
    names = tuple(fact.name for fact in facts)
    return Finding(kind, False, f"{kind}: {len(names):,} images ({what}): {listed(names)}", names)


def listed_counts(counts: Mapping[str, int]) -> str:
    """`3 × .png holds JPEG, 1 × …`."""
    return ", ".join(f"{count:,} × {what}" for what, count in counts.items())


def on_classes(source: Source) -> Iterator[Finding]:
    """What the classes are: unevenly filled, untested, named like splits or like one another."""
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
            "--set optimizer.class_weights=balanced weighs them alike"
        )
        yield Finding("uneven classes", False, text)
    alike = defaultdict(list)
    for name in source.classes:
        alike[name.casefold()].append(name)
    for names in alike.values():
        if len(names) > 1:
            text = f"class names that differ only in case: {listed(names, 10)}"
            yield Finding("names alike", True, text)
    if named := split_like(source.classes):
        likely = ", ".join(f"{name!r} as {split}/" for name, split in named.items())
        text = f"classes named like splits: rename them if they are splits, {likely}"
        yield Finding("named like splits", True, text)


def on_sizes(facts: Sequence[Facts]) -> Iterator[Finding]:
    """The sizes of all images, in a line."""
    sizes = [fact.size for fact in facts if fact.error is None]
    if not sizes:
        return
    if len(set(sizes)) == 1:
        height, width = sizes[0]
        yield Finding("sizes", False, f"all images have {width} × {height} pixels")
        return
    shorter = sorted(min(size) for size in sizes)
    text = (
        f"shorter sides of {shorter[0]:,} to {shorter[-1]:,} pixels, the middle one "
        f"{statistics.median_low(shorter):,}"
    )
    yield Finding("sizes", False, text)


def counts_of(source: Source) -> dict[str, dict[str, int]]:
    """How many images each class has in each split; empty where labels are not known."""
    return {
        split: dict(
            zip(
                source.classes,
                np.bincount(labels, minlength=len(source.classes)).tolist(),
                strict=True,
            )
        )
        for split in SPLITS
        if (labels := source.splits[split].labels) is not None
    }


def counts_in_words(source: Source, most: int = 20) -> str:
    """`2 classes (training/validation/test images): ant 17/3/4, bee 16/3/4`; long lists are cut."""
    counts = counts_of(source)
    of_classes = [
        " ".join([name, "/".join(str(of_split[name]) for of_split in counts.values())])
        for name in source.classes
    ]
    shown = ", ".join(of_classes[:most])
    more = len(of_classes) - most
    what = " (training/validation/test images)" if counts else ""
    rest = f" and {more:,} more" if more > 0 else ""
    return f"{len(of_classes)} classes{what}: {shown}{rest}"


# Inspection of image files: each is decoded whole, on all cores, and what it holds is noted.

_A_COPY = "a copy of "  # begins why an image is left out
_CHUNK = 16  # files at once, so that threads are worth their while


@dataclasses.dataclass(frozen=True)
class Facts:
    """What an image holds.

    Attributes:
        name: Its path relative to the source's folder, or its number.
        error: Why it cannot be decoded; None if it can.
        kind: Such as `"JPEG"`, by Pillow's name; None if it cannot be decoded, or is not a file.
        size: (height, width) in pixels, upright.
        digest: SHA-256 of size and pixels; empty if it cannot be decoded.
        spread: Largest difference between two values of a channel, 0 to 255.
    """

    name: str
    error: str | None = None
    kind: str | None = None
    size: tuple[int, int] = (0, 0)
    digest: str = ""
    spread: int = 0


def inspect_files(
    root: Path, names: Sequence[str], advance: Callable[[int], object] = lambda count: None
) -> list[Facts]:
    """Decodes image files on all cores.

    Args:
        root: The folder that names are relative to.
        names: The files.
        advance: Receives the number of files that were done since the last call.

    Returns:
        Facts of each, in the same order.
    """

    def inspect(chunk: Sequence[str]) -> list[Facts]:
        return [_inspect_file(root, name) for name in chunk]

    facts: list[Facts] = []
    chunks = [names[i : i + _CHUNK] for i in range(0, len(names), _CHUNK)]
    with ThreadPoolExecutor(cpu_count()) as pool:
        for done in pool.map(inspect, chunks):
            facts += done
            advance(len(done))
    return facts


def _inspect_file(root: Path, name: str) -> Facts:
    try:
        data = (root / name).read_bytes()
    except OSError as error:
        return Facts(name, error=error.strerror or str(error))
    try:
        pixels = decode_image(data)
    except InputError as error:
        reason = str(error).partition(" (")[2].rpartition("). ")[0]
        return Facts(name, error=reason or str(error))
    return dataclasses.replace(facts_of(name, pixels), kind=image_format(io.BytesIO(data)))


def facts_of(name: str, pixels: npt.NDArray[np.uint8]) -> Facts:
    """Facts of an image in memory, uint8 of shape (height, width, 3)."""
    height, width, _ = pixels.shape
    digest = hashlib.sha256(f"{height} {width} ".encode() + pixels.tobytes()).hexdigest()
    spread = int(np.ptp(pixels, axis=(0, 1)).max())
    return Facts(name, size=(height, width), digest=digest, spread=spread)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an image of a source lies: its split, its class and its name."""

    split: SplitName
    class_name: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} ({self.split}, {self.class_name})"


def places(source: Source) -> Iterator[Place]:
    """Every image of a source of files, training first, then validation, then test."""
    for split in SPLITS:
        part = source.splits[split]
        if part.labels is not None and part.names is not None:
            for label, name in zip(part.labels, part.names, strict=True):
                yield Place(split, source.classes[label], name)


def same_content(source: Source, digests: Mapping[str, str]) -> list[list[Place]]:
    """Groups of images of one content, each in the order of `places`.

    Args:
        source: The images.
        digests: What tells their contents apart, by name; an image without one is left out.
    """
    groups: dict[str, list[Place]] = defaultdict(list)
    for place in places(source):
        if digests.get(place.name):
            groups[digests[place.name]].append(place)
    return [group for group in groups.values() if len(group) > 1]


def digests_of_alike(root: Path, names: Iterable[str], advance: Advance = silent) -> dict[str, str]:
    """SHA-256 of the files that share size and last bytes with another one.

    The others have no copy, and are not read whole.
    """
    names = list(names)
    looks = each_file(size_and_end, [root / name for name in names], advance)
    of_look: dict[tuple[int, bytes], list[str]] = defaultdict(list)
    for name, look in zip(names, looks, strict=True):
        of_look[look].append(name)
    alike = [name for group in of_look.values() if len(group) > 1 for name in group]

    def digest(name: str) -> str:
        with (root / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor(cpu_count()) as pool:
        return dict(zip(alike, pool.map(digest, alike), strict=True))


def is_left_out_copy(reason: str) -> bool:
    """Whether an image was left out as a copy, and not because it is broken."""
    return reason.startswith(_A_COPY)


def copies_to_leave_out(groups: Iterable[Sequence[Place]]) -> dict[str, str]:
    """The validation and test images that are copies of an image before them, and of which."""
    return {
        place.name: f"{_A_COPY}{group[0].name}"
        for group in groups
        for place in group[1:]
        if place.split != "train"
    }
