"""How fast one image is classified: our files beside other runtimes and other ResNet-18s.

    python training/benchmarks/inference.py [--run RUN] [--cases CASE ...] [--threads 1 2]
        [--rounds 3] [--seconds 5] [--rows FILE] [--files FOLDER] [--python torch=PATH]

All compute the paper's ResNet-18 at 224 px, 1,000 classes, with random weights, from uint8 pixels
to probabilities, one image at a time, on one thread and on all. ONNX Runtime and OpenVINO run our
own graph, made an .onnx file by tf2onnx; torch and keras-hub build their own network. Each case is
a process of its own, and the cases run in turn. `sgemm` is not a network: it is NumPy's product of
two large float32 matrices, for what this CPU reaches at all.

In int8, OpenVINO runs our .tflite file, and ONNX Runtime our .onnx file as its `quantize_static`
makes it with the same calibration images. `-strided` are our quantized files with the strided 1×1
convolutions that the converter writes and LiteRT's GPU engine computes wrongly.

With --run, files and images are those of a finished training, up to 1,000 of its test and
validation images, and each case also says for which fraction it gives the model's class.

onnxruntime, openvino, tf2onnx, torch and keras-hub are not dependencies of this project: a case
that fails without its package is left out; `--python torch=PATH` names another Python for a case.
`--files` keeps our files, and takes those that are there. Each case of a round is a row in --rows;
whole rounds are not measured again. stages.py times the files by stages.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from in_turn import answer, compare, of_one_machine, process_peak_mib
from rows import Row, at_least_one, machine_in_words, refused_in_a_line, table

from keras_resnet18.errors import InputError
from keras_resnet18.files import check_format
from keras_resnet18.machine import (
    cpu_count,
    fastest_jit,
    native_stderr_hidden,
    prepare_tensorflow,
)

SIDE = 224
OURS = "litert"  # what the others are compared with: our float32 .tflite file

GFLOP = 3.628146688  # of the paper's network: twice its multiply-adds
SGEMM_SIDE = 1536

# Our files: what `quantize` is called with, and the name
TFLITE = {
    None: "model.tflite",
    "float16": "model-float16.tflite",
    "dynamic": "model-dynamic.tflite",
    "int8": "model-int8.tflite",
}
STRIDED = {quantize: f"model-{quantize}-strided.tflite" for quantize in ("dynamic", "int8")}
QDQ = "model-int8.onnx"
IMAGES, CLASSES = "images.npy", "classes.npy"  # of a run, and what its model says they are
CALIBRATION_IMAGES, CHECK_IMAGES = 300, 1000

Predict = Callable[[np.ndarray], Any]


def random_network() -> tuple[Any, np.ndarray]:
    """Our network with random weights, and noise to calibrate with."""
    import keras

    from keras_resnet18 import build_resnet18

    noise = np.random.default_rng(0).integers(0, 256, (200, SIDE, SIDE, 3), np.uint8)
    keras.utils.set_random_seed(0)
    model = build_resnet18()
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0  # one pass in training mode, and the statistics are this batch's
    model(noise[:16].astype("float32"), training=True)
    for norm in norms:
        norm.momentum = 0.9
    return model, noise


def network_of(path: str, files: Path) -> tuple[Any, np.ndarray]:
    """A run's model and training images; images with the model's classes are saved."""
    from images import answers

    import keras_resnet18 as kr
    from keras_resnet18.exporters.graph import float32_twin

    run = kr.load_run(path)
    splits = kr.open_classifier(run).open_images().splits

    def pixels(name: str, limit: int) -> np.ndarray:
        return answers(np.asarray, splits[name], run.preprocess, limit=limit)[0]

    images = np.concatenate([pixels(x, CHECK_IMAGES) for x in ("test", "validation")])
    np.save(files / IMAGES, images[:CHECK_IMAGES])
    classes = run.model.predict(images[:CHECK_IMAGES], verbose=0).argmax(1)
    np.save(files / CLASSES, classes)
    return float32_twin(run.model), pixels("train", CALIBRATION_IMAGES)


def make_files(run: str | None, files: Path) -> None:
    """A network in every format; what cannot be made is said."""
    prepare_tensorflow()
    from keras_resnet18 import export_saved_model
    from keras_resnet18.exporters import tflite
    from keras_resnet18.exporters.onnx import export_onnx

    model, images = network_of(run, files) if run else random_network()
    model.save(files / "model.keras")
    export_saved_model(model, files / "saved_model")

    def export_tflite(quantize: str | None, name: str) -> None:
        calibration = images if quantize in ("dynamic", "int8") else None
        tflite.export_tflite(
            model, files / name, quantize=quantize, calibration=calibration, min_agreement=0.0
        )

    for quantize, name in TFLITE.items():
        export_tflite(quantize, name)
    with mock.patch.object(tflite, "rewrite_for_gpu"):
        for quantize, name in STRIDED.items():
            export_tflite(quantize, name)
    try:
        export_onnx(model, files / "model.onnx")
        quantize_onnx(files, images)
    except (InputError, ImportError) as error:
        print(f"model.onnx or {QDQ} is left out: {error}")


def quantize_onnx(files: Path, calibration: np.ndarray) -> None:
    """Our .onnx file as ONNX Runtime quantizes it."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(quantization.CalibrationDataReader):
        images = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.images, None)
            return None if image is None else {"image": image[np.newaxis]}

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        # the symbolic shapes need sympy, and ours are known but for the batch
        quant_pre_process(files / "model.onnx", prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            files / QDQ,
            Images(),
            per_channel=True,
            # by default int8, and half of the convolutions run in float32 then
            activation_type=quantization.QuantType.QUInt8,
        )


