"""How fast a training step is: ours beside the plain Keras way and torch's.

    python training/benchmarks/train_step.py [--size 224] [--batch 32] [--rounds 3]
                                             [--torch-python PATH]

Each case is a process of its own, and the cases run in turn, so that a machine whose speed drifts
treats them alike. Printed are the median images per second of each and the ratio to the plain Keras
way, round by round. All three train the same network, 1,000 classes, with SGD and momentum, on one
batch that lies in memory. torch is no dependency of this project: name a Python that has it, or the
case is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from keras_resnet18.machine import environment, prepare_tensorflow

WARM_UP_STEPS = 3
SECONDS = 20.0


def ours(size: int, batch: int) -> float:
    """`compile_model` as `train` calls it, under the recommended policy, with oneDNN."""
    prepare_tensorflow()
    from keras_resnet18 import build_resnet18, recommended_policy
    from keras_resnet18.device import dtype_policy
    from keras_resnet18.fit.fit import compile_model
    from keras_resnet18.recipe.recipe import Recipe

    with dtype_policy(recommended_policy()):
        model = build_resnet18(input_shape=(size, size, 3))
    compile_model(model, Recipe(epochs=100), steps_per_epoch=100)
    return _keras_speed(model, size, batch)


def plain_keras(size: int, batch: int) -> float:
    """What the Keras guides show: the defaults of `compile` and of the environment."""
    import keras

    from keras_resnet18 import build_resnet18

    model = build_resnet18(input_shape=(size, size, 3))
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return _keras_speed(model, size, batch)


def torch(size: int, batch: int) -> float:
    """The same network in torch, channels last, eager, the fastest that it offers on a CPU."""
    import torch
    from torch_resnet18 import ResNet18  # in this folder

    torch.manual_seed(0)
    model = ResNet18().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (batch,))
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    bfloat16 = "avx512_bf16" in flags or "amx_bf16" in flags

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    for _ in range(WARM_UP_STEPS):
        step()
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        step()
        steps += 1
    return steps * batch / (time.perf_counter() - start)


def _keras_speed(model, size: int, batch: int) -> float:
    import keras
    import numpy as np
    import tensorflow as tf

    class Clock(keras.callbacks.Callback):
        """Counts the steps after the warm-up, and ends the training when the time is over."""

        def on_train_batch_end(self, step: int, logs=None) -> None:
            if step + 1 == WARM_UP_STEPS:
                self.start = time.perf_counter()
            elif step + 1 > WARM_UP_STEPS and time.perf_counter() - self.start > SECONDS:
                seconds = time.perf_counter() - self.start
                self.speed = (step + 1 - WARM_UP_STEPS) * batch / seconds
                self.model.stop_training = True

    rng = np.random.default_rng(0)
    images = tf.constant(rng.integers(0, 256, (batch, size, size, 3)), tf.uint8)
    labels = tf.constant(rng.integers(0, 1000, batch))
    data = tf.data.Dataset.from_tensors((images, labels)).repeat()
    clock = Clock()
    model.fit(data, steps_per_epoch=10_000, epochs=1, verbose=0, callbacks=[clock])
    return clock.speed


CASES = {"plain_keras": plain_keras, "ours": ours, "torch": torch}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torch-python", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(CASES[arguments.case](arguments.size, arguments.batch)))
        return

    facts = environment()
    print(f"{facts['cpu']}, {' '.join(facts['cpu_flags'])}, {facts['threads']} threads")
    print(f"{arguments.size} px, batch {arguments.batch}, images/s:")
    pythons = dict.fromkeys(CASES, sys.executable) | {"torch": arguments.torch_python}
    has_torch = subprocess.run(
        [pythons["torch"], "-c", "import torch"], capture_output=True, check=False
    )
    if has_torch.returncode:
        del pythons["torch"]
        print(f"torch is left out: {arguments.torch_python} does not have it")
    speeds: dict[str, list[float]] = {case: [] for case in pythons}
    for number in range(1, arguments.rounds + 1):
        for case, python in pythons.items():
            speeds[case].append(_run(python, case, arguments))
        row = "  ".join(f"{case} {values[-1]:.2f}" for case, values in speeds.items())
        print(f"round {number}: {row}", flush=True)
    for case, values in speeds.items():
        ratios = [value / plain for value, plain in zip(values, speeds["plain_keras"], strict=True)]
        print(
            f"{case:12} median {statistics.median(values):6.2f}  "
            f"to plain Keras {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


def _run(python: str, case: str, arguments: argparse.Namespace) -> float:
    size, batch = str(arguments.size), str(arguments.batch)
    command = [python, __file__, "--case", case, "--size", size, "--batch", batch]
    package = str(Path(__file__).parents[2])  # torch's Python need not have it installed
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": package}, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"the case {case} failed:\n{done.stderr}")
    return float(json.loads(done.stdout.strip().splitlines()[-1]))


if __name__ == "__main__":
    main()
