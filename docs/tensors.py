"""Writes what exported files take and give into android.md and ios.md, as read from the files.

    python docs/tensors.py saved_models/demo/export/model{,-int8}.tflite

`keras-resnet18 demo` makes those two. tests/test_docs.py fails if the pages say anything else.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ai_edge_litert.interpreter import Interpreter

from keras_resnet18.tflite_file import contents

PAGES = tuple(Path(__file__).with_name(name) for name in ("android.md", "ios.md"))

_BEGIN = "<!-- Made by docs/tensors.py; do not edit. -->\n"
_END = "<!-- End of what docs/tensors.py made. -->\n"


def table(paths: Sequence[Path]) -> str:
    """A Markdown table of the files' tensors, and a line on the labels of each."""
    lines = [
        "| file | | signature's name | tensor's name | dtype | shape | quantisation |",
        "|---|---|---|---|---|---|---|",
    ]
    labels = []
    for path in paths:
        signature = Interpreter(str(path)).get_signature_runner("serving_default")
        for role, tensors in (
            ("input", signature.get_input_details()),
            ("output", signature.get_output_details()),
        ):
            lines += [_row(path, role, name, details) for name, details in tensors.items()]
        names = contents(path).labels or []
        labels.append(f"{len(names)} in `{path.name}` ({', '.join(names)})")
    lines += [
        "",
        f"Labels, in the order of the output: {'; '.join(labels)}.",
        "They lie in `labels.txt`, a line each, UTF-8, in the zip archive behind the model.",
    ]
    return "".join(f"{line}\n" for line in lines)


def with_table(page: str, new: str) -> str:
    """The page with its generated part replaced."""
    part = re.compile(re.escape(_BEGIN) + ".*?" + re.escape(_END), re.DOTALL)
    return part.sub(lambda _: f"{_BEGIN}{new}{_END}", page)


def _row(path: Path, role: str, name: str, details: dict[str, Any]) -> str:
    scale, zero_point = details["quantization"]
    quantisation = f"scale {scale:g}, zero point {zero_point}" if scale else "none"
    cells = (
        f"`{path.name}`",
        role,
        f"`{name}`",
        f"`{details['name']}`",
        details["dtype"].__name__,
        str(tuple(int(size) for size in details["shape"])),
        quantisation,
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    made = table([Path(argument) for argument in sys.argv[1:]])
    for page in PAGES:
        page.write_text(with_table(page.read_text(encoding="utf-8"), made), encoding="utf-8")
