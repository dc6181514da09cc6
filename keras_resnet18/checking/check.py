"""`check`: what in a source of images would spoil a training, found before hours are spent."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    on_sizes,
    places,
    same_content,
)
from keras_resnet18.checking.images import opened
from keras_resnet18.data.progress import watched
from keras_resnet18.data.sources import files_of
from keras_resnet18.data.splits import Source
from keras_resnet18.errors import InputError
from keras_resnet18.files import check_destination, staged, to_json
from keras_resnet18.recipe import SPLITS


@dataclasses.dataclass(frozen=True)
class Check:
    """What is known of a source after all of its images were decoded.

    Attributes:
        source: Its name.
        n: Number of images that can be decoded.
        counts: How many each class has in each split, `counts["train"]["ant"]`; empty where the
            source cannot be opened or its labels are not known.
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

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values of JSON."""
        findings = [finding.to_dict() for finding in self.findings]
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**fields, "notes": list(self.notes), "findings": findings}


def check(
    source: Source | str | os.PathLike[str],
    *,
    split_seed: int = 0,
    json_file: Path | None = None,
    console: Console | None = None,
) -> Check:
    """Decodes every image of a source to the last byte, and looks for what spoils a training.

    Copies are found by their pixels, under any name and in any format.

    Args:
        source: What `train` takes.
        split_seed: Seed of the hash split.
        json_file: A file for all of it, every image by name.
        console: Where progress is shown; nowhere by default.

    Raises:
        InputError: If there is no such source, or the file cannot be written.
    """
    if json_file is not None:
        check_destination(json_file, Path.is_file, "a file")
    found = _check(source, split_seed, console or Console(quiet=True))
    if json_file is not None:
        with staged(json_file) as new:
            new.write_text(to_json(found.to_dict()), encoding="utf-8")
    return found


def _check(source: Source | str | os.PathLike[str], split_seed: int, console: Console) -> Check:
    files = None if isinstance(source, Source) else files_of(source)
    facts: list[Facts] = []
    broken: dict[str, str] = {}
    if files is not None:
        root, names = files
        with watched(console, "checking", len(names)) as advance:
            facts = inspect_files(root, names, advance)
        broken = {fact.name: fact.error for fact in facts if fact.error is not None}
    try:
        images = opened(source, split_seed, broken, console)
    except InputError as error:
        if files is None:
            raise
        unusable = Finding("unusable", True, str(error))
        found = [*on_files(facts), unusable]
        whole = len(facts) - len(broken)
        return Check(os.fspath(source), whole, {}, (), tuple(found))  # type: ignore[arg-type]
    if files is None:
        facts = list(_facts_of_arrays(images, console))
        copies = on_copies_of_arrays(images, facts)
    else:
        used = {place.name for place in places(images)} | broken.keys()
        facts = [fact for fact in facts if fact.name in used]
        copies = list(on_copies(same_content(images, {f.name: f.digest for f in facts})))
    found = [*on_files(facts), *copies, *on_classes(images), *on_sizes(facts)]
    found.sort(key=lambda finding: not finding.spoils)
    n = sum(fact.error is None for fact in facts)
    return Check(images.name, n, counts_of(images), images.notes, tuple(found))


def _facts_of_arrays(source: Source, console: Console) -> Iterator[Facts]:
    total = sum(split.size for split in source.splits.values())
    with watched(console, "checking", total) as advance:
        for kind in SPLITS:
            split = source.splits[kind]
            for number, (image, _) in enumerate(split.elements(None, 0).map(split.fetch)):
                yield facts_of(f"{kind} {number}", image.numpy())
                advance(1)


def on_copies_of_arrays(source: Source, facts: list[Facts]) -> list[Finding]:
    """Copies among images that have numbers in the place of names."""
    named = {
        kind: dataclasses.replace(
            split, names=tuple(f"{kind} {number}" for number in range(split.size))
        )
        for kind, split in source.splits.items()
    }
    with_names = dataclasses.replace(source, splits=named)
    return list(on_copies(same_content(with_names, {f.name: f.digest for f in facts})))
