"""How fast one image is classified: our files beside other runtimes and other ResNet-18s.

    python training/benchmarks/inference.py [--run RUN] [--cases CASE ...] [--rounds 3]
        [--seconds 5] [--out ROWS.jsonl] [--files FOLDER] [--python torch=PATH] [--profile]

All compute the paper's ResNet-18 at 224 px, 1,000 classes, with random weights, from uint8 pixels
to probabilities, one image at a time, on one thread and on all. ONNX Runtime and OpenVINO run our
own graph, made an .onnx file by tf2onnx; torch and keras-hub build their own network. Each case is
a process of its own, and the cases run in turn, so that a machine whose speed drifts treats them
alike. `sgemm` is not a network: it is NumPy's product of two large float32 matrices, for what this
CPU reaches at all.

In int8, OpenVINO runs our .tflite file, and ONNX Runtime our .onnx file as its `quantize_static`
makes it with the same calibration images. `-strided` are our quantized files with the strided 1×1
convolutions that the converter writes and LiteRT's GPU engine computes wrongly.

With --run, files and images are those of a finished training, up to 1,000 of its test and
validation images, and each case also says for which fraction it gives the model's class.

onnxruntime, openvino, tf2onnx, torch and keras-hub are not dependencies of this project: a case
whose package is missing is left out and said; `--python torch=PATH` names another Python for one.
`--files` keeps our files, and takes those that are there. `--profile` times LiteRT by stages, with
graphs that end early, since its Python package gives no profile by operators.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from keras_resnet18.errors import InputError
from keras_resnet18.files import check_format
from keras_resnet18.machine import (
    cpu_count,
    environment,
    fastest_jit,
    native_stderr_hidden,
    prepare_tensorflow,
)

SIDE = 224
OURS = "litert"  # what the others are compared with: our float32 .tflite file

# Multiply-adds of the paper's network, by the parts that --profile tells apart
MACS = {
    "stem": 118_013_952,
    "stage1": 462_422_016,
    "stage2": 411_041_792,
    "stage3": 411_041_792,
    "stage4": 411_041_792,
    "head": 512_000,
}
GFLOP = 2 * sum(MACS.values()) / 1e9
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


def make_files(files: Path) -> None:
    """Our network with random weights, in every format; what cannot be made is said."""
    prepare_tensorflow()
    import keras

    from keras_resnet18 import build_resnet18, export_saved_model, export_tflite
    from keras_resnet18.exporters.onnx import export_onnx

    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (200, SIDE, SIDE, 3), np.uint8)
    keras.utils.set_random_seed(0)
    model = build_resnet18()
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0  # one pass in training mode, and the statistics are this batch's
    model(noise[:16].astype("float32"), training=True)
    for norm in norms:
        norm.momentum = 0.9
    model.save(files / "model.keras")
    export_saved_model(model, files / "saved_model")
    for quantize, name in TFLITE.items():
        calibration = noise if quantize in ("dynamic", "int8") else None
        try:
            # noise through random weights says nothing of accuracy
            export_tflite(
                model, files / name, quantize=quantize, calibration=calibration, min_agreement=0.0
            )
        except InputError as error:
            print(f"{name} is left out: {error}")
    try:
        export_onnx(model, files / "model.onnx")
    except InputError as error:
        print(f"model.onnx is left out: {error}")
    make_others(model, noise, files)


def make_files_of(run: Any, files: Path) -> None:
    """A run's model in every format, and images with the classes that it gives them."""
    prepare_tensorflow()
    import keras_resnet18 as kr
    from keras_resnet18.data.pipeline import sample_batches
    from keras_resnet18.exporters.export import CHECK_IMAGES, held_out
    from keras_resnet18.exporters.tflite import CALIBRATION_IMAGES

    run = kr.load_run(run)
    try:
        kr.export(run, out=files)
    except InputError as error:
        print(f"left out: {error}")
    run.model.save(files / "model.keras")
    source, prepare = kr.open_classifier(run).open_images(), run.preprocess.resize_and_crop
    images = _pixels(held_out(source, run.preprocess, CHECK_IMAGES))
    np.save(files / IMAGES, images)
    np.save(files / CLASSES, run.model.predict(images, verbose=0).argmax(1))
    training = sample_batches(source.splits["train"], prepare, limit=CALIBRATION_IMAGES)
    make_others(run.model, _pixels(training), files)


def _pixels(batches: Any) -> np.ndarray:
    return np.concatenate([pixels for pixels, _ in batches.as_numpy_iterator()])


