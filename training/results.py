"""Tables of the pages, from the rows that the programs of training/ wrote.

    python training/results.py [--check]

training/results/ holds a file of rows for each measurement: JSON lines as a program writes them,
with command, date, machine and versions. On the pages, what stands between `<!-- results: NAME -->`
and `<!-- end -->` is made from NAME's rows by the function that prints the program's own table.
A new measurement:

    cp saved_models/x.jsonl training/results/x.jsonl && python training/results.py

Where folders lie is taken out of the rows; their names stay. `--check` writes nothing, names what
is stale and exits with 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import against_keras
import calibration
import few_images
import label_errors
import quantized
import rejection
import robustness
import seeds
import webgpu
from rows import Row, read_rows, refused_in_a_line, without_folders

from keras_resnet18.errors import InputError

sys.path.append(str(Path(__file__).parent / "benchmarks"))
import epoch
import in_turn
import inference
import input_pipeline
import train_step

HERE = Path(__file__).parent
FOLDER = HERE / "results"
PAGES = (
    HERE / "README.md",
    *(HERE.parent / "docs" / name for name in ("formats.md", "few-images.md")),
)
_PLACES = ("run", "network", "data", "source")  # values that may be paths
_TABLE = re.compile(r"(<!-- results: (\S+) -->\n).*?(<!-- (?:end|results: \S+) -->|\Z)", re.S)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the pages.

    Attributes:
        file: Name of its file of rows.
        text: From rows to the table.
        wanted: Which rows of the file are the table's.
        split: Name of a value; each of its values has a table of its own.
    """

    file: str
    text: Callable[[Sequence[Row]], str]
    wanted: Callable[[Row], bool] = lambda row: True
    split: str | None = None


TABLES = {
    "against-keras": Table("against-keras.jsonl", against_keras.text),
    "calibration": Table("calibration.jsonl", calibration.text, split="model"),
    "epoch": Table("epoch.jsonl", functools.partial(in_turn.text, rivals=epoch.RIVALS)),
    "few-images": Table("few-images.jsonl", few_images.text),
    "inference": Table("inference.jsonl", inference.text),
    "input-pipeline": Table(
        "input-pipeline.jsonl", functools.partial(in_turn.text, rivals=input_pipeline.RIVALS)
    ),
    "near-copies": Table(
        "label-errors.jsonl", label_errors.text_of_copies, lambda row: row["copies"]
    ),
    "quantized": Table("quantized.jsonl", quantized.text),
    "rejection": Table("rejection.jsonl", rejection.text, split="model"),
    "robustness": Table("robustness.jsonl", robustness.text, split="model"),
    "seeds": Table("seeds.jsonl", seeds.text),
    "train-step": Table(
        "train-step.jsonl", functools.partial(in_turn.text, rivals=train_step.RIVALS)
    ),
    "webgpu": Table("webgpu.jsonl", webgpu.text),
    "wrong-labels": Table("label-errors.jsonl", label_errors.text, lambda row: not row["copies"]),
}


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, name what is stale")
    arguments = parser.parse_args(given)
    with refused_in_a_line():
        new = {path: lines(rows_of(path)) for path in sorted(FOLDER.glob("*.jsonl"))}
        stale = [f"{path.name} says where folders lie" for path in new if changed(path, new)]
        for page in PAGES:
            new[page], names = filled(page.read_text(encoding="utf-8"), FOLDER)
            stale += [f"{page.name}, table {name} is stale" for name in names]
    if arguments.check and stale:
        sys.exit("\n".join([*stale, "run training/results.py"]))
    for path in new if not arguments.check else ():
        if changed(path, new):
            path.write_text(new[path], encoding="utf-8")
            print(path)


def changed(path: Path, new: dict[Path, str]) -> bool:
    """Whether a file is not what it should be."""
    return path.read_text(encoding="utf-8") != new[path]


def filled(page: str, folder: Path) -> tuple[str, list[str]]:
    """A page with its tables made anew, and the names of those that it had otherwise.

    Raises:
        InputError: If a table is not known, has no rows, or does not end.
    """
    stale = []

    def one(found: re.Match[str]) -> str:
        begin, name, end = found.groups()
        if end != "<!-- end -->":
            raise InputError(f"a table must end with <!-- end -->. Received: {name}")
        new = f"{begin}{made(name, folder)}\n{end}"
        if new != found[0]:
            stale.append(name)
        return new

    return _TABLE.sub(one, page), stale


def made(name: str, folder: Path) -> str:
    """A table from its rows."""
    if (table := TABLES.get(name)) is None:
        raise InputError(f"a table is one of {', '.join(TABLES)}. Received: {name}")
    rows = [row for row in rows_of(folder / table.file) if table.wanted(row)]
    if not rows:
        raise InputError(f"table {name} has no rows in {folder / table.file}")
    if table.split is None:
        return table.text(rows)
    kinds = dict.fromkeys(row[table.split] for row in rows)
    return "\n\n".join(table.text([x for x in rows if x[table.split] == kind]) for kind in kinds)


def lines(rows: Sequence[Row]) -> str:
    """Rows as they stand in a file."""
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def rows_of(path: Path) -> list[Row]:
    """The rows of a file, without the places of folders."""
    return [
        row | {name: without_folders(row[name]) for name in _PLACES if row.get(name)}
        for row in read_rows(path)
    ]


if __name__ == "__main__":
    main()
