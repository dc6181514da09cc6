"""How long each stage of our float32 and int8 files takes in LiteRT, on one thread.

    python training/benchmarks/stages.py FILES [--rounds 3] [--seconds 5]

FILES is the folder that `inference.py --files` keeps, of the network at 224 px. LiteRT's Python
package gives no profile by operators, so graphs that end early are timed: a stage takes the
difference of two graphs that end around it. The GFLOP/s are the convolutions' alone.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from inference import TFLITE, median_s
from rows import at_least_one, machine, machine_in_words, table

# Multiply-adds of the paper's network
MACS = {
    "stem": 118_013_952,
    "stage1": 462_422_016,
    "stage2": 411_041_792,
    "stage3": 411_041_792,
    "stage4": 411_041_792,
    "head": 512_000,
}
FILES = {"float32": TFLITE[None], "int8": TFLITE["int8"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path)
    parser.add_argument("--rounds", type=at_least_one, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a file in a round")
    arguments = parser.parse_args()
    times: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            (kind, part): _invoker(cut)
            for kind, name in FILES.items()
            for part, cut in _cut_files(arguments.files / name, Path(folder)).items()
        }
        for _ in range(arguments.rounds):
            for key, run in runs.items():
                calls = max(10, round(arguments.seconds / len(MACS) / median_s(run, 5)))
                times.setdefault(key, []).append(1000 * median_s(run, calls))
    lines, before = [], dict.fromkeys(FILES, 0.0)
    for part, macs in MACS.items():
        cells = [part]
        for kind in FILES:
            end = statistics.median(times[kind, part])
            spent, before[kind] = end - before[kind], end
            cells += [f"{spent:.2f}", f"{2 * macs / 1e6 / spent:.0f}" if spent > 0 else ""]
        lines.append(cells)
    titles = [f"{kind}, {unit}" for kind in FILES for unit in ("ms", "GFLOP/s")]
    print(f"{table(['', *titles], lines)}\n\n{machine_in_words([machine()])}")


def _cut_files(path: Path, folder: Path) -> dict[str, Path]:
    """Copies of a .tflite file that end after the stem, after each stage, and whole."""
    from ai_edge_litert.tools import flatbuffer_utils

    ends: list[int] = []
    sums = 0
    model = flatbuffer_utils.read_model(str(path))
    for i, operator in enumerate(model.subgraphs[0].operators, 1):
        name = flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex)
        if name == "MAX_POOL_2D" and not ends:  # the stem's end
            ends.append(i)
        elif name == "ADD" and ends:
            sums += 1
            if sums % 2 == 0:  # a stage's end
                ends.append(i)
    ends.append(len(model.subgraphs[0].operators))
    cut = {}
    for part, end in zip(MACS, ends, strict=True):
        model = flatbuffer_utils.read_model(str(path))
        graph = model.subgraphs[0]
        graph.operators = graph.operators[:end]
        graph.outputs = graph.operators[-1].outputs
        model.signatureDefs = []  # it names the output that is gone
        cut[part] = folder / f"{part}-{path.name}"
        flatbuffer_utils.write_model(model, str(cut[part]))
    return cut


def _invoker(path: Path) -> Callable[[], None]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (image,) = interpreter.get_input_details()
    interpreter.set_tensor(image["index"], np.zeros(image["shape"], np.uint8))
    return interpreter.invoke


if __name__ == "__main__":
    main()