def make_others(model: Any, calibration: np.ndarray, files: Path) -> None:
    """Quantized files that are not exported: with strided 1×1 convolutions, and ONNX Runtime's."""
    from keras_resnet18.exporters import tflite

    with mock.patch.object(tflite, "rewrite_for_gpu"):
        for quantize, name in STRIDED.items():
            tflite.export_tflite(
                model, files / name, quantize=quantize, calibration=calibration, min_agreement=0.0
            )
    if not (files / "model.onnx").exists():
        print(f"{QDQ} is left out: there is no model.onnx")
        return
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
        quantization.quantize_static(prepared, files / QDQ, Images(), per_channel=True)


Predict = Callable[[np.ndarray], Any]


@dataclasses.dataclass(frozen=True)
class Round:
    """One measurement of one image after the other, from pixels in memory to probabilities there.

    Attributes:
        images: Number of timed images.
        median_ms: Median time of an image.
        p90_ms: 90th percentile of the time of an image.
        images_per_second: Images a second.
        peak_mib: Peak resident memory of the process, or None if the system does not say.
    """

    images: int
    median_ms: float
    p90_ms: float
    images_per_second: float
    peak_mib: float | None


def measure(predict: Predict, image: np.ndarray, seconds: float) -> Round:
    """Times one call after another for `seconds`, after a warm-up of a quarter of that."""
    start, calls = time.perf_counter(), 0
    while calls < 5 or time.perf_counter() - start < seconds / 4:
        predict(image)
        calls += 1
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < 10 or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        predict(image)
        times.append(time.perf_counter() - before)
    return Round(
        images=len(times),
        median_ms=1000 * float(np.median(times)),
        p90_ms=1000 * float(np.quantile(times, 0.9)),
        images_per_second=len(times) / sum(times),
        peak_mib=peak_mib(),
    )


def peak_mib() -> float | None:
    """Peak resident memory of this process in MiB; None where /proc does not exist."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = status.read_text().splitlines()
    peak = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
    return None if peak is None else int(peak) / 2**10


def ours(name: str) -> Callable[[Path, int], Predict]:
    """One of our files with its own runtime."""

    def open_file(files: Path, threads: int) -> Predict:
        path = files / name
        if check_format(path, "keras", "tflite", "onnx", "saved_model") in ("keras", "saved_model"):
            prepare_tensorflow()
            with native_stderr_hidden():
                import tensorflow as tf

                tf.config.threading.set_intra_op_parallelism_threads(threads)
                tf.config.threading.set_inter_op_parallelism_threads(threads)
        if path.suffix == ".keras":
            from keras_resnet18.run import open_model

            model = open_model(path)
            model.compile(jit_compile=fastest_jit())  # as `predict` has it
            return model.predict_on_batch
        from keras_resnet18.classify.exported import open_exported

        return open_exported(path, threads)

    return open_file


def onnxruntime_int8(files: Path, threads: int) -> Predict:
    """Our .onnx file as ONNX Runtime quantizes it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(files / QDQ, options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"image": pixels})[0]


def openvino(files: Path, threads: int, *, name: str = "model.onnx") -> Predict:
    """Our .onnx file, in float32 where OpenVINO would take bfloat16."""
    import openvino

    core = openvino.Core()
    model = core.read_model(files / name)
    model.reshape(example(files).shape)
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


def openvino_int8(files: Path, threads: int) -> Predict:
    """Our int8 .tflite file."""
    return openvino(files, threads, name=TFLITE["int8"])


def torch(files: Path, threads: int, *, compiled: bool = False) -> Predict:
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


def torch_compiled(files: Path, threads: int) -> Predict:
    """The same, compiled by inductor."""
    return torch(files, threads, compiled=True)


def keras_hub(files: Path, threads: int) -> Predict:
    """keras-hub's network on TensorFlow, with our environment, without a normalisation."""
    prepare_tensorflow()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
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


def sgemm(files: Path, threads: int) -> Predict:
    """A product of two matrices; its threads are set in its environment."""
    left = np.random.default_rng(0).random((SGEMM_SIDE, SGEMM_SIDE), np.float32)
    return lambda pixels: left @ left


