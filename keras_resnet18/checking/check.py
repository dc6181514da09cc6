"""`check`: what in a source of images would spoil a training, found before hours are spent."""

from __future__ import annotations

import dataclasses
import os

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
from keras_resnet18.data.progress import watched
from keras_resnet18.data.sources import labelled_files
from keras_resnet18.data.splits import Source
from keras_resnet18.errors import InputError


@dataclasses.dataclass(frozen=True)
class Check:
    """What is known of a source after all of its images were decoded.

    Attributes:
        source: Its name.
        n: Number of images that can be decoded.
        counts: How many each class has in each split, `counts["train"]["ant"]`; empty if the
            source cannot be opened.
        notes: Where the splits come from, and what is ignored.
        findings: What is worth knowing, what spoils a training first.
    """

    source: str
    n: int
    counts: dict[str, dict[str, int]]
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def spoiled(self) -> bool:
        """Whether a finding would spoil a training or its figures."""
        return any(finding.spoils for finding in self.findings)


def check(
    source: Source | str | os.PathLike[str],
    *,
    split_seed: int = 0,
    console: Console | None = None,
) -> Check:
    """Decodes every image of a source to the last byte, and looks for what spoils a training.

    Copies are found by their pixels, under any name and in any format.

    Args:
        source: What `train` takes.
        split_seed: Seed of the hash split.
        console: Where progress is shown; None for standard output,
            `rich.console.Console(quiet=True)` for silence.

    Raises:
        InputError: If there is no such source.
    """
    console = console or Console()
    files = None if isinstance(source, Source) else labelled_files(source)
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
    copies = on_copies(same_content(images, {fact.name: fact.digest for fact in facts}))
    findings = [*on_files(facts), *copies, *on_classes(images), *on_range(facts)]
    findings += on_sizes(facts)
    findings += [Finding("unused columns", False, warning) for warning in images.warnings]
    findings.sort(key=lambda finding: not finding.spoils)
    n = sum(fact.error is None for fact in facts)
    return Check(
        images.name, n, counts_of(images), (*images.split_notes, *images.notes), tuple(findings)
    )


def _decoded(source: Source, console: Console) -> tuple[Source, list[Facts]]:
    """Reads images that are not files.

    Returns:
        The source, where every image has its split and number for a name and its label is known,
        and the facts of all images.
    """
    facts: list[Facts] = []
    splits = dict(source.splits)
    with watched(console, "checking", sum(split.size for split in splits.values())) as advance:
        for kind, split in source.splits.items():
            names, labels = [f"{kind} {number}" for number in range(split.size)], []
            examples = split.elements(None, 0).map(split.fetch).as_numpy_iterator()
            for name, (image, label) in zip(names, examples, strict=True):
                facts.append(facts_of(name, image))
                labels.append(label)
                advance(1)
            splits[kind] = dataclasses.replace(split, names=tuple(names), labels=np.array(labels))
    return dataclasses.replace(source, splits=splits), facts
