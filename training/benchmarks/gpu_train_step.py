"""Training on one NVIDIA GPU: our step on JAX beside torch's, and two epochs that stay finite.

    KERAS_BACKEND=jax python training/benchmarks/gpu_train_step.py [--size 224] [--batch 256]
                [--rounds 5] [--seconds 3] [--minutes 7.5] [--torch-python PYTHON] [--rows FILE]
                [--small]

Needs keras, jax and safetensors, and torch for its half of the table; no TensorFlow. Without a GPU
it runs on the CPU, for which `--small` is meant.

First, `model.fit` on NumPy batches for two epochs, in float16 with loss scaling and in bfloat16:
losses must be finite and fall, and probabilities be float32. Then the steps, as in_turn.py times
them. Each case of a round is a row in --rows, and a table ends it. Memory is what the framework's
own allocator held at most; JAX's includes the trials of its compiler.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from in_turn import answer, command, compare, options, process_peak_mib, text
from rows import Row

FRAMEWORKS = ("jax", "torch-eager", "torch-compile")
DTYPES = ("float16", "bfloat16")
SMALL = {"size": 32, "batch": 8, "rounds": 2, "seconds": 1.0}


class JaxStep:
    """`model.fit` of ResNet-18 as `train` compiles it, on one batch that lies on the device."""

    def __init__(self, dtype: str, size: int, batch: int) -> None:
        import jax
        import keras
        import numpy as np

        from keras_resnet18 import build_resnet18
        from keras_resnet18.fit.phases import compile_model
        from keras_resnet18.recipe import Recipe

        keras.utils.set_random_seed(0)
        keras.config.set_dtype_policy(f"mixed_{dtype}")
        self.model = build_resnet18(input_shape=(size, size, 3))
        # the thousand images of each of ImageNet's classes: the rate stays low here, in the warm-up
        compile_model(self.model, Recipe(epochs=90), steps_per_epoch=1_281_167 // batch)
        random = np.random.default_rng(0)
        images = random.integers(0, 256, (batch, size, size, 3), np.uint8)
        labels = random.integers(0, 1000, batch).astype(np.int32)
        self.batch = jax.device_put((images, labels))

    def run(self, steps: int) -> float:
        """Seconds of so many steps, as one epoch."""
        clock = epoch_clock()
        self.model.fit(
            (self.batch for _ in range(steps + 1)),  # Keras looks at one more
            steps_per_epoch=steps,
            verbose=0,
            callbacks=[clock],
        )
        return clock.seconds

    def facts(self) -> dict[str, Any]:
        """Device, versions, and which policy is recommended here."""
        return jax_facts()

    def peak_mib(self) -> float:
        """Of the GPU's memory; on a CPU, of the process."""
        return jax_peak_mib()


def epoch_clock() -> Any:
    """A callback whose `seconds` are those of the last epoch.

    It sees no single step: Keras would then wait for each.
    """
    import keras

    class EpochClock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.start = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # logs are numbers by then
            self.seconds = time.perf_counter() - self.start

    return EpochClock()


def jax_facts() -> dict[str, Any]:
    """Device, versions, and which policy is recommended here."""
    import jax
    import keras

    from keras_resnet18 import recommended_policy

    device, policy = jax.devices()[0], recommended_policy()
    return {
        "device": device.device_kind if device.platform != "cpu" else "CPU",
        "compute_capability": getattr(device, "compute_capability", None),
        "jax": jax.__version__,
        "keras": keras.__version__,
        "recommended_policy": str(policy),
        "reason": policy.reason,
    }


def jax_peak_mib() -> float:
    """Highest use of the GPU's memory so far, MiB; on a CPU, of the process."""
    import jax

    statistics_ = jax.devices()[0].memory_stats()
    return statistics_["peak_bytes_in_use"] / 2**20 if statistics_ else process_peak_mib()