@dataclasses.dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        open: From our files' folder and a number of threads to what classifies an image.
        file: Which of our files it runs.
        package: What it needs besides this project's dependencies.
        gflop: What one call computes.
    """

    open: Callable[[Path, int], Predict]
    file: str | None = None
    package: str | None = None
    gflop: float = GFLOP


CASES = {
    **{
        "-".join(filter(None, ("litert", quantize))): Case(ours(name), name)
        for quantize, name in TFLITE.items()
    },
    **{f"litert-{quantize}-strided": Case(ours(name), name) for quantize, name in STRIDED.items()},
    "onnxruntime": Case(ours("model.onnx"), "model.onnx", "onnxruntime"),
    "onnxruntime-int8": Case(onnxruntime_int8, QDQ, "onnxruntime"),
    "openvino": Case(openvino, "model.onnx", "openvino"),
    "openvino-int8": Case(openvino_int8, TFLITE["int8"], "openvino"),
    "torch": Case(torch, package="torch"),
    "torch-compiled": Case(torch_compiled, package="torch"),
    "keras_hub": Case(keras_hub, package="keras_hub"),
    "keras": Case(ours("model.keras"), "model.keras"),
    "saved_model": Case(ours("saved_model"), "saved_model"),
    "sgemm": Case(sgemm, gflop=2 * SGEMM_SIDE**3 / 1e9),
}


def run_case(name: str, files: Path, threads: int, seconds: float) -> dict[str, Any]:
    """The figures of one case, in this process: GFLOP/s at 224 px, agreement of a run's files."""
    case = CASES[name]
    predict = case.open(files, threads)
    figures = measure(predict, example(files), seconds)
    found = dataclasses.asdict(figures) | {"gflops": None, "agreement": None}
    if not (files / IMAGES).exists():
        return found | {"gflops": 1000 * case.gflop / figures.median_ms}
    images, classes = np.load(files / IMAGES), np.load(files / CLASSES)
    given = [np.asarray(predict(image[np.newaxis])).argmax() for image in images]
    return found | {"agreement": float((given == classes).mean()), "n": len(images)}


def example(files: Path) -> np.ndarray:
    """One image, uint8 (1, height, width, channels): a run's first, or noise."""
    if (files / IMAGES).exists():
        return np.load(files / IMAGES, mmap_mode="r")[:1].copy()
    return np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", help="a finished training, whose files are measured")
    parser.add_argument("--cases", nargs="+", choices=CASES, help="by default all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long a turn is")
    parser.add_argument("--out", type=Path, help="where to add a line of JSON for each turn")
    parser.add_argument("--files", type=Path, help="where our files are kept")
    parser.add_argument("--python", action="append", default=[], metavar="CASE=PATH")
    parser.add_argument("--profile", action="store_true", help="LiteRT by stages too")
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run and arguments.profile:
        parser.error("--profile knows the stages of the network at 224 px, without --run")
    if arguments.make and arguments.run:
        make_files_of(arguments.run, arguments.files)
    elif arguments.make:
        make_files(arguments.files)
    elif arguments.case:
        files, threads, seconds = arguments.files, arguments.threads, arguments.seconds
        print(json.dumps(run_case(arguments.case, files, threads, seconds)))
    else:
        with tempfile.TemporaryDirectory() as folder:
            files = arguments.files or Path(folder)
            files.mkdir(parents=True, exist_ok=True)
            compare(files, arguments)
            if arguments.profile:
                profile(files, arguments.rounds, arguments.seconds)


def compare(files: Path, arguments: argparse.Namespace) -> None:
    """Runs all cases in turn, and prints what came of it."""
    facts = environment()
    print(f"{facts['cpu']}, {' '.join(facts['cpu_flags'])}, {facts['threads']} threads")
    if not (files / TFLITE[None]).exists():
        print("making our files", flush=True)
        run = ["--run", arguments.run] if arguments.run else []
        print(_python(sys.executable, "--make", "--files", str(files), *run), end="")
    pythons = _pythons(arguments, files)
    turns: dict[tuple[str, int], list[dict[str, Any]]] = {
        (case, count): [] for count in sorted({1, cpu_count()}) for case in pythons
    }
    for number in range(1, arguments.rounds + 1):
        for (case, count), rows in list(turns.items()):
            words = ("--case", case, "--threads", str(count), "--files", str(files))
            try:
                said = _python(pythons[case], *words, "--seconds", str(arguments.seconds))
            except ChildProcessError as error:
                del turns[case, count]
                print(f"{case} on {count} is left out: {error}", flush=True)
                continue
            rows.append(json.loads(said.splitlines()[-1]))
            print(f"round {number}  {case} on {count}: {rows[-1]['median_ms']:.2f} ms", flush=True)
            if arguments.out:
                row = {"case": case, "threads": count, "round": number, **rows[-1]}
                with arguments.out.open("a") as file:
                    file.write(json.dumps(row | {"environment": facts}) + "\n")
    _print_summary(turns)


def _pythons(arguments: argparse.Namespace, files: Path) -> dict[str, str]:
    """The Python that runs each case, without the cases that lack something."""
    others = dict(word.split("=", 1) for word in arguments.python)
    if unknown := set(others) - set(CASES):
        sys.exit(f"--python knows the cases {', '.join(CASES)}. Received: {', '.join(unknown)}")
    others.setdefault("torch-compiled", others.get("torch", sys.executable))
    found = {}
    for name in arguments.cases or CASES:
        case = CASES[name]
        python = others.get(name, sys.executable)
        if arguments.run and not case.file:
            continue  # not this network
        if case.file and not (files / case.file).exists():
            print(f"{name} is left out: there is no {case.file}")
        elif case.package and not _has(python, case.package):
            print(f"{name} is left out: {python} does not have {case.package}")
        else:
            found[name] = python
    return found


