"""Speed of training from a folder of JPEGs, reading and step together: ours, Keras' way, and torch.

    python training/benchmarks/epoch.py --folder PHOTOS [--size 224] [--batch 32] [--rounds 5]
                        [--seconds 20] [--dtypes float32 bfloat16] [--torch-python PYTHON]
                        [--mosaics N]

PHOTOS is a folder with a folder for each class. Each case is a process of its own that reads,
varies and trains without an end, and the cases run in turn; a step is timed from the third batch
on, with the pipeline full. All train ResNet-18 with 1,000 outputs by SGD with Nesterov momentum.

- ours: what `train` does: its pipeline (random window of 35 to 100 % of the area, mirrored half of
  the time) and its step, with the training twin
- Keras: `image_dataset_from_directory`, `RandomCrop`, `RandomFlip` and `fit`, as its guides show
- torch: `DataLoader` with a worker for each CPU, Pillow, a random-resized crop, channels last, SGD;
  eager and with `torch.compile`

`--mosaics N` trains on N images of 640×480, each of nine of the photos, whose files are about as
large as ImageNet's. A table is printed for each dtype: images per second, ratios round by round,
memory. torch's cases need a Python that has torch and Pillow; without one they are left out. On a
machine that others use, `chrt -r 5` keeps them away.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from in_turn import answer, compare, table
from input_pipeline import AREAS, augmented, keras_batches, make_mosaics, train_batches
from train_step import KerasStep

from keras_resnet18.machine import environment

CASES = {
    "ours": "ours: `train`",
    "plain": "Keras as its guides show it",
    "torch-eager": "torch `DataLoader`, eager step",
    "torch-compile": "torch `DataLoader`, `torch.compile`",
}
FILL = 3  # batches that fill the pipeline and are not timed


class KerasEpoch(KerasStep):
    """`model.fit` of ResNet-18 on a folder of photos.

    Args:
        case: `"ours"` or `"plain"`.
        dtype: `"float32"`, or `"bfloat16"` for the mixed policy.
        folder: Photos, a folder for each class.
        size: Height and width, pixels.
        batch: Images per step.
    """

    def __init__(self, case: str, dtype: str, folder: str, size: int, batch: int) -> None:
        super().__init__(case, dtype, size, batch)
        if case == "plain":
            labelled = keras_batches(folder, (size, size), batch, labels="inferred")
            self.batches = labelled
            return
        from keras_resnet18 import open_source
        from keras_resnet18.preprocess import Preprocess

        split = open_source(Path(folder)).splits["train"]
        spec = Preprocess(size=(size, size))
        self.batches = train_batches(split, functools.partial(augmented, spec=spec), batch)

    def run(self, steps: int) -> float:
        """Seconds of so many steps, after the first ones, which fill the pipeline."""
        import keras

        ends: list[float] = []
        callback = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: ends.append(time.perf_counter())
        )
        self.model.fit(self.batches, steps_per_epoch=FILL + steps, verbose=0, callbacks=[callback])
        return ends[-1] - ends[FILL - 1]


def torch_epoch(case: str, dtype: str, folder: str, size: int, batch: int) -> Any:
    """The step of `torch_step.TorchStep` on photos of a folder."""
    import torch
    from torch_pipeline import torch_batches
    from torch_step import TorchStep

    class TorchEpoch(TorchStep):
        """A `DataLoader` before the step. Labels are random: they cost nothing."""

        def __init__(self) -> None:
            super().__init__("cpu", dtype, compiled=case == "torch-compile", size=size, batch=batch)
            self.loader, self.about = torch_batches(folder, size, batch, AREAS, False)

        def run(self, steps: int) -> float:
            for number in range(FILL + steps):
                if number == FILL:
                    start = time.perf_counter()
                self.images = next(self.loader).to(memory_format=torch.channels_last)
                self._step()
            self.sums.tolist()
            return time.perf_counter() - start

        def facts(self) -> dict[str, Any]:
            return {**super().facts(), **self.about}

    return TorchEpoch()


def make_step(case: str, dtype: str, folder: str, size: str, batch: str) -> Any:
    """The step of a case."""
    make = torch_epoch if case.startswith("torch") else KerasEpoch
    return make(case, dtype, folder, int(size), int(batch))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", required=True, help="photos, a folder for each class")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each case in each round")
    parser.add_argument("--minutes", type=float, default=60.0, help="no round ends after these")
    parser.add_argument("--dtypes", nargs="+", default=[], choices=["float32", "bfloat16"])
    parser.add_argument("--torch-python", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--mosaics", type=int, metavar="N", help="read N mosaics of the photos")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        facts = (arguments.folder, str(arguments.size), str(arguments.batch))
        answer(make_step, *arguments.case, *facts)
        return
    with tempfile.TemporaryDirectory() as folder:
        if arguments.mosaics:
            make_mosaics(Path(arguments.folder), Path(folder), arguments.mosaics)
            arguments.folder = folder
        measure(arguments)


def measure(arguments: argparse.Namespace) -> None:
    """Runs the cases in turn, and prints a table for each dtype."""
    facts = environment()
    flags = facts["cpu_flags"]
    fast_bfloat16 = "avx512_bf16" in flags or "amx_bf16" in flags
    print(f"{facts['cpu']}, {' '.join(flags)}, {facts['threads']} threads")
    for dtype in arguments.dtypes or ["float32", *(["bfloat16"] if fast_bfloat16 else [])]:
        cases = compare(
            {CASES[case]: _command(case, dtype, arguments) for case in CASES},
            # torch's Python need not have this package
            {"PYTHONPATH": str(Path(__file__).parents[2])},
            batch=arguments.batch,
            rounds=arguments.rounds,
            seconds=arguments.seconds,
            minutes=arguments.minutes,
        )
        today = datetime.datetime.now(datetime.UTC).date()
        print(f"\n{dtype}, {arguments.size} px, batch {arguments.batch}, {today}\n")
        rivals = {
            "to Keras": lambda name: CASES["plain"],
            "to torch, eager": lambda name: CASES["torch-eager"],
            "to torch.compile": lambda name: CASES["torch-compile"],
        }
        print(table(cases, rivals, arguments.batch), "\n", flush=True)


def _command(case: str, dtype: str, arguments: argparse.Namespace) -> list[str]:
    python = arguments.torch_python if case.startswith("torch") else sys.executable
    size, batch = str(arguments.size), str(arguments.batch)
    words = ["--case", case, dtype, "--folder", arguments.folder, "--size", size, "--batch", batch]
    return [python, __file__, *words]


if __name__ == "__main__":
    main()
