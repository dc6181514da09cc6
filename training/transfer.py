"""What pretrained weights are worth: six classes first, then four others from a few images.

    python training/transfer.py FOLDER [--pretraining-epochs 5] [--seeds 3]

FOLDER holds CIFAR-10 as images, train/class/… and test/class/…. A ResNet-18 learns six of its
classes. The other four are then learnt from 10 and from 50 images a class: by the classifier
alone, by fine-tuning, and from scratch, each over some seeds, which also choose the images. The
epoch is chosen on 50 more training images a class; the accuracy is that of all 4,000 test
images. Every training leaves a run in saved_models/; one that is finished is not trained again.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from images import Arrays, read_classes
from rows import at_least_one, mean_and_spread, refused_in_a_line

from keras_resnet18.machine import start_tensorflow

PRETRAINED = ("airplane", "automobile", "bird", "cat", "deer", "dog")
OTHERS = ("frog", "horse", "ship", "truck")
IMAGES_A_CLASS = (10, 50)
VALIDATION_A_CLASS = 50


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pretraining-epochs", type=at_least_one, default=5)
    parser.add_argument("--seeds", type=at_least_one, default=3)
    arguments = parser.parse_args(given)
    with refused_in_a_line():
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    """Trains what is not trained yet, and prints the accuracies."""
    start_tensorflow()
    from keras_resnet18 import load_run, save_weights, train
    from keras_resnet18.data.sources import Source, from_arrays
    from keras_resnet18.recipe import Recipe, load_recipe
    from keras_resnet18.run import Run

    def trained(name: str, recipe: Recipe, source: Source) -> Run:
        out = Path("saved_models") / name
        if not (out / "metrics.json").is_file():
            train(source, recipe, out, overwrite=True)
        return load_run(out)

    six = from_arrays(
        *read_classes(arguments.folder / "train", PRETRAINED),
        classes=PRETRAINED,
        test=read_classes(arguments.folder / "test", PRETRAINED),
    )
    scratch = load_recipe("small-images")
    run = trained(
        "transfer-six-classes", scratch.changed([f"epochs={arguments.pretraining_epochs}"]), six
    )
    weights = run.path.with_suffix(".safetensors")
    save_weights(run.model, weights)
    print(f"six classes: {run.metrics['test']['accuracy']:.2%}", flush=True)

    few = [
        "batch_size=8",
        "crop_ratio=1.0",
        "network.stem=small_stride2",
        "augment.resized_crop=[0.5, 1.0]",
    ]
    tune = load_recipe("finetune").with_weights(str(weights)).changed([*few, "image_size=32"])
    ways = {
        "head": tune.changed(["epochs=0"]),
        "finetune": tune.changed(["epochs=20"]),
        "scratch": scratch.changed([*few, "epochs=40", "optimizer.learning_rate=0.02"]),
    }
    images = read_classes(arguments.folder / "train", OTHERS)
    test = read_classes(arguments.folder / "test", OTHERS)
    for count in IMAGES_A_CLASS:
        for way, recipe in ways.items():
            runs = []
            for seed in range(arguments.seeds):
                chosen, validation = drawn(images, count, seed)
                source = from_arrays(*chosen, classes=OTHERS, validation=validation, test=test)
                name = f"transfer-{way}-{count}-seed{seed}"
                runs.append(trained(name, recipe.changed([f"seed={seed}"]), source))
            accuracies = [run.metrics["test"]["accuracy"] for run in runs]
            print(
                f"{count} a class, {way}: {mean_and_spread(accuracies)}, "
                f"{len(runs)} seed(s){speed_ratio(runs[-1])}",
                flush=True,
            )


def drawn(labeled: Arrays, count: int, seed: int) -> tuple[Arrays, Arrays]:
    """`count` images of each class at random, and others to choose the epoch by."""
    images, labels = labeled
    random = np.random.default_rng(seed)
    chosen, validation = [], []
    for label in range(len(OTHERS)):
        rows = random.permutation(np.flatnonzero(labels == label))
        chosen.append(rows[:count])
        validation.append(rows[count : count + VALIDATION_A_CLASS])
    parts = [np.concatenate(rows) for rows in (chosen, validation)]
    return (images[parts[0]], labels[parts[0]]), (images[parts[1]], labels[parts[1]])


def speed_ratio(run: Any) -> str:
    """How much faster an epoch on cached features is than one through the network."""
    finetune = run.recipe.finetune
    if finetune is None or not run.recipe.epochs:
        return ""
    with run.history_file.open(newline="") as file:
        speeds = [float(row["images_per_second"]) for row in csv.DictReader(file)]
    head, rest = speeds[: finetune.head_epochs], speeds[finetune.head_epochs :]
    ratio = statistics.median(head) / statistics.median(rest)
    return f"; an epoch of the classifier is {ratio:.0f} times as fast as one of the network"


if __name__ == "__main__":
    main()