def start_tensorflow(threads: int) -> None:
    """TensorFlow on so many threads."""
    prepare_tensorflow()
    with native_stderr_hidden():
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)


def ours(path: Path, threads: int) -> Predict:
    """One of our files with its own runtime."""
    if check_format(path, "keras", "tflite", "onnx", "saved_model") in ("keras", "saved_model"):
        start_tensorflow(threads)
    if path.suffix == ".keras":
        from keras_resnet18.run import open_model

        model = open_model(path)
        model.compile(jit_compile=fastest_jit())  # as `predict` has it
        return model.predict_on_batch
    from keras_resnet18.classify.exported import open_exported

    return open_exported(path, threads)


def openvino(path: Path, threads: int) -> Predict:
    """One of our files, in float32 where OpenVINO would take bfloat16."""
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    model.reshape(example(path.parent).shape)
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
        },
    )
    request = compiled.create_infer_request()
    return lambda pixels: request.infer([pixels])[0]


def torch(_: Path, threads: int, *, compiled: bool = False) -> Predict:
    """torch's network, channels last, eager or compiled."""
    import torch
    from torch_resnet18 import ResNet18  # in this folder

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = ResNet18().to(memory_format=torch.channels_last)
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = 1.0  # the next batch's statistics
    with torch.no_grad():
        model.train()(torch.randn(8, 3, SIDE, SIDE))
    mean, deviation = (torch.tensor(x)[:, None, None] for x in ((124.0, 116, 104), (58.0, 57, 57)))

    def probabilities(pixels: torch.Tensor) -> torch.Tensor:
        images = (pixels.permute(0, 3, 1, 2).float() - mean) / deviation  # is channels last
        return model(images).softmax(1)

    model.eval()
    torch.set_grad_enabled(False)
    run = probabilities
    if compiled:
        # weights are constants then: they may be packed, and BatchNorm folded in
        run = torch.compile(probabilities, options={"freezing": True})
    return lambda pixels: run(torch.from_numpy(pixels)).numpy()


def keras_hub(_: Path, threads: int) -> Predict:
    """keras-hub's network on TensorFlow, with our environment, without a normalization."""
    start_tensorflow(threads)
    from keras_hub.models import ResNetBackbone, ResNetImageClassifier

    backbone = ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks=[2, 2, 2, 2],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block",
        image_shape=(SIDE, SIDE, 3),
    )
    model = ResNetImageClassifier(backbone, num_classes=1000, activation="softmax")
    model.compile(jit_compile=False)
    return model.predict_on_batch


def sgemm(_: Path, threads: int) -> Predict:
    """A product of two matrices; its threads are set in its environment."""
    left = np.random.default_rng(0).random((SGEMM_SIDE, SGEMM_SIDE), np.float32)
    return lambda pixels: left @ left


# What opens a case, and our file that it runs
CASES: dict[str, tuple[Callable[[Path, int], Predict], str]] = {
    **{"-".join(filter(None, ("litert", x))): (ours, name) for x, name in TFLITE.items()},
    **{f"litert-{x}-strided": (ours, name) for x, name in STRIDED.items()},
    "onnxruntime": (ours, "model.onnx"),
    "onnxruntime-int8": (ours, QDQ),
    "openvino": (openvino, "model.onnx"),
    "openvino-int8": (openvino, TFLITE["int8"]),
    "torch": (torch, ""),
    "torch-compiled": (functools.partial(torch, compiled=True), ""),
    "keras_hub": (keras_hub, ""),
    "keras": (ours, "model.keras"),
    "saved_model": (ours, "saved_model"),
    "sgemm": (sgemm, ""),
}


class Classify:
    """One image after the other, from pixels in memory to probabilities there."""

    def __init__(self, case: str, threads: str, files: Path) -> None:
        open_file, name = CASES[case]
        self.predict = open_file(files / name, int(threads))
        self.image = example(files)
        self.about: Row = {"gflop": 2 * SGEMM_SIDE**3 / 1e9 if case == "sgemm" else GFLOP}
        if (files / IMAGES).exists():
            images, classes = np.load(files / IMAGES), np.load(files / CLASSES)
            given = [np.asarray(self.predict(image[np.newaxis])).argmax() for image in images]
            self.about = {"agreement": float((given == classes).mean()), "n": len(images)}

    def run(self, steps: int) -> float:
        """Seconds of so many images of the median time."""
        return steps * median_s(lambda: self.predict(self.image), steps)

    def facts(self) -> Row:
        """What one image computes, or a run's agreement."""
        return self.about

    def peak_mib(self) -> float:
        """Of the process."""
        return process_peak_mib()


