"""Who may import whom, read from the sources: the architecture of the library, as a table."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import keras_resnet18

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "keras_resnet18"

# Each room of the house (a module or a folder), from the ground up, and the lower rooms of ours
# that it may import besides itself and `errors`. A new room is a failure until it has a row here.
GROUND = {"files", "images", "machine", "preprocess"}
VALUES = {"distributed", "recipe", "run", "spec", "tflite_file"}
ROOMS = {
    "errors": set(),
    "files": set(),
    "machine": set(),
    "preprocess": set(),
    "images": {"preprocess"},
    "distributed": {"machine"},
    "recipe": {"preprocess"},
    "spec": {"files", "preprocess"},
    "tflite_file": {"files", "spec"},
    "run": {"files", "preprocess", "recipe", "spec"},
    "data": {"distributed", "images", "machine", "preprocess", "recipe", "spec"},
    "weights": {"files", "preprocess"},
    "model": {"preprocess", "recipe", "weights"},
    "classify": {*GROUND, *VALUES, "data"},
    "checking": {*GROUND, "classify", "data", "model", "recipe", "run", "weights"},
    "reports": {*GROUND, *VALUES, "checking", "classify", "data", "model", "weights"},
    "fit": {*GROUND, *VALUES, "checking", "classify", "data", "model", "reports", "weights"},
    "exporters": {*GROUND, *VALUES, "classify", "data", "weights"},
    "cli": {*GROUND, *VALUES, "checking", "classify", "exporters", "fit", "reports"},
    "__main__": {"cli"},
}
ROOMS["__init__"] = set(ROOMS) - {"cli", "__main__"}

# Rooms that no import of these frameworks may enter, at the top of a file or in a function.
KEPT_OUT = {
    "model": {"tensorflow", "jax", "torch"},
    "weights": {"tensorflow", "jax"},  # torch opens .pth files
    "data": {"keras", "jax", "torch"},
    "images": {"tensorflow", "keras"},
    "tflite_file": {"tensorflow"},
    "recipe": {"numpy", "keras", "tensorflow"},
}

# Rooms whose files import at their top the standard library alone, or these besides, so that
# `import keras_resnet18` and `--help` wait for no framework.
QUICK: dict[str, set[str]] = {
    **{room: set() for room in ("__init__", "__main__", "errors", "machine")},
    **{room: set() for room in ("preprocess", "recipe", "run", "spec")},
    "files": {"filelock"},
    "cli": {"rich", "typer"},
}


class Import(NamedTuple):
    """One import statement's module, or its module and name."""

    target: str
    at_top: bool  # runs when the file is imported


def imports(source: str) -> Iterator[Import]:
    """All imports of a file, those in functions and for type checkers too."""
    tree = ast.parse(source)
    later = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            targets = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            yield Import(target, id(node) not in later)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def faults(room: str, source: str) -> list[str]:
    """What in this source of a room is against the tables."""
    if room not in ROOMS:
        return [f"{room} has no line in ROOMS"]
    found = []
    for target, at_top in imports(source):
        first, *rest = target.split(".")
        if first in KEPT_OUT.get(room, ()):
            found.append(f"{room} must not import {first}")
        if not first:
            found.append(f"relative import of {target}")
        elif first == "keras_resnet18":
            other = rest[0] if rest and rest[0] in ROOMS else "__init__"
            if other not in {room, "errors", *ROOMS[room]}:
                found.append(f"{room} must not import {other}: {target}")
            elif at_top and room in QUICK and other not in QUICK:
                found.append(f"{room} must not import {other} at its top")
        elif at_top and room in QUICK and first not in sys.stdlib_module_names | QUICK[room]:
            found.append(f"{room} must not import {first} at its top")
    return found


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_file_imports_only_what_its_room_may(path):
    assert faults(room_of(path), path.read_text()) == []


def test_the_rooms_form_no_circle():
    remaining = dict(ROOMS)
    while remaining:
        free = [room for room, needs in remaining.items() if not needs & remaining.keys()]
        assert free, f"these import one another in a circle: {sorted(remaining)}"
        for room in free:
            del remaining[room]


@pytest.mark.parametrize(
    ("room", "source", "fault"),
    [
        ("data", "from keras_resnet18.model import resnet", "data must not import model"),
        ("fit", "from keras_resnet18 import build_resnet18", "fit must not import __init__"),
        ("preprocess", "def f():\n  from keras_resnet18.data import files", "not import data"),
        ("model", "def f():\n  import tensorflow as tf", "model must not import tensorflow"),
        ("model", "from . import blocks", "relative import"),
        ("run", "try:\n  import keras\nexcept ImportError:\n  pass", "keras at its top"),
        ("cli", "from keras_resnet18.fit.train import train", "not import fit at its top"),
        ("utils", "", "utils has no line in ROOMS"),
        ("run", "def f():\n  import keras", None),
        ("__init__", "if TYPE_CHECKING:\n  from keras_resnet18.model import resnet", None),
        ("model", "import keras\nfrom keras_resnet18.errors import InputError", None),
    ],
)
def test_the_check_finds_forbidden_imports_alone(room, source, fault):
    found = faults(room, source)
    assert any(fault in one for one in found) if fault else found == []


# training/ calls the library like any user


def private_imports(source: str) -> list[str]:
    """What a program imports of ours that is neither a public name nor a module's open name."""
    found = []
    for target, _ in imports(source):
        first, *rest = target.split(".")
        if first in ("tests", "golden", "") or any(part.startswith("_") for part in rest):
            found.append(target)
        elif first == "keras_resnet18" and len(rest) == 1:
            room = (PACKAGE / rest[0]).is_dir() or (PACKAGE / f"{rest[0]}.py").is_file()
            if not room and rest[0] not in keras_resnet18.__all__:
                found.append(target)
    return found


def test_programs_in_training_use_what_any_user_may():
    for path in sorted((ROOT / "training").rglob("*.py")):
        assert private_imports(path.read_text()) == [], path


def test_the_library_imports_no_program_and_no_test():
    for path in SOURCES:
        for target, _ in imports(path.read_text()):
            assert target.partition(".")[0] not in ("training", "tests", "golden"), path
