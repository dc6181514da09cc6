"""What quantization costs over seeds: accuracy and agreement of int8, dynamic and float32 files.

    python training/quantized.py RUN... [--kinds tflite tflite-dynamic tflite-int8]
                                 [--images 1000] [--rows saved_models/quantized.jsonl]

RUN are finished runs, not of folds. Those in one folder, as training/seeds.py leaves them, are
seeds of one network. Each is exported in each kind as `keras-resnet18 export --check-images 1000`
does it, on the same images. Dynamic and int8 files that it would refuse are measured too. What
cannot be made, such as an int8 file of few images, is said and left out.

Each file is a row in --rows, and one that has its row is not made again. The table has mean and
standard deviation over the seeds, and how many files `export` refuses.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rows import (
    Row,
    append_row,
    at_least_one,
    machine,
    machine_in_words,
    mean_and_spread,
    read_rows,
    refused_in_a_line,
    table,
)
from runs import digest

from keras_resnet18.errors import InputError
from keras_resnet18.files import TFLITE
from keras_resnet18.machine import start_keras

KEY = ("run", "model", "kind", "images")
KINDS = {name: quantize for quantize, name in TFLITE.items()}


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    kinds = ["tflite", "tflite-dynamic", "tflite-int8"]
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=kinds)
    parser.add_argument("--images", type=at_least_one, default=1000, help="to compare on at most")
    parser.add_argument("--rows", type=Path, default=Path("saved_models/quantized.jsonl"))
    arguments = parser.parse_args(given)
    with refused_in_a_line():
        start_keras()
        import keras_resnet18 as kr

        rows = []
        for run in [kr.load_run(path) for path in arguments.runs]:
            if run.folds is not None:
                raise InputError(f"a run of folds has no accuracy of its own. Received: {run.path}")
            rows += measure(run, arguments)
        print(text(rows) if rows else "no file was made")


def measure(run: Any, arguments: argparse.Namespace) -> Iterator[Row]:
    """The rows of a run, a kind each; those that the file lacks are measured."""
    known = {tuple(row[name] for name in KEY): row for row in read_rows(arguments.rows, *KEY)}
    for kind in arguments.kinds:
        key = (str(run.path), digest(run), kind, arguments.images)
        if key not in known:
            try:
                row = dict(zip(KEY, key, strict=True)) | exported(run, kind, arguments.images)
            except InputError as error:
                print(f"{run.path}: {kind}, left out: {error}", flush=True)
                continue
            append_row(arguments.rows, row)
            known[key] = row
            words = f"{row['agreement']:.2%} as the model, accuracy {row['accuracy']:.2%}"
            print(f"{run.path}: {kind}, {words}, {row['fault'] or 'passed'}", flush=True)
        yield known[key]


def exported(run: Any, kind: str, limit: int) -> Row:
    """Figures of one file, beside those of its model."""
    import keras_resnet18 as kr
    from keras_resnet18.classify.accuracy import broken_images_named
    from keras_resnet18.classify.evaluate import whole_of
    from keras_resnet18.exporters.export import HELD_OUT
    from keras_resnet18.exporters.tflite import CALIBRATION_IMAGES
    from keras_resnet18.files import EXPORTS

    source, labels = kr.open_classifier(run).open_images(), run.spec.labels
    samples = {
        name: whole_of(source, labels, splits).sample(run.preprocess, most)
        for name, splits, most in (
            ("calibration", ("train",), CALIBRATION_IMAGES),
            ("check", HELD_OUT, limit),
            ("validation", ("validation",), limit),
        )
    }
    with tempfile.TemporaryDirectory() as folder, broken_images_named():
        report = kr.export_tflite(
            run.model,
            Path(folder) / "model.tflite",
            spec=run.spec,
            quantize=KINDS[kind],
            min_agreement=0,  # a refused file has figures too
            **samples,
        )
    found = report.comparison
    kept = ("n", "agreement", "accuracy", "model_accuracy", "lost", "won", "coverage")
    return {
        "network": run.path.resolve().parent.name,
        "seed": run.recipe.seed,
        **{name: getattr(found, name) for name in kept},
        "model_coverage": found.model_coverage,
        "fault": found.fault(EXPORTS[kind].max_difference),
        **machine(),
    }


def text(rows: Sequence[Row]) -> str:
    """A table of networks and kinds, and the machines."""
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["network"], row["kind"], row["images"]), []).append(row)
    lines = []
    for (network, kind, _), found in groups.items():
        lost = [row["accuracy"] - row["model_accuracy"] for row in found]
        refused = sum(row["fault"] is not None for row in found)
        lines.append(
            [
                *(f"{network}, n = {found[0]['n']:,}", kind.partition("-")[2] or "float32"),
                mean_and_spread([row["model_accuracy"] for row in found]),
                mean_and_spread(lost),
                mean_and_spread([row["agreement"] for row in found]),
                f"{refused} of {len(found)}",
            ]
        )
    titles = ["network", "file", "model's top-1", "file's minus model's", "same class", "refused"]
    return f"{table(titles, lines)}\n\n{machine_in_words(rows)}"


if __name__ == "__main__":
    main()
