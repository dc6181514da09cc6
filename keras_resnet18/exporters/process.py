"""Other people's converters, each run in a process of its own: they leak memory at every call."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from keras_resnet18.errors import ExportError

# How TensorFlow's converter and tf2onnx list operators that they cannot convert
_UNSUPPORTED = re.compile(r"(?:^Custom|^TF Select|Unsupported) ops: (?:Counter)?(.+)$", re.M)

# What libraries log of other things, and how lines that tell an error look
_LOGGED = re.compile(r"[IW]\d{4} |WARNING: All log messages|.* - (INFO|WARNING) - ")
_ERROR = re.compile(r"[\w.]*(Error|Exception)\b|[EF]\d{4} |.*\berror: ")
_PREFIX = re.compile(r"^[EF]\d{4} [^]]*\] ")


def run_converter(name: str, arguments: Sequence[str], output: Path) -> None:
    """Runs a Python program that converts a model, on the CPU.

    Args:
        name: What an error calls the converter.
        arguments: Of Python: a script or `-m` and a module, and their own.
        output: The file that the converter writes.

    Raises:
        ExportError: If the converter fails, or writes an operator that it cannot convert; the
            message names the reason.
    """
    # -P: this folder's own modules must not stand in for installed ones of the same names
    done = subprocess.run(
        [sys.executable, "-P", *arguments],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if unsupported := _UNSUPPORTED.findall(done.stderr):
        names = sorted(set(re.findall(r"[A-Za-z]\w*", " ".join(unsupported))))
        raise ExportError(
            f"{name} cannot convert {', '.join(names)}: build the model without; "
            "nothing was written"
        )
    if done.returncode or not output.is_file():
        reason = _reason(done.returncode, done.stderr)
        raise ExportError(f"{name} failed: {reason}; nothing was written")


def _reason(status: int, stderr: str) -> str:
    """Why a process failed, in one line: the signal that ended it, the error that it printed."""
    lines = [line for line in stderr.splitlines() if line.strip() and not _LOGGED.match(line)]
    errors = [line for line in lines if _ERROR.match(line)] or lines
    error = textwrap.shorten(_PREFIX.sub("", errors[-1]), 300) if errors else "no message"
    if status >= 0:
        return f"{error} (status {status})"
    memory = ", as where memory runs out" if -status == signal.SIGKILL else ""
    return f"it was ended by {signal.Signals(-status).name}{memory}: {error}"
