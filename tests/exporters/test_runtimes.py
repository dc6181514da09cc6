"""How old a runtime may be that opens our files, by the versions of their operators."""

from __future__ import annotations

import re
from pathlib import Path

from ai_edge_litert.tools import flatbuffer_utils

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"

# The first TensorFlow Lite that knows each version of an operator, from TensorFlow's
# lite/tools/versioning/runtime_version.cc.
FIRST = {
    "ADD": {1: "1.5", 2: "1.14", 3: "2.4"},
    "CONV_2D": {1: "1.5", 2: "1.14", 3: "1.14", 4: "2.3", 5: "2.4", 6: "2.9"},
    "DEQUANTIZE": {1: "1.13", 2: "1.14", 3: "1.15", 4: "2.2", 5: "2.7"},
    "FULLY_CONNECTED": {1: "1.5", 4: "1.14", 5: "2.0", 6: "2.1", 7: "2.3", 9: "2.3", 10: "2.11"},
    "MAX_POOL_2D": {1: "1.5", 2: "1.14", 3: "2.3"},
    "MEAN": {1: "1.6", 2: "1.14", 3: "2.4"},
    "MUL": {1: "1.5", 2: "1.14", 3: "1.15", 4: "2.3"},
    "PAD": {1: "1.5", 2: "1.14", 3: "2.4"},
    "QUANTIZE": {1: "1.14", 2: "1.15", 3: "2.7"},
    "SOFTMAX": {1: "1.5", 2: "1.14", 3: "2.3"},
    "SPACE_TO_DEPTH": {1: "1.5", 2: "1.14"},
    "SUB": {1: "1.6", 2: "1.14", 3: "2.3"},
    "CAST": {1: "1.5", 2: "2.7", 3: "2.8", 4: "2.9"},
}


def oldest_runtime(path: Path) -> tuple[int, ...]:
    model = flatbuffer_utils.read_model(str(path))
    operators = vars(flatbuffer_utils.schema_fb.BuiltinOperator).items()
    names = {code: name for name, code in operators}
    needed = [
        FIRST[names[max(code.builtinCode, code.deprecatedBuiltinCode)]][code.version]
        for code in model.operatorCodes
    ]
    return max(tuple(map(int, version.split("."))) for version in needed)


def test_no_file_needs_a_newer_runtime_than_the_page_says(any_file):
    name = {"tflite": "model.tflite"}.get(
        any_file.report.format, f"model-{any_file.report.format.removeprefix('tflite-')}.tflite"
    )
    rows = [line for line in PAGE.read_text().splitlines() if f"`{name}`" in line]
    assert len(rows) == 1
    documented = re.search(r"TensorFlow Lite (\d+)\.(\d+)", rows[0])
    assert oldest_runtime(any_file.path) == tuple(map(int, documented.groups()))
