"""`check`: finds what would spoil a training before hours are spent on it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
from rich.console import Console

from keras_resnet18.checking.findings import (
    Facts,
    Finding,
    counts_of,
    facts_of,
    inspect_files,
    on_classes,
    on_copies,
    on_files,
    on_range,
    on_sizes,
    places,
    same_content,
)
from keras_resnet18.checking.images import opened
from keras_resnet18.checking.labels import (
    LabelCheck,
    check_free,
    check_labels,
    on_labels,
    open_extractor,
    write_labels,
)
from keras_resnet18.data.progress import watched
from keras_resnet18.data.sources import labeled_files
from keras_resnet18.data.splits import Source
from keras_resnet18.errors import InputError
from keras_resnet18.run import Run


@dataclasses.dataclass(frozen=True)
class Check:
    """Result of `check`.

    Attributes:
        source: Name of the source.
        n: Number of images that can be decoded.
        counts: Number of images of each class in each split, `counts["train"]["ant"]`; empty if
            the source cannot be opened.
        notes: Origin of the splits, and ignored files.
        findings: Facts worth knowing; those that would spoil a training come first.
        labels: Check of the labels; None without `features`.
    """

    source: str
    n: int
    counts: dict[str, dict[str, int]]
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]
    labels: LabelCheck | None = None

    @property
    def spoiled(self) -> bool:
        """Whether a finding would spoil a training or its figures."""
        return any(finding.spoils for finding in self.findings)


def check(
    source: Source | str | os.PathLike[str],
    *,
    split_seed: int = 0,
    features: Run | str | os.PathLike[str] | None = None,
    out: Path | None = None,
    console: Console | None = None,
) -> Check:
    """Decodes every image of a source completely, and looks for what would spoil a training.

    Copies are found by their pixels, whatever their names and formats. With `features`, it also
    finds labels that other images contradict, and near copies: images that look the same as one of
    another class or split, but were resized, encoded again or mirrored.

    Args:
        source: Images, as `train` takes them.
        split_seed: Seed of the hash split.
        features: Network that computes features of the images: a run, also one trained on the same
            labels; the path of a run or of a checkpoint of ResNet-18; or a name of published
            weights, such as `"imagenet"`.
        out: With `features`, a folder for `labels.html`, a page with the images to look at, and
            `labels.csv`, a manifest of all images to correct and train with.
        console: Shows progress; None for standard output, `rich.console.Console(quiet=True)` for
            silence.

    Raises:
        InputError: If there is no such source or network, a file cannot be written, or there are
            fewer than five images, or fewer than two of a class, to compare labels.
    """
    console, extractor = console or Console(), None
    if out is not None:
        if features is None:
            raise InputError(f"out takes what features=MODEL finds: give both. Received: out={out}")
        check_free(out)
    if features is not None:
        extractor = open_extractor(features)
    files = None if isinstance(source, Source) else labeled_files(source)
    if files is None:
        images, facts = _decoded(opened(source, split_seed, {}, console), console)
    else:
        root, listed = files
        facts = inspect_files(root, [image.path for image in listed], console)
        broken = {fact.name: fact.error for fact in facts if fact.error is not None}
        try:
            images = opened(source, split_seed, broken, console)
        except InputError as error:
            found = (*on_files(facts), Finding("unusable", True, str(error)))
            return Check(str(source), len(facts) - len(broken), {}, (), found)
        used = {place.name for place in places(images)} | broken.keys()
        facts = [fact for fact in facts if fact.name in used]
    digests = {fact.name: fact.digest for fact in facts}
    copies = on_copies(same_content(images, digests))
    findings = [*on_files(facts), *copies, *on_classes(images), *on_range(facts)]
    findings += on_sizes(facts)
    findings += [Finding("unused columns", False, warning) for warning in images.warnings]
    labels = None
    if extractor is not None:
        labels = check_labels(images, extractor, digests, console)
        findings += on_labels(labels)
        if out is not None:
            write_labels(labels, images, out)
    findings.sort(key=lambda finding: not finding.spoils)
    n = sum(fact.error is None for fact in facts)
    notes = (*images.split_notes, *images.notes)
    return Check(images.name, n, counts_of(images), notes, tuple(findings), labels)


def _decoded(source: Source, console: Console) -> tuple[Source, list[Facts]]:
    """Reads images that are not files; returns the source with names and labels, and the facts."""
    facts: list[Facts] = []
    splits = dict(source.splits)
    with watched(console, "checking", sum(split.size for split in splits.values())) as advance:
        for kind, split in source.splits.items():
            names = split.names or [f"{kind} {number}" for number in range(split.size)]
            labels = []
            examples = split.elements(None, 0).map(split.fetch).as_numpy_iterator()
            for name, (image, label) in zip(names, examples, strict=True):
                facts.append(facts_of(name, image))
                labels.append(label)
                advance(1)
            splits[kind] = dataclasses.replace(split, names=tuple(names), labels=np.array(labels))
    return dataclasses.replace(source, splits=splits), facts
