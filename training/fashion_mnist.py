"""Fashion-MNIST from scratch: test accuracy over some seeds.

    python training/fashion_mnist.py FOLDER [--epochs 6] [--seeds 1]

FOLDER holds the four IDX files, as Debian's package dataset-fashion-mnist installs them. Every seed
leaves a run in saved_models/; one that is finished is not trained again.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from keras_resnet18.machine import start_tensorflow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()

    start_tensorflow()
    from keras_resnet18 import load_run, train
    from keras_resnet18.recipe.recipe import load_recipe

    accuracies = []
    for seed in range(arguments.seeds):
        out = Path("saved_models") / f"fashion-mnist-{arguments.epochs}-epochs-seed{seed}"
        recipe = load_recipe("small-images").changed([f"epochs={arguments.epochs}", f"seed={seed}"])
        if not (out / "metrics.json").is_file():
            train(arguments.folder, recipe, out, overwrite=True)
        accuracies.append(load_run(out).metrics["test"]["accuracy"])
        print(f"seed {seed}: {accuracies[-1]:.2%}", flush=True)
    spread = f" ± {statistics.stdev(accuracies):.2%}" if len(accuracies) > 1 else ""
    print(f"test accuracy {statistics.mean(accuracies):.2%}{spread}, {len(accuracies)} seed(s)")


if __name__ == "__main__":
    main()
