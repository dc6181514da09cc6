"""int8 ranges: the extremes that `export` takes, beside percentiles and least squared errors.

    python training/calibration.py RUN... [--sets 5] [--images 300] [--data SOURCE] [--rows FILE]

An int8 tensor has one range. TensorFlow's converter takes the lowest and the highest value that it
sees on the calibration images. A percentile cuts off the rarest values; the least squared error
weighs what is cut off against the coarser steps of a wide range. Zeros are left out of both, as
every range has an exact zero. Input, logits and softmax keep their extremes. For each RUN, all of
these are set on each of some random sets of training images, and each file is compared with the
model on all test and validation images. Prints mean and standard deviation over the sets of
agreement with the model and of accuracy. Each file is a row in --rows.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from images import answers
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
from keras_resnet18.machine import start_keras

KEY = ("run", "model", "images", "data", "set", "range")
BINS = 4096

# From a histogram's counts and the edges of its bins to a range
Choice = Callable[[Any, Any], tuple[float, float]]


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--sets", type=at_least_one, default=5)
    parser.add_argument("--images", type=at_least_one, default=300, help="in a set")
    parser.add_argument("--data", help="the runs' images, where they are not where they were")
    parser.add_argument("--rows", type=Path, default=Path("saved_models/calibration.jsonl"))
    arguments = parser.parse_args(given)
    with refused_in_a_line():
        start_keras()
        import keras_resnet18 as kr

        for run in [kr.load_run(path) for path in arguments.runs]:
            print(f"\n{text(list(measure(run, arguments)))}\n", flush=True)


def measure(run: Any, arguments: argparse.Namespace) -> Iterator[Row]:
    """The rows of a run; those that the file lacks are measured."""
    import keras_resnet18 as kr

    about = (str(run.path), digest(run), arguments.images, arguments.data)
    known = {tuple(row[name] for name in KEY): row for row in read_rows(arguments.rows, *KEY)}
    splits = kr.open_classifier(run).open_images(arguments.data).splits
    if splits["train"].size < arguments.images:
        raise InputError(
            f"--images must be at most the run's training images, {splits['train'].size}. "
            f"Received: {arguments.images}"
        )
    train, held_out, labels, classes = [None] * 4
    for number in range(arguments.sets):
        keys = {name: (*about, number, name) for name in RANGES}
        yield from (known[key] for key in keys.values() if key in known)
        missing = [name for name, key in keys.items() if key not in known]
        if not missing:
            continue
        if train is None:
            train, _ = answers(np.asarray, splits["train"], run.preprocess)
            parts = [answers(np.asarray, splits[x], run.preprocess) for x in ("test", "validation")]
            held_out, labels = map(np.concatenate, zip(*parts, strict=True))
            classes = run.model.predict(held_out, verbose=0).argmax(1)
        drawn = np.random.default_rng(number).permutation(len(train))[: arguments.images]
        with tempfile.TemporaryDirectory() as folder:
            for name, file in int8_files(run.model, train[drawn], Path(folder), missing):
                got = np.concatenate(
                    [file(held_out[i : i + 32]) for i in range(0, len(labels), 32)]
                )
                row = dict(zip(KEY, keys[name], strict=True)) | {
                    "n": len(labels),
                    "agreement": float((got.argmax(1) == classes).mean()),
                    "accuracy": float((got.argmax(1) == labels).mean()),
                    "model_accuracy": float((classes == labels).mean()),
                    **machine(),
                }
                append_row(arguments.rows, row)
                words = f"{row['agreement']:.2%}, accuracy {row['accuracy']:.2%}"
                print(f"{run.path}, set {number}: {name}, {words}", flush=True)
                yield row


def int8_files(
    model: Any, images: Any, folder: Path, names: Sequence[str]
) -> Iterator[tuple[str, Any]]:
    """Converts a model as `export_tflite` does, and quantizes it with each kind of range.

    Args:
        model: A run's model.
        images: Calibration images, uint8 (n, height, width, channels); two pixels are changed.
        folder: For files in between.
        names: Of `RANGES`.
    """
    import tensorflow as tf
    from tensorflow.lite.python.convert import mlir_quantize

    from keras_resnet18.classify.exported import TFLiteFile
    from keras_resnet18.exporters import graph, tflite
    from keras_resnet18.tflite_file import keep_softmax_float, rewrite_for_gpu

    images[0, 0, 0], images[0, -1, -1] = 0, 255  # the range of pixels, as `export` has it
    twin = tflite.with_packed_stem(graph.float32_twin(model))
    graph.write_saved_model(twin, folder / "saved_model", batch_size=1, dtype="float32")
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(folder / "saved_model"), signature_keys=["serving_default"]
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.representative_dataset = lambda: (
        {"image": image[np.newaxis].astype(np.float32)} for image in images
    )
    converter._experimental_calibrate_only = True
    calibrated = converter.convert()  # float32, with the extremes of each tensor
    counts = histograms(calibrated, images)
    for name in names:
        path = folder / f"{name}.tflite"
        path.write_bytes(
            mlir_quantize(
                with_ranges(calibrated, counts, RANGES[name]),
                input_data_type=tf.uint8,
                output_data_type=tf.float32,
            )
        )
        keep_softmax_float(path)
        rewrite_for_gpu(path)
        yield name, TFLiteFile(path)


def histograms(calibrated: bytes, images: Any) -> dict[int, tuple[Any, Any]]:
    """Counts and edges of each activation's values, by its number, but of input and logits."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(calibrated))
    graph = model.subgraphs[0]
    names = [flatbuffer_utils.opcode_to_name(model, x.opcodeIndex) for x in graph.operators]
    last = names.index("FULLY_CONNECTED")
    kept = {int(x) for one in graph.operators[last:] for x in one.outputs} | set(graph.inputs)
    edges = {
        number: np.linspace(tensor.quantization.min[0], tensor.quantization.max[0], BINS + 1)
        for number, tensor in enumerate(graph.tensors)
        if number not in kept and has_range(tensor)
    }
    counts = {number: np.zeros(BINS, np.int64) for number in edges}
    interpreter = Interpreter(
        model_content=calibrated,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    for image in images:
        interpreter.set_tensor(int(graph.inputs[0]), image[np.newaxis].astype(np.float32))
        interpreter.invoke()
        for number, (low, *_, high) in edges.items():
            values = interpreter.get_tensor(number)
            counts[number] += np.histogram(values[values != 0], BINS, (low, high))[0]
    return {number: (counts[number], edges[number]) for number in edges}


def has_range(tensor: Any) -> bool:
    """Whether a tensor has extremes, and these have a width."""
    found = tensor.quantization
    if found is None or found.min is None or len(found.min) != 1:
        return False
    return bool(found.max[0] > found.min[0])


def with_ranges(calibrated: bytes, counts: dict[int, tuple[Any, Any]], choose: Choice) -> bytes:
    """The float32 file with other ranges."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(calibrated))
    for number, (count, edges) in counts.items():
        low, high = choose(count, edges)
        found = model.subgraphs[0].tensors[number].quantization
        found.min, found.max = [float(low)], [float(high)]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def extremes(count: Any, edges: Any) -> tuple[float, float]:
    """The lowest and the highest value."""
    return edges[0], edges[-1]


def percentile(percent: float) -> Choice:
    """The range without the same small share of the lowest and of the highest values."""

    def choose(count: Any, edges: Any) -> tuple[float, float]:
        share, beyond = np.cumsum(count) / count.sum(), 1 - percent / 100
        low = edges[np.searchsorted(share, beyond, side="right")]
        high = edges[min(np.searchsorted(share, 1 - beyond) + 1, BINS)]
        return min(low, 0.0), max(high, 0.0)

    return choose


def least_squares(count: Any, edges: Any) -> tuple[float, float]:
    """The range with the least squared error of rounding and of cutting off."""
    values = (edges[:-1] + edges[1:]) / 2
    best, chosen = np.inf, (edges[0], edges[-1])
    fractions = np.linspace(0.2, 1, 41)
    for low in edges[0] * fractions if edges[0] < 0 else (edges[0],):
        for high in edges[-1] * fractions:
            if high <= low:
                continue
            outside = values - values.clip(low, high)
            rounding = ((high - low) / 255) ** 2 / 12
            error = (count * np.where(outside == 0, rounding, outside**2)).sum()
            if error < best:
                best, chosen = error, (low, high)
    return chosen


RANGES: dict[str, Choice] = {
    "extremes": extremes,
    "percentile 99.999": percentile(99.999),
    "percentile 99.99": percentile(99.99),
    "percentile 99.9": percentile(99.9),
    "least squares": least_squares,
}


def text(rows: Sequence[Row]) -> str:
    """A table of a run, and the machines."""
    lines = []
    for name in RANGES:
        found = [row for row in rows if row["range"] == name]
        cells = [mean_and_spread([row[x] for row in found]) for x in ("agreement", "accuracy")]
        lines.append([name, *cells])
    first, sets = rows[0], len({row["set"] for row in rows})
    about = f"{first['run']}, {sets} sets of {first['images']} images, n = {first['n']:,}"
    model = f"{about}, model {100 * first['model_accuracy']:.2f} %"
    found = table(["ranges", "agreement", "accuracy"], lines)
    return f"{model}\n\n{found}\n\n{machine_in_words(rows)}"


if __name__ == "__main__":
    main()
