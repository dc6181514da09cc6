"""Steps of training or reading, timed in turn, each in a process that keeps what it compiled.

A machine whose speed drifts treats all of them alike, and each is compiled once. Every step of a
round is a row on disk; a measurement that was killed goes on with the round that is not whole.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

sys.path.append(str(Path(__file__).parents[1]))
from rows import (
    Row,
    append_row,
    at_least_one,
    machine,
    machine_in_words,
    read_rows,
    table,
)

WARM_UP_STEPS = 3
_MACHINE = ("cpu", "threads", "packages", "settings")  # what rows share that are compared


class Step(Protocol):
    """A training step of one framework, compiled at its first run."""

    def run(self, steps: int) -> float:
        """Trains for so many steps and returns the seconds that they took."""

    def facts(self) -> dict[str, Any]:
        """Versions, device, and what else the table needs."""

    def peak_mib(self) -> float:
        """Highest memory use so far, MiB."""


def process_peak_mib() -> float:
    """Highest resident memory of this process so far, MiB; compilation is included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def options(
    doc: str, *, batch: int, rounds: int, seconds: float, rows: str
) -> argparse.ArgumentParser:
    """What the benchmarks have in common on their command lines.

    Args:
        doc: The program's docstring.
        batch, rounds, seconds: Defaults.
        rows: Name of the file of rows in saved_models/.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--size", type=at_least_one, default=224)
    parser.add_argument("--batch", type=at_least_one, default=batch)
    parser.add_argument("--rounds", type=at_least_one, default=rounds)
    parser.add_argument("--seconds", type=float, default=seconds, help="of a case in a round")
    parser.add_argument("--minutes", type=float, default=60.0, help="no round ends after these")
    parser.add_argument("--torch-python", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--rows", type=Path, default=Path("saved_models") / rows)
    parser.add_argument("--case", nargs="+", help=argparse.SUPPRESS)
    return parser


def dtypes() -> list[str]:
    """The precisions in which this CPU trains fast."""
    flags = machine()["cpu_flags"]
    return ["float32", *(["bfloat16"] if {"avx512_bf16", "amx_bf16"} & set(flags) else [])]


def command(script: str, arguments: argparse.Namespace, *case: str) -> list[str]:
    """What runs a case, in torch's Python where its name begins so."""
    python = arguments.torch_python if case[0].startswith("torch") else sys.executable
    size, batch = str(arguments.size), str(arguments.batch)
    return [python, script, "--size", size, "--batch", batch, "--case", *case]


def answer(make: Any, *arguments: Any) -> None:
    """What a case's process does: makes a `Step`, then times it for each line of seconds it reads.

    Answers are lines of JSON on standard output. Whatever libraries print goes to standard error.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    start = time.perf_counter()
    step: Step = make(*arguments)
    step.run(WARM_UP_STEPS)
    ready = time.perf_counter() - start
    seconds = step.run(WARM_UP_STEPS) / WARM_UP_STEPS
    print(json.dumps({"ready_after_s": round(ready, 1), **step.facts()}), file=answers)
    for line in sys.stdin:
        steps = max(WARM_UP_STEPS, round(float(line) / seconds))
        seconds = step.run(steps) / steps
        print(json.dumps({"step_s": seconds, "peak_mib": step.peak_mib()}), file=answers)


class Case:
    """A process that runs `answer`, stopped between its turns with its own workers.

    They are a process group in this program's session: if this program is killed, the system ends
    the group, although it is stopped.

    Attributes:
        facts: What its step says about itself; empty if it failed.
        error: Why it failed, or empty.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], patience: float):
        """Starts the process and waits until its step is compiled.

        Args:
            command: What to run.
            environment: Variables besides those of this process.
            patience: Seconds after which a process that has not answered is ended.
        """
        self.error = ""
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  # closed below
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            process_group=0,
        )
        self.facts = self._read(patience) or {}
        self._signal(signal.SIGSTOP)

    def run(self, seconds: float, patience: float) -> Row | None:
        """Times about so many seconds of steps; None if that fails."""
        if self.error:
            return None
        self._signal(signal.SIGCONT)
        print(seconds, file=self._process.stdin, flush=True)
        row = self._read(patience)
        self._signal(signal.SIGSTOP)
        return row

    def close(self) -> None:
        """Ends the process and its workers."""
        self._signal(signal.SIGKILL)
        self._process.communicate()
        self._log.close()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def _read(self, patience: float) -> Row | None:
        late = threading.Event()

        def end() -> None:
            late.set()
            self._signal(signal.SIGKILL)

        timer = threading.Timer(patience, end)
        timer.start()
        line = self._process.stdout.readline() if self._process.stdout else ""
        timer.cancel()
        if line:
            answer: Row = json.loads(line)
            return answer
        self._process.wait()
        self._log.seek(0)
        said = self._log.read().strip()[-2000:] or "the process ended"
        self.error = f"no answer within {patience:.0f} s" if late.is_set() else said
        return None


