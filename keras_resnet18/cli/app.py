"""The command line: each verb parses its options, calls the library once, and prints."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from keras_resnet18 import machine
from keras_resnet18.cli import about, check, evaluate, export, predict, train
from keras_resnet18.cli.options import in_options
from keras_resnet18.errors import InputError, check_no_url

app = typer.Typer(
    help="A folder of images becomes a small image classifier that is verified to work on a phone.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(asked: bool) -> None:
    if asked:
        print("keras-resnet18", machine.environment()["packages"]["keras-resnet18"])
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Options before the verb."""


# in the order of --help
app.command()(check.check)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(predict.predict)
app.command()(export.export)
app.command()(export.verify)
app.command()(about.report)
app.command()(about.info)
app.command()(about.demo)

_as_python_does = warnings.formatwarning
_INTERRUPTED = 130  # 128 + SIGINT, as shells expect; Typer exits with it after Ctrl-C


def main() -> None:
    """Run the command line. Bad input is one line and exit status 1, an interruption 130."""
    _open_closed_streams()
    # a notebook sets a backend that only it can import
    os.environ["MPLBACKEND"] = "agg"
    warnings.formatwarning = _format_warning
    if "" in sys.argv[1:]:  # as a path, the current folder
        _fail("an argument is empty: give a name or a path. Is a variable of the shell unset?")
    with _interruption_noted() as noted:
        try:
            for word in sys.argv[1:]:  # before they become paths
                check_no_url(re.sub("^--[a-z-]+=", "", word))
            app(prog_name="keras-resnet18")
        except SystemExit as end:
            if end.code == _INTERRUPTED:
                _fail("interrupted", _INTERRUPTED)
            raise
        except Exception as error:
            if noted:
                _fail("interrupted", _INTERRUPTED)
            system_says = getattr(error, "errno", None) in (errno.ENOSPC, errno.ENAMETOOLONG)
            if isinstance(error, InputError) or system_says:
                _fail(in_options(str(error)))
            raise


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: Any = None
) -> str:
    """Format a warning of this package as one line, like an error."""
    if Path(__file__).parents[1] in Path(filename).parents:
        return f"keras-resnet18: {message}\n"
    return _as_python_does(message, category, filename, lineno, line)


@contextlib.contextmanager
def _interruption_noted() -> Iterator[list[int]]:
    """Record Ctrl-C: TensorFlow may replace its exception by another one."""
    noted: list[int] = []

    def interrupt(number: int, frame: Any) -> None:
        noted.append(number)
        signal.default_int_handler(number, frame)

    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # else ignored, as in a shell's background job
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


def _open_closed_streams() -> None:
    """Open os.devnull in place of closed standard streams, and make any name printable.

    Otherwise a file that is opened later would get the number and the output of a standard stream.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:  # opens the lowest free number
        pass
    os.close(fd)
    sys.stdout = sys.stdout or open(1, "w")  # noqa: SIM115  # never closed
    sys.stderr = sys.stderr or open(2, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]


def _fail(message: str, status: int = 1) -> NoReturn:
    print(f"keras-resnet18: {message}", file=sys.stderr)
    sys.exit(status)
