"""The paper's question: do plain networks get worse with depth, and residual ones not?

    python training/degradation.py SOURCE [--images 10000] [--epochs 8] [--seeds 2]
                                   [--stem small_stride2] [--networks plain18 …] [--full]

Trains plain18, plain34, resnet18 and resnet34 by one recipe, `small-images`, and compares their
errors over time, as figure 4 of He et al. 2015 does for ImageNet. Then measures the norm of the
loss's gradient at each convolution, at initialization and after one epoch, with BatchNorm and, at
initialization, without.

SOURCE is `tfds:cifar10`, or a folder with train/class/… and test/class/…. A tenth of the training
images is held out for validation. `--full` takes all images, for the paper's 64,000 steps of 128.

Every training leaves a run in --out; one that is finished is not trained again, and an interrupted
one goes on. Tables and figures are made of the runs: errors.csv, gradients.csv, degradation.png,
gradients.png, and a table in Markdown. Several processes may train into one --out, each with its
own --networks; `--networks` without names only reports.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from images import Arrays, read_classes
from rows import at_least_one, mean_and_spread, refused_in_a_line
from runs import minutes_by_epoch, trained

from keras_resnet18.errors import InputError
from keras_resnet18.machine import start_keras

NETWORKS = ("plain18", "plain34", "resnet18", "resnet34")
COLORS = {"18": "tab:cyan", "34": "tab:red"}
GRADIENT_IMAGES = 512
PAPERS_STEPS, BATCH = 64_000, 128


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("--images", type=at_least_one, default=10_000, help="training images")
    parser.add_argument("--epochs", type=at_least_one, default=8)
    parser.add_argument("--seeds", type=at_least_one, default=2)
    parser.add_argument("--stem", default="small_stride2")
    parser.add_argument("--full", action="store_true", help="all images, the paper's length")
    parser.add_argument("--networks", nargs="*", default=NETWORKS, choices=[*NETWORKS, []])
    parser.add_argument("--out", type=Path, default=Path("saved_models/degradation"))
    arguments = parser.parse_args(given)
    with refused_in_a_line():
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    """Trains what is not trained yet, and reports when nothing is missing."""
    start_keras()
    import keras_resnet18 as kr

    (images, labels), test, classes = read(arguments.source)
    count = len(images) if arguments.full else min(arguments.images, len(images))
    chosen = np.random.default_rng(0).permutation(len(images))[:count]
    training = images[chosen], labels[chosen]
    source = kr.from_arrays(*training, classes=classes, test=test, name="degradation")
    epochs = round(PAPERS_STEPS * BATCH / (0.9 * count)) if arguments.full else arguments.epochs

    def settings(network: str, seed: int, epochs: int) -> list[str]:
        names = {"network.name": network, "network.stem": arguments.stem}
        names |= {"seed": str(seed), "epochs": str(epochs), "batch_size": str(BATCH)}
        return [f"{key}={value}" for key, value in names.items()]

    def train(network: str, seed: int, epochs: int) -> None:
        out = arguments.out / f"{network}-{epochs}-epochs-seed{seed}"
        trained(source, "small-images", out, settings(network, seed, epochs))

    for seed in range(arguments.seeds):
        for network in arguments.networks:
            train(network, seed, epochs)
    for network in arguments.networks:
        train(network, 0, 1)  # whose weights show the gradients after an epoch
    if all((arguments.out / f"{name}-1-epochs-seed0/metrics.json").is_file() for name in NETWORKS):
        report(arguments, epochs, training)


def read(source: str) -> tuple[Arrays, Arrays, list[str]]:
    """Training images, test images, and the classes' names; images are uint8 of one size."""

    if source.startswith("tfds:"):
        import tensorflow_datasets as tfds

        splits, info = tfds.load(
            source.removeprefix("tfds:"),
            split=["train", "test"],
            batch_size=-1,
            as_supervised=True,
            with_info=True,
        )
        train, test = (tuple(map(np.asarray, pair)) for pair in tfds.as_numpy(splits))
        return train, test, info.features["label"].names
    train, test = (Path(source) / name for name in ("train", "test"))
    classes = sorted(path.name for path in train.glob("*/"))
    if not classes:
        raise InputError(
            "SOURCE must be tfds:cifar10, or a folder with train/CLASS/… and test/CLASS/…. "
            f"Received: {source}"
        )
    return read_classes(train, classes), read_classes(test, classes), classes