def _has(python: str, package: str) -> bool:
    look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    return not subprocess.run([python, "-c", look], capture_output=True, check=False).returncode


def _python(python: str, *words: str) -> str:
    """What this program prints when that Python runs it with these words."""
    threads = words[words.index("--threads") + 1] if "--threads" in words else ""
    done = subprocess.run(
        [python, __file__, *words],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),  # others need not have it installed
            **({"OPENBLAS_NUM_THREADS": threads} if threads else {}),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise ChildProcessError(said[-1])
    return done.stdout


def _print_summary(turns: dict[tuple[str, int], list[dict[str, Any]]]) -> None:
    for count in sorted({count for _, count in turns}):
        print(f"\n{count} thread{'s' * (count > 1)}: ms an image, and how many times our float32's")
        measured = next(iter(turns.values()))[0]
        last = "GFLOP/s" if measured["agreement"] is None else "agreement"
        print(f"{'':23}{'median':>8}{'p90':>8}{'MiB':>7}{last:>11}  times ours (range)")
        for (case, threads), rows in turns.items():
            if threads != count:
                continue
            median, p90 = (
                statistics.median(row[key] for row in rows) for key in ("median_ms", "p90_ms")
            )
            line = f"{case:23}{median:8.2f}{p90:8.2f}{max(row['peak_mib'] for row in rows):7.0f}"
            if last == "agreement":
                line += f"{rows[-1]['agreement']:11.2%}"
            else:
                line += f"{statistics.median(row['gflops'] for row in rows):11.1f}"
            if case != "sgemm" and (OURS, count) in turns:
                ratios = [
                    row["median_ms"] / our["median_ms"]
                    for row, our in zip(rows, turns[OURS, count], strict=True)
                ]
                line += (
                    f"  {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
                )
            print(line)


def profile(files: Path, rounds: int, seconds: float) -> None:
    """What each stage takes on one thread: the difference of two graphs that end around it."""
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[tuple[str, str], Callable[[], None]] = {}
        for name in (TFLITE[None], TFLITE["int8"]):
            for part, cut in _cut_files(files / name, Path(folder)).items():
                runs[name, part] = _invoker(cut)
        times: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
        for _ in range(rounds):
            for key, run in runs.items():
                figures = measure(lambda _, run=run: run(), None, seconds / len(MACS))
                times[key].append(figures.median_ms)
    print("\n1 thread, by stages: ms and GFLOP/s (the convolutions' alone) of float32 and of int8")
    parts = list(MACS)
    for before, part in zip([None, *parts], parts, strict=False):
        line = f"{part:8}"
        for name in (TFLITE[None], TFLITE["int8"]):
            end = statistics.median(times[name, part])
            spent = end - (statistics.median(times[name, before]) if before else 0)
            line += (
                f"{spent:9.2f}{2 * MACS[part] / 1e6 / spent:9.1f}" if spent > 0 else f"{'?':>18}"
            )
        print(line)


def _cut_files(path: Path, folder: Path) -> dict[str, Path]:
    """Copies of a .tflite file that end after the stem, after each stage, and whole."""
    from ai_edge_litert.tools import flatbuffer_utils

    ends: list[int] = []
    sums = 0
    model = flatbuffer_utils.read_model(str(path))
    for i, operator in enumerate(model.subgraphs[0].operators, 1):
        name = flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex)
        if name == "MAX_POOL_2D" and not ends:  # the stem's end
            ends.append(i)
        elif name == "ADD" and ends:
            sums += 1
            if sums % 2 == 0:  # a stage's end
                ends.append(i)
    ends.append(len(model.subgraphs[0].operators))
    cut = {}
    for part, end in zip(MACS, ends, strict=True):
        model = flatbuffer_utils.read_model(str(path))
        graph = model.subgraphs[0]
        graph.operators = graph.operators[:end]
        graph.outputs = graph.operators[-1].outputs
        model.signatureDefs = []  # it names the output that is gone
        cut[part] = folder / f"{part}-{path.name}"
        flatbuffer_utils.write_model(model, str(cut[part]))
    return cut


def _invoker(path: Path) -> Callable[[], None]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (image,) = interpreter.get_input_details()
    interpreter.set_tensor(image["index"], np.zeros(image["shape"], np.uint8))
    return interpreter.invoke


if __name__ == "__main__":
    main()
