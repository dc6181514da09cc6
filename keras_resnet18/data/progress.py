"""Progress of work that takes a while, on a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import Progress


@contextlib.contextmanager
def watched(
    console: Console, what: str, total: int | None = None
) -> Iterator[Callable[..., object]]:
    """Shows a bar if the console is a terminal; gives the function that moves it on.

    The function takes the number of things done since its last call, and if it was not known before
    the number of all.
    """
    with Progress(
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=not console.stderr,  # or a program's output would go to standard error
    ) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count, total=None: progress.update(task, advance=count, total=total)