def report(arguments: argparse.Namespace, epochs: int, training: Arrays) -> None:
    """Writes tables and figures of the runs that are finished."""
    import keras_resnet18 as kr

    runs = {
        (network, seed): kr.load_run(path)
        for network in NETWORKS
        for seed in range(arguments.seeds)
        if (path := arguments.out / f"{network}-{epochs}-epochs-seed{seed}").is_dir()
        and (path / "metrics.json").is_file()
    }
    errors = list(error_rows(runs))
    write(arguments.out / "errors.csv", errors)
    gradients = list(gradient_rows(arguments, training))
    write(arguments.out / "gradients.csv", gradients)
    draw_errors(errors, arguments.out / "degradation.png")
    draw_gradients(gradients, arguments.out / "gradients.png")
    print_table(runs, errors, gradients)


def error_rows(runs: dict[tuple[str, int], Any]) -> Iterator[dict[str, Any]]:
    """Training and validation error of each epoch, as fractions."""
    for (network, seed), run in runs.items():
        for row, minutes in zip(run.history, minutes_by_epoch(run), strict=True):
            yield {
                "network": network,
                "seed": seed,
                "epoch": int(row["epoch"]),
                "minutes": minutes,
                "training_error": 1 - row["accuracy"],
                "validation_error": 1 - row["validation_accuracy"],
            }


def gradient_rows(arguments: argparse.Namespace, training: Arrays) -> Iterator[dict[str, Any]]:
    """Norms of the gradient of each 3×3 convolution's kernel, on one batch."""
    import keras

    import keras_resnet18 as kr

    images, labels = (array[:GRADIENT_IMAGES] for array in training)
    for network in NETWORKS:
        keras.utils.set_random_seed(0)
        build = getattr(kr, f"build_{network}")
        shape = images.shape[1:]
        new = build(input_shape=shape, classes=int(training[1].max()) + 1, stem=arguments.stem)
        trained = keras.models.clone_model(new)
        run = kr.load_run(arguments.out / f"{network}-1-epochs-seed0")
        trained.set_weights(run.model.get_weights())
        for when, model in (
            ("without BatchNorm, at initialization", without_batch_norm(new)),
            ("at initialization", new),
            ("after an epoch", trained),
        ):
            for depth, norm in enumerate(gradient_norms(model, images, labels), 1):
                yield {"network": network, "when": when, "convolution": depth, "norm": norm}


def without_batch_norm(model: Any) -> Any:
    """The network with the same weights, whose BatchNorm layers do nothing."""
    import keras

    class Nothing(keras.layers.Layer):  # Identity takes none of BatchNorm's arguments
        def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
            return inputs

    def layer_or_nothing(layer: Any) -> Any:
        if isinstance(layer, keras.layers.BatchNormalization):
            return Nothing(name=layer.name)
        return layer.__class__.from_config(layer.get_config())

    bare = keras.models.clone_model(model, clone_function=layer_or_nothing)
    for layer in bare.layers:
        layer.set_weights(model.get_layer(layer.name).get_weights() if layer.weights else [])
    return bare


