"""Training and evaluation from a folder of JPEGs, reading included: ours, Keras' way, and torch.

    python training/benchmarks/epoch.py --folder PHOTOS [--size 224] [--batch 32] [--rounds 5]
                        [--seconds 20] [--dtypes float32 bfloat16] [--torch-python PYTHON]
                        [--mosaics N] [--rows FILE]

PHOTOS is a folder with a folder for each class. Each case is a process of its own, and the cases
run in turn. A case that trains reads, varies and trains without an end, and a step is timed from
the fourth batch on, with the pipeline full. All train ResNet-18 with 1,000 outputs by SGD with
Nesterov momentum.

- ours: what `train` does: its pipeline (random window of 35 to 100 % of the area, mirrored half of
  the time) and its step, with the training twin
- Keras: `image_dataset_from_directory`, `RandomCrop`, `RandomFlip` and `fit`, as its guides show
- torch: `DataLoader` with a worker for each CPU, Pillow, a random-resized crop, channels last, SGD;
  eager and with `torch.compile`
- evaluation: `keras_resnet18.evaluate` on all photos, as a whole, with a run that has trained for
  an epoch on ten photos of each class; and torch's `DataLoader`, model and count of right answers
  on the same photos. The time of such an evaluation is that of all photos, however few the seconds.

`--mosaics N` reads N images of 640×480, each of nine of the photos, whose files are about as large
as ImageNet's. A table is printed for each dtype: images per second, ratios round by round, memory.
Each case of a round is a row in --rows; whole rounds are not measured again, and a killed
measurement goes on with the next. torch's cases need a Python that has torch and Pillow; without
one they are left out. On a machine that others use, `chrt -r 5` keeps them away.
"""

from __future__ import annotations

import csv
import functools
import tempfile
import time
from pathlib import Path
from typing import Any

from in_turn import answer, command, compare, dtypes, options, process_peak_mib, text
from input_pipeline import (
    AREAS,
    about_photos,
    augmented,
    keras_batches,
    photos_of,
    train_batches,
)
from rows import Row, at_least_one
from train_step import KerasStep

CASES = {
    "ours": "ours: `train`",
    "plain": "Keras as its guides show it",
    "torch-eager": "torch `DataLoader`, eager step",
    "torch-compile": "torch `DataLoader`, `torch.compile`",
    "evaluate": "ours: `evaluate`",
    "torch-evaluate": "torch, evaluation",
}
RIVALS = {
    "to Keras": lambda name: "" if "evalua" in name else CASES["plain"],
    "to torch, eager": lambda name: CASES["torch-evaluate" if "evalua" in name else "torch-eager"],
    "to torch.compile": lambda name: "" if "evalua" in name else CASES["torch-compile"],
}
FILL = 3  # batches that fill the pipeline and are not timed
OF_EACH_CLASS = 10  # photos that the evaluated run is trained on


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
            self.batches = keras_batches(folder, (size, size), batch, labels="inferred")
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


class Evaluation:
    """`evaluate` of a run on all photos of a folder."""

    def __init__(self, dtype: str, folder: str, size: int, batch: int) -> None:
        import keras_resnet18 as kr
        from keras_resnet18.data.sources import labeled_files
        from keras_resnet18.machine import start_keras

        start_keras()
        root, images = labeled_files(Path(folder))
        self.batch, self.folder = batch, folder
        taken: dict[str, list[Path]] = {}
        for image in images:
            taken.setdefault(image.class_name, []).append((root / image.path).resolve())
        self._place = tempfile.TemporaryDirectory()
        table, out = (Path(self._place.name) / name for name in ("images.csv", "run"))
        with table.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(("path", "label"))
            for label, paths in taken.items():
                rows.writerows((path, label) for path in paths[:OF_EACH_CLASS])
        precision = dtype if dtype == "float32" else f"mixed_{dtype}"
        settings = ["epochs=1", f"image_size={size}", f"precision={precision}", "batch_size=8"]
        self._run = kr.train(table, "photos", out, settings=settings)

    def run(self, steps: int) -> float:
        """Seconds of so many batches, at the speed of an evaluation of all photos."""
        import keras_resnet18 as kr

        start = time.perf_counter()
        found = kr.evaluate(self._run, data=self.folder)
        return (time.perf_counter() - start) * steps * self.batch / found.n

    def facts(self) -> dict[str, Any]:
        """Versions."""
        import tensorflow as tf

        return {"tensorflow": tf.__version__}

    def peak_mib(self) -> float:
        """Of the process, which has trained too."""
        return process_peak_mib()


def torch_epoch(case: str, dtype: str, folder: str, size: int, batch: int) -> Any:
    """The step of `torch_step.TorchStep` on photos of a folder."""
    import torch
    from torch_pipeline import Photos, torch_batches
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

    class TorchEvaluation(TorchEpoch):
        """All photos once, in order."""

        def __init__(self) -> None:
            super().__init__()
            self.model.eval()
            self.photos = torch.utils.data.DataLoader(
                Photos(folder, size, None, False), batch, num_workers=self.about["workers"]
            )

        def run(self, steps: int) -> float:
            start, right, photos = time.perf_counter(), 0, len(self.photos.dataset)
            with torch.inference_mode():
                for images in self.photos:
                    labels = self.labels[: len(images)]
                    right += self._loss(images.to(memory_format=torch.channels_last), labels)[1]
            int(right)
            return (time.perf_counter() - start) * steps * batch / photos

    return TorchEvaluation() if case == "torch-evaluate" else TorchEpoch()


def make_step(case: str, dtype: str, folder: str, size: int, batch: int) -> Any:
    """The step of a case."""
    if case == "evaluate":
        return Evaluation(dtype, folder, size, batch)
    make = torch_epoch if case.startswith("torch") else KerasEpoch
    return make(case, dtype, folder, size, batch)


def main() -> None:
    parser = options(__doc__, batch=32, rounds=5, seconds=20.0, rows="epoch.jsonl")
    parser.add_argument("--folder", required=True, help="photos, a folder for each class")
    parser.add_argument("--dtypes", nargs="+", default=[], choices=["float32", "bfloat16"])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--mosaics", type=at_least_one, metavar="N", help="of the photos")
    arguments = parser.parse_args()
    if arguments.case:
        answer(make_step, *arguments.case, arguments.folder, arguments.size, arguments.batch)
        return
    rows: list[Row] = []
    with photos_of(arguments) as folder:
        for dtype in arguments.dtypes or dtypes():
            rows += compare(
                {
                    CASES[case]: [*command(__file__, arguments, case, dtype), "--folder", folder]
                    for case in arguments.cases
                },
                # torch's Python need not have this package
                {"PYTHONPATH": str(Path(__file__).parents[2])},
                arguments,
                {"benchmark": "epoch", "dtype": dtype, **about_photos(arguments)},
            )
    print(f"\n{text(rows, RIVALS)}")


if __name__ == "__main__":
    main()
