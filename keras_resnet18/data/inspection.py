"""Inspection of image files: each is decoded whole, on all cores, and what it holds is noted."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from keras_resnet18.data.each_file import Advance, each_file, silent, size_and_end
from keras_resnet18.data.splits import Source
from keras_resnet18.errors import InputError
from keras_resnet18.images import decode_image, image_kind
from keras_resnet18.machine import cpu_count
from keras_resnet18.names import SPLITS, SplitName

_A_COPY = "a copy of "  # begins why an image is left out
_CHUNK = 16  # files at once, so that threads are worth their while


@dataclasses.dataclass(frozen=True)
class Facts:
    """What an image holds.

    Attributes:
        name: Its path relative to the source's folder, or its number.
        error: Why it cannot be decoded; None if it can.
        kind: Such as `"JPEG"`, by Pillow's name; None if it is none, or not a file.
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
        return Facts(name, error=reason or str(error), kind=image_kind(data))
    return dataclasses.replace(facts_of(name, pixels), kind=image_kind(data))


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
