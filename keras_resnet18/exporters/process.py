"""A converter in a process of its own, which gives back the memory that converters leak."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from keras_resnet18.errors import ExportError

_UNSUPPORTED = re.compile(r"'tf\.(\w+)' op is neither a custom op nor a flex op")
_EXCEPTION = re.compile(r"^[\w.]*(?:Error|Exception)\b.*")


def convert(program: Sequence[str], path: Path, name: str) -> None:
    """Runs a Python program that writes `path`.

    Args:
        program: What follows `python -P`.
        path: The file that it writes.
        name: What an error calls the program.

    Raises:
        ExportError: If it fails; the message has its reason.
    """
    # -P: this folder's own modules must not stand in for installed ones of the same names
    done = subprocess.run(
        [sys.executable, "-P", *program],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode or not path.is_file():
        raise ExportError(f"{name} failed: {_reason(done.returncode, done.stderr)}")


def _reason(status: int, stderr: str) -> str:
    if status < 0:
        which = signal.Signals(-status).name
        hint = ", as the system does when memory runs out" if which == "SIGKILL" else ""
        return f"it was ended by {which}{hint}"
    if found := {*_UNSUPPORTED.findall(stderr)}:
        return f"the model needs operators that are not built in: {', '.join(sorted(found))}"
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    exceptions = [line for line in lines if _EXCEPTION.match(line)]
    return (exceptions or lines or [f"exit status {status} without a message"])[-1]
