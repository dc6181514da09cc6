"""Writes reference.md from the package: options, recipe keys, a run's files, published weights.

    python docs/reference.py

tests/test_docs.py fails if the page says anything else.
"""

import dataclasses
import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from keras_resnet18.cli.app import app
from keras_resnet18.recipe import Augment, Finetune, Network, Optimizer, Recipe
from keras_resnet18.run import Entry, Run
from keras_resnet18.weights.catalogue import ALIASES, CATALOGUE

PAGE = Path(__file__).with_name("reference.md")

_TOP = """# Reference

Made by `python docs/reference.py` from the package itself; do not edit.

Bad input is one line on standard error and exit status 1. A command line that cannot be parsed ends
with 2, an interruption with 130.
"""


def page() -> str:
    """The page as Markdown."""
    parts = [_TOP, "## Commands\n", *_commands(), "## Recipe keys\n", *_recipe()]
    parts += ["## Files of a run\n", *_files(), "## Published weights\n", *_weights()]
    return "\n".join(parts)


def _commands() -> Iterator[str]:
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option"]
        usage = " ".join([name, *(_usage(argument) for argument in arguments)])
        yield f"### `keras-resnet18 {usage}`\n"
        yield f"{inspect.cleandoc(command.help)}\n"
        rows = [(f"`{_usage(x)}`", x.help) for x in arguments if getattr(x, "help", None)]
        rows += [(f"`{_option(x)}`", x.help) for x in options if x.name != "help"]
        if rows:
            yield _table(("", "what it says"), rows)


def _usage(argument: Any) -> str:
    text = argument.metavar or argument.name.upper()
    text = text if argument.required else f"[{text}]"
    return f"{text}…" if argument.nargs == -1 else text


def _option(option: Any) -> str:
    name = ", ".join(option.opts)
    if option.is_flag:
        return name
    return f"{name} {option.metavar or '|'.join(_choices(option.type_descriptor.annotation))}"


def _choices(annotation: Any) -> Iterator[str]:
    """The strings of a Literal, also in a union."""
    if isinstance(annotation, str):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _choices(inner)


def _recipe() -> Iterator[str]:
    yield "`--set KEY=VALUE` changes one of them; a recipe is a TOML file of them.\n"
    tables = {"network": Network, "optimizer": Optimizer, "augment": Augment, "finetune": Finetune}
    rows = []
    for prefix, kind in (("", Recipe), *((f"{name}.", x) for name, x in tables.items())):
        says = _attributes(kind)
        for field in dataclasses.fields(kind):
            if field.name not in tables:
                default = "none" if field.default is None else f"`{field.default}`"
                rows.append((f"`{prefix}{field.name}`", default, says[field.name]))
    yield _table(("key", "default", "what it sets"), rows)


def _attributes(kind: type) -> dict[str, str]:
    """What a dataclass's docstring says of each attribute."""
    _, _, text = inspect.getdoc(kind).partition("Attributes:\n")  # type: ignore[union-attr]
    text = re.split(r"\n\S", text)[0]
    found = re.findall(r"^ {4}(\w+): (.*?)(?=^ {4}\w+: |\Z)", text, re.DOTALL | re.MULTILINE)
    return {name: " ".join(said.split()) for name, said in found}


def _files() -> Iterator[str]:
    rows = [(f"`{x.name}`", x.holds) for x in vars(Run).values() if isinstance(x, Entry)]
    yield _table(("file", "what it holds"), rows)


def _weights() -> Iterator[str]:
    yield (
        "`--weights` and `build_resnet18(weights=…)` take these names; `imagenet` is "
        f"`{ALIASES['imagenet']}`. Top-1 on ImageNet's validation images, as published.\n"
    )
    rows = [
        (f"`{x.name}`", x.network, "" if x.top1 is None else f"{x.top1:.2f} %", x.license)
        for x in CATALOGUE
    ]
    yield _table(("name", "network", "top-1", "license"), rows)


def _table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [titles, ("---",) * len(titles), *rows]
    cells = ([" ".join(cell.replace("|", "\\|").split()) for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
