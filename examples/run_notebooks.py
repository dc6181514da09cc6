"""Run the notebooks of this folder and store their outputs.

    python examples/run_notebooks.py            # writes the outputs into the notebooks
    python examples/run_notebooks.py --check    # runs them and writes nothing

Cells tagged `install` are skipped. Each notebook runs in an empty folder of its own. Needs nbclient
and ipykernel, which the extra `dev` brings.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).parent
MINUTES = 10  # a cell that takes longer is stuck
AT_ONCE = 2  # half of a notebook's time keeps one core busy


def run(path: Path, *, write: bool) -> None:
    """Run a notebook; raises CellExecutionError where a cell fails."""
    book = nbformat.read(path, nbformat.NO_CONVERT)
    cells = book.cells
    book.cells = [c for c in cells if "install" not in c.metadata.get("tags", [])]
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            book,
            timeout=60 * MINUTES,
            resources={"metadata": {"path": folder}},
            store_widget_state=False,
        )
        client.execute()
        text = nbformat.writes(book)
        if folder in text:  # a path of this machine must not be stored
            book = nbformat.reads(text.replace(f"{folder}/", ""), nbformat.NO_CONVERT)
    if write:
        for cell in book.cells:
            cell.metadata.pop("execution", None)  # dates
            if cell.cell_type == "code":  # what libraries log, with paths of this machine
                cell.outputs = [x for x in cell.outputs if x.get("name") != "stderr"]
        done = {cell.id: cell for cell in book.cells}
        book.cells = [done.get(cell.id, cell) for cell in cells]
        nbformat.write(book, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="run the notebooks, write nothing")
    parser.add_argument("names", nargs="*", help="notebooks, such as keras.ipynb")
    arguments = parser.parse_args()
    names = arguments.names or sorted(path.name for path in FOLDER.glob("*.ipynb"))

    def timed(name: str) -> float:
        started = time.monotonic()
        run(FOLDER / name, write=not arguments.check)
        return time.monotonic() - started

    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = {name: pool.submit(timed, name) for name in names}
    for name, done in running.items():
        try:
            print(f"{name}: {done.result():.0f} s")
        except CellExecutionError as error:
            sys.exit(f"{name} failed: {error}")


if __name__ == "__main__":
    main()
