"""What the programs share: rows on disk as they come, and tables of them."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import re
import shlex
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_resnet18.errors import InputError
from keras_resnet18.machine import environment

Row = dict[str, Any]

# The flags that tell how fast a CPU can train, and run an int8 file.
_SPEED = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Adds a line of JSON to a file, which it makes with its folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, 2)
            if file.read() != b"\n":  # a process was killed in the middle of a line
                file.write(b"\n")
        file.write(f"{json.dumps(row)}\n".encode())


def read_rows(path: Path, *key: str) -> list[Row]:
    """The rows of a file; none where there is no file, and no line that was cut short.

    Args:
        path: What `append_row` wrote.
        key: Names of values: of rows that share all of these, the newest stays.
    """
    rows: dict[tuple[Any, ...], Row] = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines):
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            index = tuple(row.get(name) for name in key) if key else (number,)
            rows.pop(index, None)
            rows[index] = row
    return list(rows.values())


def mean_and_spread(values: Sequence[float], *, percent: bool = True, digits: int = 2) -> str:
    """`94.84 ± 0.06 %`: mean and standard deviation, which a single value has not.

    Args:
        values: Fractions, unless `percent` is False.
        percent: Whether to multiply by 100.
        digits: After the point.
    """
    scale, unit = (100, " %") if percent else (1, "")
    spread = f" ± {scale * statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{scale * statistics.mean(values):.{digits}f}{spread}{unit}"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells as a table in Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in (titles, *rows)]
    return "\n".join([lines[0], "|---" * len(titles) + "|", *lines[1:]])


def machine() -> Row:
    """Where and when a row was measured, and by which command, without the folders' places."""
    facts = environment()
    kept = {name: facts[name] for name in ("cpu", "threads", "packages", "settings")}
    flags = [flag for flag in facts["cpu_flags"] if flag in _SPEED]
    words = [without_folders(word) for word in sys.argv]
    return {
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(words),
        **kept,
        "cpu_flags": flags,
    }


def without_folders(text: str) -> str:
    """`--rows=../a/rows.jsonl` as `--rows=rows.jsonl`; a dataset on a hub keeps its owner."""
    return text if text.startswith("hf:") else re.sub(r"[^=]*/(?!$)", "", text)


def machine_in_words(rows: Iterable[Mapping[str, Any]]) -> str:
    """A line for each machine on which rows were measured."""
    names = {"keras": "Keras", "tensorflow": "TensorFlow", "ai-edge-litert": "LiteRT"}
    lines = []
    for row in rows:
        found = [
            f"{said} {row['packages'][x]}" for x, said in names.items() if x in row["packages"]
        ]
        about = [f"{row['threads']} threads", *found, row["date"]]
        lines.append(", ".join([f"{row['cpu']} ({' '.join(row['cpu_flags'])})", *about]))
    return "\n".join(dict.fromkeys(lines))


def at_least_one(text: str) -> int:
    """A number of things, 1 or more, as an option's type."""
    with contextlib.suppress(ValueError):
        if (number := int(text)) >= 1:
            return number
    raise argparse.ArgumentTypeError(f"must be 1 or more. Received: {text}")


@contextlib.contextmanager
def refused_in_a_line() -> Iterator[None]:
    """Ends the program with one line, and no traceback, where what was given cannot be used."""
    try:
        yield
    except InputError as error:
        sys.exit(f"error: {error}")
