"""Images of a training: opened, checked, and partly left out."""

from __future__ import annotations

import dataclasses
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from keras_resnet18.checking.findings import (
    Facts,
    Finding,
    Place,
    copies_to_leave_out,
    counts_in_words,
    inspect_files,
    on_copies,
    on_names,
    on_range,
    places,
    same_content,
)
from keras_resnet18.data.files import digests_of_alike
from keras_resnet18.data.folds import Folds, deal, whole_source
from keras_resnet18.data.progress import watched
from keras_resnet18.data.sources import labeled_files, open_source
from keras_resnet18.data.splits import Source
from keras_resnet18.errors import InputError, one_of
from keras_resnet18.images import FORMATS_IN_WORDS
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.run import Run

AnySource = Source | str | os.PathLike[str]

ON_BAD_IMAGE = ("raise", "skip")

_QUICK = 10**9  # bytes of image files, which take less time to decode than an epoch

_MUCH_UNSEEN = 0.2  # a photo of 4 to 3 in a square loses 0.25


@dataclasses.dataclass(frozen=True)
class Images:
    """A source, and how it was opened.

    Attributes:
        source: The images that are used.
        split_seed: Seed of the hash split.
        left_out: Files that are not used, and why.
        findings: Findings on class names and copies, for the metrics.
        decoded: Facts of the images that were decoded.
        compared_by: What copies share, "pixels" or "bytes"; None if nobody looked for copies.
        folds: Fold of each image; None for a training with a test split.
    """

    source: Source
    split_seed: int = 0
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    decoded: tuple[Facts, ...] = ()
    compared_by: str | None = None
    folds: Folds | None = None

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of the images whose size is known."""
        if self.source.image_size is not None:
            return [self.source.image_size]
        return [fact.size for fact in self.decoded]

    @property
    def facts(self) -> dict[str, Any]:
        """Facts for `environment.json`, by which the same images are opened again."""
        return {
            **({} if self.folds is None else {"folds": self.folds.to_dict()}),
            "split_seed": self.split_seed,
            "left_out": dict(self.left_out),
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "compared_by": self.compared_by,
        }


def opened(
    source: AnySource,
    split_seed: int,
    left_out: Mapping[str, str],
    console: Console | None = None,
) -> Source:
    """Opens images by name or path; a `Source` is taken as it is."""
    if isinstance(source, Source):
        return source
    with watched(console or Console(quiet=True), "opening") as advance:
        return open_source(source, split_seed=split_seed, leave_out=left_out, advance=advance)


def look(
    source: AnySource,
    console: Console,
    *,
    split_seed: int,
    on_bad_image: str,
    dedupe: bool,
    folds: int | None = None,
) -> Images:
    """Opens images for a new training, and looks for copies and broken images.

    Copies are images of the same pixels, and all images are decoded, with `dedupe`, with
    `on_bad_image="skip"` and in sets of up to 1 GB. Of larger sets the validation and test images
    are decoded, and copies are files of the same bytes. With `folds` the images are split into
    this number of folds, copies into the same one.

    Raises:
        InputError: If they cannot be used, or one is broken and `on_bad_image` is `"raise"`.
    """
    one_of("on_bad_image", on_bad_image, ON_BAD_IMAGE)
    left_out: dict[str, str] = {}
    facts: list[Facts] = []
    if on_bad_image == "skip" and not isinstance(source, Source):
        if (files := labeled_files(source)) is not None:
            facts = inspect_files(files[0], [image.path for image in files[1]], console)
        left_out = {fact.name: fact.error for fact in facts if fact.error is not None}
    found = opened(source, split_seed, left_out, console)
    root = found.folder
    if root is None:
        if dedupe:
            raise InputError(
                f"dedupe compares image files. Received: {found.name!r}, whose images are not "
                "files. `check` finds their copies."
            )
        images = Images(found, split_seed, left_out, tuple(on_names(found)))
        return images if folds is None else _with_folds(images, folds, [])
    names = [place.name for place in places(found)]
    quick = sum((root / name).stat().st_size for name in names) <= _QUICK
    compared_by = "pixels" if facts or dedupe or quick else "bytes"
    if not facts:
        held_out = [place.name for place in places(found) if place.split != "train"]
        facts = inspect_files(root, names if compared_by == "pixels" else held_out, console)
    if on_bad_image == "raise":
        _refuse_broken(root, facts)
    groups = _copies(found, root, facts, compared_by, console)
    if dedupe and (copies := copies_to_leave_out(groups)):
        left_out |= copies
        try:
            found = opened(source, split_seed, left_out, console)
        except InputError as error:
            raise InputError(f"{error} dedupe=True left out {len(copies):,} images.") from None
        groups = [[place for place in group if place.name not in copies] for group in groups]
    copies_left = on_copies(group for group in groups if len(group) > 1)
    findings = (*on_names(found), *copies_left)
    decoded = tuple(fact for fact in facts if fact.error is None)
    images = Images(found, split_seed, left_out, findings, decoded, compared_by)
    return images if folds is None else _with_folds(images, folds, groups)


def _with_folds(images: Images, count: int, copies: Sequence[Sequence[Place]]) -> Images:
    """Splits the images of all splits into folds."""
    source, names = images.source, ([place.name for place in group] for group in copies)
    return dataclasses.replace(
        images,
        source=whole_source(source),
        findings=tuple(one for one in images.findings if one.kind != "in two splits"),
        folds=deal(source, count, images.split_seed, names),
    )


def look_again(source: Source, compared_by: str | None, console: Console) -> tuple[Finding, ...]:
    """Findings on a training's class names and copies after its images have changed."""
    if source.folder is None or compared_by is None:
        return tuple(on_names(source))
    names = [place.name for place in places(source) if compared_by == "pixels"]
    facts = inspect_files(source.folder, names, console)
    copies = on_copies(_copies(source, source.folder, facts, compared_by, console))
    return (*on_names(source), *copies)


