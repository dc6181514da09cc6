"""Speed of a training step on a CPU: ours, the stock model, the plain Keras way, and torch.

    python training/benchmarks/train_step.py [--size 224] [--batch 32] [--rounds 3] [--seconds 15]
                        [--dtypes float32 bfloat16] [--torch-python PYTHON] [--rows FILE]

Each case is a process of its own that keeps its compiled step, and the cases run in turn. All train
ResNet-18 with 1,000 classes on one batch of pixels that lies in memory, by SGD with Nesterov
momentum; ours and torch's with weight decay and label smoothing too. Of each dtype a table is
printed: images per second, ratios round by round, and the highest memory of the process. Each case
of a round is a row in --rows, and whole rounds are not measured again.

torch is not a dependency of this project: name a Python that has it, or its cases fail and are left
out. `ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2` lets all of them compute as on a CPU without
AVX512. On a machine that others use, `chrt -r 5` keeps them away.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from in_turn import answer, command, compare, dtypes, options, process_peak_mib, text
from rows import Row

from keras_resnet18.machine import prepare_tensorflow

CASES = {
    "ours": "ours: `train`'s, with the training twin",
    "stock": "the same with the stock model",
    "plain": "Keras as its guides show it",
    "torch-eager": "torch, eager",
    "torch-compile": "torch, `torch.compile`",
}


class KerasStep:
    """`model.fit` of ResNet-18 on TensorFlow.

    Args:
        case: `"ours"` is what `train` fits; `"stock"` is that without the twin; `"plain"` has the
            defaults of `compile` and of the environment.
        dtype: `"float32"`, or `"bfloat16"` for the mixed policy.
        size: Height and width, pixels.
        batch: Images per step.
    """

    def __init__(self, case: str, dtype: str, size: int, batch: int) -> None:
        if case != "plain":
            prepare_tensorflow()
        import keras
        import numpy as np
        import tensorflow as tf

        from keras_resnet18 import build_resnet18, training_twin
        from keras_resnet18.fit.phases import compile_model
        from keras_resnet18.recipe import Recipe

        keras.utils.set_random_seed(0)
        keras.config.set_dtype_policy(dtype if dtype == "float32" else f"mixed_{dtype}")
        self.model = build_resnet18(input_shape=(size, size, 3))
        if case == "plain":
            optimizer = keras.optimizers.SGD(1e-3, momentum=0.9, nesterov=True)
            loss = "sparse_categorical_crossentropy"
            self.model.compile(optimizer, loss, metrics=["accuracy"])
        else:
            if case == "ours":
                self.model = training_twin(self.model)
            # the rate stays low here, in the warm-up of a long training
            compile_model(self.model, Recipe(epochs=90), steps_per_epoch=10_000)
        random = np.random.default_rng(0)
        images = random.integers(0, 256, (batch, size, size, 3), np.uint8)
        labels = random.integers(0, 1000, batch)
        self.batches = tf.data.Dataset.from_tensors((images, labels)).cache().repeat()

    def run(self, steps: int) -> float:
        """Seconds of so many steps, as one epoch."""
        import keras

        clock: dict[str, float] = {}
        callback = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: clock.update(start=time.perf_counter()),
            on_epoch_end=lambda epoch, logs: clock.update(end=time.perf_counter()),
        )
        self.model.fit(self.batches, steps_per_epoch=steps, verbose=0, callbacks=[callback])
        return clock["end"] - clock["start"]

    def facts(self) -> dict[str, Any]:
        """Versions, and the settings that change a step."""
        import keras
        import tensorflow as tf

        return {
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default"),
        }

    def peak_mib(self) -> float:
        """Of the process."""
        return process_peak_mib()


def make_step(case: str, dtype: str, size: int, batch: int) -> Any:
    """The step of a case."""
    if not case.startswith("torch"):
        return KerasStep(case, dtype, size, batch)
    from torch_step import TorchStep

    return TorchStep("cpu", dtype, compiled=case == "torch-compile", size=size, batch=batch)


RIVALS = {
    "to plain Keras": lambda name: CASES["plain"],
    "to torch, eager": lambda name: CASES["torch-eager"],
    "to torch.compile": lambda name: CASES["torch-compile"],
}


def main() -> None:
    parser = options(__doc__, batch=32, rounds=3, seconds=15.0, rows="train-step.jsonl")
    parser.add_argument("--dtypes", nargs="+", default=[], choices=["float32", "bfloat16"])
    arguments = parser.parse_args()
    if arguments.case:
        answer(make_step, *arguments.case, arguments.size, arguments.batch)
        return
    limits = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
    isa = " ".join(f"{name}={os.environ[name]}" for name in limits if name in os.environ)
    rows: list[Row] = []
    for dtype in arguments.dtypes or dtypes():
        rows += compare(
            {CASES[case]: command(__file__, arguments, case, dtype) for case in CASES},
            # torch's Python need not have this package
            {"PYTHONPATH": str(Path(__file__).parents[2])},
            arguments,
            {"benchmark": "train_step", "dtype": dtype, "isa": isa},
        )
    print(f"\n{text(rows, RIVALS)}")


if __name__ == "__main__":
    main()
