"""A short look into each of many files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

# Receives the number of files that were done since its last call, and of all
Advance = Callable[[int, int], object]

# How to open a file for `os.read`; Windows would else take it for text
READ = os.O_RDONLY | getattr(os, "O_BINARY", 0)

_Result = TypeVar("_Result")

_CHUNK = 500  # files at once
_THREADS = 16  # that wait for the storage
_SLOW = 1e-4  # seconds for a file: a disk or the network, not the memory


_END = 64  # bytes


def size_and_end(path: str | os.PathLike[str]) -> tuple[int, bytes]:
    """Size of a file, and its last bytes, in which two images hardly ever agree."""
    file = os.open(path, READ)
    try:
        size = os.fstat(file).st_size
        os.lseek(file, max(0, size - _END), os.SEEK_SET)
        return size, os.read(file, _END)
    finally:
        os.close(file)


def silent(count: int, total: int) -> None:
    """Shows no progress."""


def each_file(
    look: Callable[[str | os.PathLike[str]], _Result],
    paths: Sequence[str | os.PathLike[str]],
    advance: Advance = silent,
) -> list[_Result]:
    """Calls a function with each path, and in many threads as soon as the storage is slow.

    Args:
        look: Opens a file, and computes little.
        paths: The files.
        advance: Is told of the files that are done.

    Returns:
        What the function returned, in the order of the paths.
    """

    def look_into(chunk: Sequence[str | os.PathLike[str]]) -> list[_Result]:
        return [look(path) for path in chunk]

    results: list[_Result] = []
    chunks = iter([paths[i : i + _CHUNK] for i in range(0, len(paths), _CHUNK)])
    for chunk in chunks:
        start = time.perf_counter()
        results += look_into(chunk)
        advance(len(chunk), len(paths))
        if time.perf_counter() - start > _SLOW * len(chunk):
            break
    # not before, because threads make slower what Python itself computes
    with ThreadPoolExecutor(_THREADS) as pool:
        for found in pool.map(look_into, chunks):
            results += found
            advance(len(found), len(paths))
    return results