def median_s(call: Callable[[], Any], calls: int) -> float:
    """Median seconds of a call."""
    times = []
    for _ in range(calls):
        before = time.perf_counter()
        call()
        times.append(time.perf_counter() - before)
    return statistics.median(times)


def example(files: Path) -> np.ndarray:
    """One image, uint8 (1, height, width, channels): a run's first, or noise."""
    if (files / IMAGES).exists():
        return np.load(files / IMAGES, mmap_mode="r")[:1].copy()
    return np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", help="a finished training, whose files are measured")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    parser.add_argument("--threads", nargs="+", type=at_least_one, default=[1, cpu_count()])
    parser.add_argument("--rounds", type=at_least_one, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a case in a round")
    parser.add_argument("--minutes", type=float, default=60.0, help="no round ends after these")
    parser.add_argument("--rows", type=Path, default=Path("saved_models/inference.jsonl"))
    parser.add_argument("--files", type=Path, help="where our files are kept")
    parser.add_argument("--python", action="append", default=[], metavar="CASE=PATH")
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args(namespace=argparse.Namespace(batch=1))
    arguments.size = None if arguments.run else SIDE
    if arguments.make:
        with refused_in_a_line():
            make_files(arguments.run, arguments.files)
    elif arguments.case:
        answer(Classify, *arguments.case, arguments.files)
    else:
        with tempfile.TemporaryDirectory() as folder:
            files = arguments.files or Path(folder)
            files.mkdir(parents=True, exist_ok=True)
            print(f"\n{text(measure(files, arguments))}")


def measure(files: Path, arguments: argparse.Namespace) -> list[Row]:
    """The rows of all cases, on each number of threads; our files are made if they are missing."""
    if not (files / TFLITE[None]).exists():
        run = ["--run", arguments.run] if arguments.run else []
        words = [sys.executable, __file__, "--make", "--files", str(files), *run]
        if subprocess.run(words, stdout=sys.stderr, check=False).returncode:
            sys.exit("error: our files were not made")
    pythons = dict(word.split("=", 1) for word in arguments.python)
    if unknown := pythons.keys() - CASES:
        sys.exit(f"--python knows the cases {', '.join(CASES)}. Received: {', '.join(unknown)}")
    # a run is not the network that others build
    names = [name for name in arguments.cases if not arguments.run or CASES[name][1]]
    rows: list[Row] = []
    for count in sorted(set(arguments.threads)):
        words = ["--files", str(files), "--case"]
        commands = {
            name: [pythons.get(name, sys.executable), __file__, *words, name, str(count)]
            for name in names
        }
        environment = {
            "PYTHONPATH": str(Path(__file__).parents[2]),  # others need not have it installed
            "OPENBLAS_NUM_THREADS": str(count),
        }
        run = Path(arguments.run).name if arguments.run else None
        about = {"benchmark": "inference", "run": run, "on_threads": count}
        rows += compare(commands, environment, arguments, about)
    return rows


def text(rows: Sequence[Row]) -> str:
    """A table of each machine and of each run."""
    runs = dict.fromkeys(row["run"] for row in rows)
    groups = [x for run in runs for x in of_one_machine([row for row in rows if row["run"] == run])]
    return "\n\n".join(_text(group) for group in groups)


def _text(rows: Sequence[Row]) -> str:
    """Milliseconds an image, times of our float32 file's, memory, and the machine."""
    counts = sorted({row["on_threads"] for row in rows})
    ms: dict[tuple[str, int], dict[int, float]] = {}
    for row in rows:
        of_case = ms.setdefault((row["case"], row["on_threads"]), {})
        of_case[row["round"]] = 1000 / row["images_per_second"]
    last = "agreement" if any("agreement" in row for row in rows) else "GFLOP/s"
    titles = ["case"]
    for count in counts:
        titles += [f"ms, {count} thread{'s' * (count > 1)}", "times float32's (range)"]

    def cells(name: str) -> Iterator[str]:
        yield name
        for count in counts:
            found = ms.get((name, count), {})
            float32 = ms.get((OURS, count), {}) if name != "sgemm" else {}
            ratios = [found[number] / float32[number] for number in found if number in float32]
            yield f"{statistics.median(found.values()):.2f}" if found else ""
            middle = f"{statistics.median(ratios):.2f}" if ratios else ""
            yield middle and f"{middle} ({min(ratios):.2f} to {max(ratios):.2f})"
        of_case = [row for row in rows if row["case"] == name]
        yield f"{max(row['peak_mib'] for row in of_case):,.0f}"
        if last == "agreement":
            yield f"{of_case[-1]['agreement']:.2%}"
        else:
            yield f"{max(row['gflop'] * row['images_per_second'] for row in of_case):.0f}"

    lines = [list(cells(name)) for name in dict.fromkeys(row["case"] for row in rows)]
    of_run = f"{rows[0]['run']}, n = {rows[0]['n']:,} images\n\n" if rows[0]["run"] else ""
    return f"{of_run}{table([*titles, 'memory, MiB', last], lines)}\n\n{machine_in_words(rows)}"


if __name__ == "__main__":
    main()
