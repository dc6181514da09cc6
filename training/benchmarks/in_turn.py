"""Steps of training or reading, timed in turn, each in a process that keeps what it compiled.

A machine whose speed drifts treats all of them alike, and each is compiled once.
"""

from __future__ import annotations

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
from typing import Any, Protocol

WARM_UP_STEPS = 3


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
    """A process that runs `answer`; it is stopped between its turns, or it would read ahead.

    Attributes:
        facts: What its step says about itself; empty if it failed.
        step_s: Seconds of a step, one value per round.
        peak_mib: Highest memory use so far, MiB.
        error: Why it failed, or empty.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], patience: float):
        """Starts the process and waits until its step is compiled.

        Args:
            command: What to run.
            environment: Variables besides those of this process.
            patience: Seconds after which a process that has not answered is ended.
        """
        self.step_s: list[float] = []
        self.peak_mib = float("nan")
        self.error = ""
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  # closed below
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.facts = self._read(patience) or {}
        self._process.send_signal(signal.SIGSTOP)

    def run(self, seconds: float, patience: float) -> None:
        """Times about so many seconds of steps."""
        if self.error:
            return
        self._process.send_signal(signal.SIGCONT)
        print(seconds, file=self._process.stdin, flush=True)
        row = self._read(patience)
        self._process.send_signal(signal.SIGSTOP)
        if row:
            self.step_s.append(row["step_s"])
            self.peak_mib = row["peak_mib"]

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def _read(self, patience: float) -> dict[str, Any] | None:
        timer = threading.Timer(patience, self._process.kill)
        timer.start()
        line = self._process.stdout.readline() if self._process.stdout else ""
        timer.cancel()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        if not timer.is_alive() and self._process.wait() < 0:
            self.error = f"no answer within {patience:.0f} s"
        else:
            self._process.wait()
            self._log.seek(0)
            self.error = self._log.read().strip()[-2000:] or "the process ended"
        return None


def compare(
    commands: Mapping[str, Sequence[str]],
    environment: Mapping[str, str],
    *,
    batch: int,
    rounds: int,
    seconds: float,
    minutes: float,
) -> dict[str, Case]:
    """Starts a process for each command, times them in turn, and ends them.

    Each fact and each round is printed as a line of JSON, as soon as it is known.

    Args:
        commands: The cases' names, and what to run for each.
        environment: Variables besides those of this process.
        batch: Images per step.
        rounds: How often each case is timed.
        seconds: How long a case is timed in a round, about.
        minutes: No round begins that would end after these.
    """
    end = time.monotonic() + 60 * minutes

    def left() -> float:
        return max(1.0, end - time.monotonic())

    cases: dict[str, Case] = {}
    try:
        for name, command in commands.items():
            case = cases[name] = Case(command, environment, left())
            row = {"case": name, **case.facts}
            print(json.dumps(row | ({"error": case.error} if case.error else {})), flush=True)
        for number in range(1, rounds + 1):
            if seconds * len(cases) > left():
                print(json.dumps({"rounds": number - 1, "stopped": "out of time"}), flush=True)
                break
            for case in cases.values():
                case.run(seconds, left())
            speeds = {
                name: round(batch / case.step_s[-1], 2)
                for name, case in cases.items()
                if len(case.step_s) == number
            }
            print(json.dumps({"round": number, "images_per_second": speeds}), flush=True)
    finally:
        for case in cases.values():
            case.close()
    return cases


def table(cases: Mapping[str, Case], rivals: Mapping[str, Callable[[str], str]], batch: int) -> str:
    """Speeds, ratios round by round, and memory, as Markdown.

    Args:
        cases: What `compare` returned.
        rivals: Columns of ratios: a title, and the name of the rival of each case.
        batch: Images per step.
    """
    titles = ["case", "images/s, median (range)", *rivals, "memory, MiB"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name, case in cases.items():
        if case.error or not case.step_s:
            lines.append(f"| {name} | not measured |{' |' * (len(rivals) + 1)}")
            continue
        ratios = [_ratio(case, cases.get(rival(name))) for rival in rivals.values()]
        cells = [name, _median([batch / s for s in case.step_s]), *ratios]
        lines.append(f"| {' | '.join(cells)} | {case.peak_mib:,.0f} |")
    return "\n".join(lines)


def _ratio(case: Case, rival: Case | None) -> str:
    if rival is None or len(rival.step_s) != len(case.step_s):
        return ""
    pairs = zip(rival.step_s, case.step_s, strict=True)
    return "1" if rival is case else _median([theirs / ours for theirs, ours in pairs])


def _median(values: Sequence[float]) -> str:
    """`1.13 (1.12 to 1.15)`, with three digits or more."""
    middle = statistics.median(values)
    digits = max(0, 2 - math.floor(math.log10(middle)))
    low, high = min(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"
