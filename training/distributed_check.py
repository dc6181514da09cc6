"""Does a training on several devices, and in two processes, follow that on one device?

    python training/distributed_check.py [FOLDER] [--epochs 6] [--source digits] [--steps-alone]

Trains ResNet-18 on Keras' JAX backend, in float32 on the CPU, by one recipe and with one global
batch: on one device, on two and four virtual ones, in two processes, and in two of which one is
killed after its first epoch; the training then goes on in one process with two devices. Prints
every epoch's losses, their largest difference from one device's, and the test accuracy, which must
lie in its interval.

A training amplifies rounding, so its losses part whatever is right. What the devices compute is
shown by the first two steps: in float64 their losses on one, two and four devices must agree to
1e-5, and the second one depends on every gradient of the first step. Beside them, in float32, one
device is compared with itself after its weights are changed by a rounding error. `--steps-alone`
leaves the trainings out. Exit 1 where what must be is not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from images import arrays

STEPS = 4  # that are shown
AGREE = 1e-5  # the losses of the first two in float64, relatively
ROUNDING = 3e-7  # relative, a few units in the last place of float32
WAIT = 3600.0  # seconds for a training, far more than it takes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("saved_models/together"))
    parser.add_argument("--source", default="digits")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--steps-alone", action="store_true", help="no trainings")
    parser.add_argument("--steps", nargs=3, help=argparse.SUPPRESS)  # of a process
    arguments = parser.parse_args()
    if arguments.steps:
        precision, rounding, out = arguments.steps
        Path(out).write_text(json.dumps(losses(precision, float(rounding))))
        return
    agree = compare_steps()
    if arguments.steps_alone:
        sys.exit(0 if agree else 1)
    new = (arguments.source, "--precision", "float32", "--epochs", str(arguments.epochs))
    folder: Path = arguments.folder
    for devices in (1, 2, 4):
        end([start(*new, "--out", folder / f"{devices}-devices", devices=devices)])
    end(start_two(*new, "--out", folder / "2-processes"))
    kill_one(folder / "killed", *new)
    end([start("--resume", folder / "killed", devices=2)])
    sys.exit(0 if compare(folder) and agree else 1)


def compare_steps() -> bool:
    """Prints losses of the first steps; whether those in float64 agree."""
    cases = {f"float64, {n} devices": (n, "float64", 0.0) for n in (1, 2, 4)}
    cases["float32, 1 device"] = (1, "float32", 0.0)
    cases["float32, 2 devices"] = (2, "float32", 0.0)
    cases["float32, 1 device, weights changed by rounding"] = (1, "float32", ROUNDING)
    print(f"| first steps | losses of {STEPS} |\n|---|---|")
    found = {}
    for name, (devices, precision, rounding) in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "losses.json"
            words = ("--steps", precision, str(rounding), str(out))
            command = [sys.executable, __file__, *words]
            subprocess.run(command, env=environment(devices), check=True)
            found[name] = json.loads(out.read_text())
        print(f"| {name} | {', '.join(f'{loss:.7f}' for loss in found[name])} |", flush=True)
    one, *others = (losses for name, losses in found.items() if name.startswith("float64"))
    worst = max(abs(other[step] / one[step] - 1) for other in others for step in (0, 1))
    print(f"\nin float64 the first two differ by {worst:.1e} at most\n")
    return worst <= AGREE


def losses(precision: str, rounding: float) -> list[float]:
    """Losses of the first steps of the recipe `digits`, without its warm-up and augmentation.

    Args:
        precision: `"float32"` or `"float64"`.
        rounding: By how much each initial weight is changed, relatively.
    """
    import jax

    jax.config.update("jax_enable_x64", precision == "float64")
    import keras
    import numpy as np

    import keras_resnet18 as kr
    from keras_resnet18.fit.phases import compile_model

    keras.config.set_floatx(precision)
    split = kr.open_source("digits").splits["train"]
    images, labels = arrays(split)
    recipe = kr.load_recipe("digits").changed(["optimizer.warmup_epochs=0"])
    seen: list[float] = []
    per_step = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda step, logs: seen.append((step + 1) * logs["loss"] - sum(seen))
    )
    with contextlib.ExitStack() as stack:
        if len(jax.devices()) > 1:
            layout = keras.distribution.DataParallel(auto_shard_dataset=False)
            stack.enter_context(layout.scope())
        keras.utils.set_random_seed(0)
        model = kr.build_resnet18(
            input_shape=images.shape[1:], classes=10, stem=recipe.network.stem
        )
        random = np.random.default_rng(0)
        change = [1 + rounding * random.standard_normal(w.shape) for w in model.get_weights()]
        model.set_weights([w * x for w, x in zip(model.get_weights(), change, strict=True)])
        compile_model(model, recipe, steps_per_epoch=len(images) // recipe.batch_size)
        count = STEPS * recipe.batch_size
        model.fit(
            images[:count].astype(precision),
            labels[:count],
            batch_size=recipe.batch_size,
            shuffle=False,
            verbose=0,
            callbacks=[per_step],
        )
    return seen


def environment(devices: int) -> dict[str, str]:
    """Keras on JAX with so many virtual devices."""
    return {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }


def start(*arguments: object, devices: int = 1) -> subprocess.Popen[bytes]:
    """A process of the command line with so many virtual devices."""
    command = [sys.executable, "-m", "keras_resnet18", "train", *map(str, arguments)]
    print("$", *command[2:], flush=True)
    return subprocess.Popen(command, env=environment(devices))


def start_two(*arguments: object) -> list[subprocess.Popen[bytes]]:
    """Two processes of one training."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    flags = ("--distributed", "--coordinator", address, "--processes", 2, "--process")
    return [start(*arguments, *flags, index) for index in range(2)]


def end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.wait(WAIT):
            sys.exit(f"a training ended with {process.returncode}")


def kill_one(out: Path, *arguments: object) -> None:
    """Kills one of two processes when an epoch is over; says how soon and how the other ends."""
    first, second = start_two(*arguments, "--out", out)
    while not (out / "history.csv").is_file():
        if first.poll() is not None:
            sys.exit("a training ended before it could be killed")
        time.sleep(1)
    second.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    status = first.wait(WAIT)
    print(f"the other process ended with {status} after {time.monotonic() - killed:.1f} s")
    if status == 0:
        sys.exit("a training with a killed process must not end with 0")


def compare(folder: Path) -> bool:
    """Prints what each training came to; whether all are as right as the one on one device."""
    import keras_resnet18 as kr

    alone = kr.load_run(folder / "1-devices")
    low, high = alone.metrics["test"]["interval"]
    print("| training | training loss of each epoch | largest difference | test accuracy |")
    print("|---|---|---|---|")
    follows = True
    for path in sorted(folder.iterdir()):
        run = kr.load_run(path)
        pairs = list(zip(run.history, alone.history, strict=True))
        keys = ("loss", "validation_loss")
        worst = max(abs(ours[key] / other[key] - 1) for ours, other in pairs for key in keys)
        losses = ", ".join(f"{row['loss']:.4f}" for row in run.history)
        accuracy = run.metrics["test"]["accuracy"]
        print(f"| {path.name} | {losses} | {worst:.2%} | {accuracy:.2%} |")
        follows &= low <= accuracy <= high
    return follows


if __name__ == "__main__":
    main()
