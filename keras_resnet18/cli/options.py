"""Arguments, options and console of several verbs, and messages in terms of options."""

from __future__ import annotations

import ast
import re
import shlex
from typing import Annotated, Any

import typer
from rich.console import Console

RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="A folder that `train` wrote, or hf:OWNER/NAME, one on the Hub."
    ),
]
ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN|FILE",
        help="A run, also hf:OWNER/NAME; or a .tflite file, an .onnx file or a SavedModel.",
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        metavar="SOURCE", help="Labeled images. [default: those that the run was trained on]"
    ),
]
SOURCE = typer.Argument(
    metavar="SOURCE",
    help="A folder of images (class/… or train|val|test/class/…), a .csv or .tsv manifest, a "
    "folder of IDX files, hf:OWNER/NAME, tfds:NAME, or digits.",
    show_default=False,
)
SplitSeedOption = Annotated[
    int,
    typer.Option(metavar="N", help="Seed of the random split."),
]


# Options that replace Python's arguments in messages
_OPTIONS = {
    "data": "--data",
    "dedupe": "--dedupe",
    "features": "--features",
    "on_bad_image": "--on-bad-image",
    "out": "--out",
    "overwrite": "--overwrite",
    "resume": "--resume",
    "settings": "--set",
}
_TEXT = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""


def in_options(message: str) -> str:
    """Replace Python arguments and calls in a message by options and commands.

    `overwrite=True` becomes `--overwrite`, `train(resume='my run')` becomes
    `keras-resnet18 train --resume 'my run'`, `data=FOLDER` becomes `--data FOLDER`.
    """

    def option(found: re.Match[str]) -> str:
        name, value = _OPTIONS[found[1]], found[2]
        if value[0] in "'\"":
            value = shlex.quote(ast.literal_eval(value))
        return name if value == "True" else f"{name} {value}"

    message = re.sub(
        rf"\b(train|report|check)\(((?:\w+=)?(?:{_TEXT}))\)", r"keras-resnet18 \1 \2", message
    )
    return re.sub(rf"\b({'|'.join(_OPTIONS)})=(True\b|[A-Z]+\b|{_TEXT})", option, message)


class _Console(Console):
    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(in_options(x) if isinstance(x, str) else x for x in objects), **options)


def console() -> Console:
    """A console that prints plain, unwrapped lines, the same to a terminal and to a file."""
    return _Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