def compare(
    commands: Mapping[str, Sequence[str]],
    environment: Mapping[str, str],
    arguments: argparse.Namespace,
    about: Row,
) -> list[Row]:
    """Starts a process for each command, times them in turn, and ends them.

    Rounds that are whole in the file of rows are not measured again. Facts and rounds are printed
    as lines of JSON, as soon as they are known.

    Args:
        commands: The cases' names, and what to run for each.
        environment: Variables besides those of this process.
        arguments: What `options` parses.
        about: What the rows share besides: the benchmark's name, the precision.

    Returns:
        All rows of this measurement: `case`, `round`, `images_per_second`, `peak_mib`.
    """
    end = time.monotonic() + 60 * arguments.minutes
    here = machine()
    about = {**about, "size": arguments.size, "batch": arguments.batch}
    same = about | {name: here[name] for name in _MACHINE}
    found: dict[tuple[str, int], Row] = {
        (row["case"], row["round"]): row
        for row in read_rows(arguments.rows)
        if row.get("case") in commands and all(row.get(name) == same[name] for name in same)
    }

    def missing(names: Sequence[str]) -> list[int]:
        numbers = range(1, arguments.rounds + 1)
        return [number for number in numbers if any((name, number) not in found for name in names)]

    def left() -> float:
        return max(1.0, end - time.monotonic())

    cases: dict[str, Case] = {}
    try:
        for name in commands if missing(list(commands)) else ():
            case = cases[name] = Case(commands[name], environment, left())
            said = {"error": case.error} if case.error else case.facts
            print(json.dumps({"case": name, **said}), flush=True)
        living = [name for name, case in cases.items() if not case.error]
        for number in missing(living):
            if arguments.seconds * len(living) > left():
                print(json.dumps({"round": number, "stopped": "out of time"}), flush=True)
                break
            for name in living:
                if timed := cases[name].run(arguments.seconds, left()):
                    speed = arguments.batch / timed.pop("step_s")
                    measured = {"case": name, "round": number, "images_per_second": speed, **timed}
                    row = {**about, **measured, **cases[name].facts, **here}
                    append_row(arguments.rows, row)
                    found[name, number] = row
            speeds = {
                name: round(found[name, number]["images_per_second"], 2)
                for name in living
                if (name, number) in found
            }
            print(json.dumps({"round": number, "images_per_second": speeds}), flush=True)
    finally:
        for case in cases.values():
            case.close()
    return [row for _, row in sorted(found.items(), key=lambda item: item[0][1])]


def of_one_machine(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that were measured on one machine with one software, and may be compared."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        same = json.dumps([row[name] for name in _MACHINE], sort_keys=True)
        groups.setdefault(same, []).append(row)
    return list(groups.values())


def text(rows: Sequence[Row], rivals: Mapping[str, Callable[[str], str]]) -> str:
    """A table of each precision and size on each machine.

    Args:
        rows: What `compare` returns, of one or more measurements.
        rivals: Columns of ratios: a title, and the name of the rival of each case.
    """
    parts = []
    for group in of_one_machine(rows):
        kinds: dict[str, list[Row]] = {}
        for row in group:
            about = [row.get("dtype"), f"{row['size']} px", f"batch {row['batch']}"]
            about += [row.get("photos"), row.get("isa")]
            kinds.setdefault(", ".join(filter(None, about)), []).append(row)
        for about, of_kind in kinds.items():
            parts += [f"{about}:", _table(of_kind, rivals)]
        torch = dict.fromkeys(f"torch {row['torch']}" for row in group if "torch" in row)
        parts.append("\n".join([machine_in_words(group), *torch]))
    return "\n\n".join(parts)


def _table(rows: Sequence[Row], rivals: Mapping[str, Callable[[str], str]]) -> str:
    """Speeds, ratios round by round, and memory."""
    speeds: dict[str, dict[int, float]] = {}
    for row in rows:
        speeds.setdefault(row["case"], {})[row["round"]] = row["images_per_second"]
    titles = ("case", "images/s, median (range)", *rivals, "memory, MiB")
    lines = []
    for name, of_case in speeds.items():
        peak = max(row["peak_mib"] for row in rows if row["case"] == name)
        ratios = [
            "1" if rival(name) == name else _ratio(of_case, speeds.get(rival(name), {}))
            for rival in rivals.values()
        ]
        lines.append((name, _median(list(of_case.values())), *ratios, f"{peak:,.0f}"))
    return table(titles, lines)


def _ratio(ours: Mapping[int, float], theirs: Mapping[int, float]) -> str:
    ratios = [ours[number] / theirs[number] for number in ours if number in theirs]
    return _median(ratios) if ratios else ""


def _median(values: Sequence[float]) -> str:
    """`1.13 (1.12 to 1.15)`, with three digits or more."""
    middle = statistics.median(values)
    digits = max(0, 2 - math.floor(math.log10(middle)))
    low, high = min(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"