def two_epochs(dtype: str, size: int, batch: int) -> dict[str, Any]:
    """Trains ResNet-18 for two epochs on NumPy batches of ten easy classes, and looks at it."""
    import keras
    import numpy as np

    from keras_resnet18 import build_resnet18
    from keras_resnet18.fit.phases import compile_model
    from keras_resnet18.recipe import Optimizer, Recipe

    random = np.random.default_rng(0)
    labels = random.integers(0, 10, 16 * batch)
    images = random.integers(0, 100, (len(labels), size, size, 3), np.uint8)
    for image, label in zip(images, labels, strict=True):  # a bright band, lower for each class
        image[label * size // 10 : (label + 1) * size // 10] += 120
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(f"mixed_{dtype}")
    model = build_resnet18(input_shape=(size, size, 3), classes=10, stem="small_stride2")
    optimizer = Optimizer(learning_rate=0.02, warmup_epochs=0.5)
    compile_model(model, Recipe(epochs=2, optimizer=optimizer), steps_per_epoch=16)
    losses: list[float] = []
    each_step = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda step, logs: losses.append(logs["loss"])
    )
    history = model.fit(
        images, labels, batch_size=batch, epochs=2, verbose=0, callbacks=[each_step]
    ).history
    probabilities = model.predict_on_batch(images[:batch])
    body = model.get_layer("stage4_block2_out")
    scale = getattr(model.optimizer, "dynamic_scale", None)
    row = {
        "training": dtype,
        "size": size,
        "batch": batch,
        "loss": history["loss"],
        "accuracy": history["accuracy"],
        "steps": len(losses),
        "finite": bool(np.isfinite(losses).all() and np.isfinite(probabilities).all()),
        "feature_dtype": str(body.compute_dtype),
        "softmax_dtype": str(probabilities.dtype),
        "sums_to_one_within": float(np.abs(probabilities.sum(axis=1) - 1).max()),
        "loss_scale": None if scale is None else float(scale),
        "peak_mib": round(jax_peak_mib()),
        **jax_facts(),
    }
    row["passed"] = (
        row["finite"]
        and history["loss"][1] < history["loss"][0]
        and row["feature_dtype"] == dtype
        and row["softmax_dtype"] == "float32"
        and row["sums_to_one_within"] < 1e-5
        and (scale is not None) == (dtype == "float16")
    )
    return row


def torch_step(framework: str, dtype: str, size: int, batch: int) -> Any:
    """torch's step, on the GPU if it has one."""
    import torch
    from torch_step import TorchStep

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return TorchStep(device, dtype, compiled=framework == "torch-compile", size=size, batch=batch)


def main() -> None:
    parser = options(__doc__, batch=256, rounds=5, seconds=3.0, rows="gpu-train-step.jsonl")
    parser.set_defaults(minutes=7.5)
    parser.add_argument("--small", action="store_true", help="32 px: a try on a CPU")
    arguments = parser.parse_args()
    if arguments.small:
        vars(arguments).update(SMALL)
    if arguments.case:
        _case(*arguments.case, arguments.size, arguments.batch)
    else:
        _compare(arguments)


def _case(framework: str, dtype: str, size: int, batch: int) -> None:
    if framework == "train":
        print(json.dumps(two_epochs(dtype, min(size, 64), batch)))
    elif framework == "jax":
        answer(JaxStep, dtype, size, batch)
    else:
        answer(torch_step, framework, dtype, size, batch)


def _compare(arguments: argparse.Namespace) -> None:
    end = time.monotonic() + 60 * arguments.minutes
    environment = {
        "KERAS_BACKEND": "jax",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several processes share the card
        "PYTHONPATH": str(Path(__file__).parents[2])
        + os.pathsep
        + os.environ.get("PYTHONPATH", ""),
    }

    trainings = []
    for dtype in DTYPES:
        words = command(__file__, arguments, "train", dtype)
        row = {"training": dtype, **_training(words, environment, end - time.monotonic())}
        trainings.append(row)
        print(json.dumps(row), flush=True)

    arguments.minutes = (end - time.monotonic()) / 60
    commands = {
        f"{name}, {dtype}": command(__file__, arguments, name, dtype)
        for name in FRAMEWORKS
        for dtype in DTYPES
    }
    rows = compare(commands, environment, arguments, {"benchmark": "gpu_train_step"})
    _print_table(rows, trainings)
    if not all(row.get("passed") for row in trainings) or commands.keys() != {
        row["case"] for row in rows
    }:
        sys.exit(1)


def _training(command: list[str], environment: dict[str, str], patience: float) -> dict[str, Any]:
    try:
        done = subprocess.run(
            command,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {patience:.0f} s", "passed": False}
    if done.returncode:
        return {"error": done.stderr.strip()[-2000:], "passed": False}
    row: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return row


def _print_table(rows: list[Row], trainings: list[Row]) -> None:
    facts = {name: row[name] for row in reversed(rows) for name in row}
    versions = ", ".join(f"{name} {facts[name]}" for name in ("jax", "torch") if name in facts)
    print(f"\nResNet-18: {facts.get('device')}, {versions}, Python {platform.python_version()}\n")
    print(text(rows, {"to torch.compile": lambda x: f"torch-compile, {x.partition(', ')[2]}"}))
    print()
    for row in trainings:
        if "error" in row:
            print(f"two epochs in {row['training']}: failed: {row['error'].splitlines()[-1]}")
            continue
        print(
            f"two epochs in {row['training']}, {row['size']} px: "
            f"loss {row['loss'][0]:.3f}, {row['loss'][1]:.3f}; "
            f"{'all finite' if row['finite'] else 'NOT FINITE'}; features {row['feature_dtype']}, "
            f"softmax {row['softmax_dtype']}; {'passed' if row['passed'] else 'FAILED'}"
        )
    if "recommended_policy" in facts:
        print(f"recommended_policy(): {facts['recommended_policy']}, {facts['reason']}")


if __name__ == "__main__":
    main()