def gradient_norms(model: Any, images: Any, labels: Any) -> Iterator[float]:
    """Norms of the kernels' gradients, from the first convolution to the last.

    A step of plain gradient descent at a rate of 1 moves each weight by its gradient, on every
    backend.
    """
    import keras

    model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy", jit_compile=False)
    kernels = [
        layer.kernel
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (3, 3)
    ]
    before = [keras.ops.convert_to_numpy(kernel) for kernel in kernels]
    model.train_on_batch(images, labels)
    for old, kernel in zip(before, kernels, strict=True):
        yield float(np.linalg.norm(old - keras.ops.convert_to_numpy(kernel)))


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def draw_errors(rows: list[dict[str, Any]], path: Path) -> None:
    """Like figure 4 of the paper: thin lines are training errors, thick ones validation."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    columns = figure.subplots(1, 2, sharey=True)
    for axes, kind in zip(columns, ("plain", "resnet"), strict=True):
        for depth, color in COLORS.items():
            network = f"{kind}{depth}"
            for error, width in (("training_error", 1), ("validation_error", 2.2)):
                curve = mean_by_epoch([r for r in rows if r["network"] == network], error)
                label = network if width > 2 else None
                epochs, values = list(curve), [100 * value for value in curve.values()]
                axes.plot(epochs, values, color=color, linewidth=width, label=label)
        axes.set(xlabel="epoch", title={"plain": "plain", "resnet": "residual"}[kind])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(title="thick: validation\nthin: training")
    columns[0].set_ylabel("error, %")
    figure.savefig(path, dpi=120)


def mean_by_epoch(rows: list[dict[str, Any]], column: str) -> dict[int, float]:
    epochs = sorted({row["epoch"] for row in rows})
    return {e: statistics.mean(r[column] for r in rows if r["epoch"] == e) for e in epochs}


def draw_gradients(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    titles = list(dict.fromkeys(row["when"] for row in rows))
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, when in zip(figure.subplots(1, len(titles), sharey=True), titles, strict=True):
        for network in NETWORKS:
            chosen = [r for r in rows if (r["network"], r["when"]) == (network, when)]
            axes.semilogy(
                [row["convolution"] for row in chosen],
                [row["norm"] for row in chosen],
                color=COLORS[network[-2:]],
                linestyle="--" if network.startswith("plain") else "-",
                label=network,
            )
        axes.set_xlabel("convolution, from the input")
        axes.set_title(when, fontsize="medium")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("norm of the kernel's gradient")
    figure.axes[-1].legend()
    figure.savefig(path, dpi=120)


def print_table(
    runs: dict[tuple[str, int], Any],
    errors: list[dict[str, Any]],
    gradients: list[dict[str, Any]],
) -> None:
    print("| network | training error | validation error | test error | seeds | minutes a run |")
    print("|---|---|---|---|---|---|")
    for network in NETWORKS:
        of_network = [run for (name, _), run in runs.items() if name == network]
        if not of_network:
            continue
        last = max(row["epoch"] for row in errors if row["network"] == network)
        at_end = [r for r in errors if (r["network"], r["epoch"]) == (network, last)]
        test = [1 - run.metrics["test"]["accuracy"] for run in of_network]
        cells = [
            mean_and_spread([row["training_error"] for row in at_end]),
            mean_and_spread([row["validation_error"] for row in at_end]),
            mean_and_spread(test),
            str(len(of_network)),
            f"{statistics.mean(row['minutes'] for row in at_end):.1f}",
        ]
        print(f"| {network} | {' | '.join(cells)} |")
    print("\n| network | first convolution's gradient norm / the last one's | | |")
    print(f"|---|{'---|' * 3}\n| | {' | '.join(dict.fromkeys(r['when'] for r in gradients))} |")
    for network in NETWORKS:
        ratios = []
        for when in dict.fromkeys(row["when"] for row in gradients):
            norms = [r["norm"] for r in gradients if (r["network"], r["when"]) == (network, when)]
            ratios.append(f"{norms[0] / norms[-1]:.2g}")
        print(f"| {network} | {' | '.join(ratios)} |")
    facts = next(iter(runs.values())).environment
    print(f"\n{facts['device']}, {facts['precision']}; {facts['cpu']}, {facts['threads']} threads")


if __name__ == "__main__":
    main()
