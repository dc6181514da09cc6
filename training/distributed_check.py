"""Does a training on several devices, and in two processes, follow that on one device?

    python training/distributed_check.py [FOLDER] [--epochs 6] [--source digits]

Trains ResNet-18 on Keras' JAX backend, in float32 on the CPU, by one recipe and with one global
batch: on one device, on two and four virtual ones, in two processes, and in two of which one is
killed after its first epoch; the training then goes on in one process with two devices. Prints
every epoch's losses, their largest difference from one device's, and the test accuracy, which must
lie in its interval; exit 1 where a loss differs by more than 2 %.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

LIMIT = 0.02
WAIT = 3600.0  # seconds for a training, far more than it takes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("saved_models/together"))
    parser.add_argument("--source", default="digits")
    parser.add_argument("--epochs", type=int, default=6)
    arguments = parser.parse_args()
    new = (arguments.source, "--precision", "float32", "--epochs", str(arguments.epochs))
    folder: Path = arguments.folder
    for devices in (1, 2, 4):
        end([start(*new, "--out", folder / f"{devices}-devices", devices=devices)])
    end(start_two(*new, "--out", folder / "2-processes"))
    kill_one(folder / "killed", *new)
    end([start("--resume", folder / "killed", devices=2)])
    sys.exit(0 if compare(folder) else 1)


def start(*arguments: object, devices: int = 1) -> subprocess.Popen[bytes]:
    """A process of the command line with so many virtual devices."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, "-m", "keras_resnet18", "train", *map(str, arguments)]
    print("$", *command[2:], flush=True)
    return subprocess.Popen(command, env=environment)


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
    """Prints what each training came to; whether all follow the one on one device."""
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
        follows &= worst <= LIMIT and low <= accuracy <= high
    return follows


if __name__ == "__main__":
    main()