def _copies(
    source: Source, root: Path, facts: Sequence[Facts], compared_by: str, console: Console
) -> list[list[Place]]:
    """Groups images of the same pixels, by their facts, or files of the same bytes."""
    digests = {fact.name: fact.digest for fact in facts}
    if compared_by == "bytes":
        with watched(console, "comparing") as advance:
            files = {root / place.name: place.name for place in places(source)}
            found = digests_of_alike(files, advance)
            digests = {files[path]: digest for path, digest in found.items()}
    return same_content(source, digests)


def _refuse_broken(root: Path, facts: Sequence[Facts]) -> None:
    """Raises InputError for broken images now; otherwise some are first read hours later."""
    if broken := [fact for fact in facts if fact.error is not None]:
        others = f", and {len(broken) - 1:,} more" if len(broken) > 1 else ""
        raise InputError(
            f"images must be whole {FORMATS_IN_WORDS} files: replace or delete them, or train "
            "with on_bad_image='skip'; `check` lists them all. "
            f"Received: {str(root / broken[0].name)!r} ({broken[0].error}){others}"
        )


def in_words(images: Images, preprocess: Preprocess) -> Iterator[str]:
    """Yields lines for the start of a training: classes, files left out, copies, unseen parts."""
    yield counts_in_words(images.source)
    yield from images.source.warnings
    for name, reason in images.left_out.items():
        yield f"left out: {name}: {reason}"
    for finding in images.findings:
        yield finding.text
    if images.compared_by == "bytes":
        yield "copies were looked for by their bytes; dedupe=True and `check` compare pixels"
    for finding in on_range(images.decoded, preprocess.max_value):
        yield finding.text
    unseen, ratio = preprocess.fraction_unseen(images.sizes), preprocess.crop_ratio
    # what crop_ratio takes from an image of the input's proportions is the field's custom
    if 1 - unseen < (1 - _MUCH_UNSEEN) * ratio**2:
        height, width = (round(statistics.mean(s)) for s in zip(*images.sizes, strict=True))
        size, whole = "×".join(map(str, preprocess.size)), " settings='crop_ratio=1'" * (ratio < 1)
        yield (
            f"evaluation and prediction never see {unseen:.0%} of an image, on average: "
            f"{height}×{width} pixels are cropped to {size}"
        )
        yield f"to see all of it: settings='fit=pad'{whole}"


def open_again(run: Run) -> Source:
    """Opens the images of a run again, without those that its training left out."""
    assert run.source is not None  # they did not come from arrays
    return open_source(run.source, **run.source_options)
