"""Exported files on LiteRT's engines: LiteRT's CPU, LiteRT.js on wasm and on WebGPU.

    python training/webgpu.py [RUN ...] [--networks NAME ...] [--kinds KIND ...] [--images 60]
                              [--rows FILE]

LiteRT.js on WebGPU runs the engine of LiteRT's GPU accelerator. Debian's Chromium has a WebGPU
adapter without a GPU: SwiftShader, which computes on the CPU and takes seconds an image. Each file
is compared with its model on the same images; the table gives on how many they name the same class,
and the largest difference of a probability.

RUN is a finished training, whose files are exported where they are missing and compared on its test
images. NETWORKS are random ResNets whose last layer is fitted to scikit-learn's digits, in color.
Each line of the table is a row in --rows as soon as it is known and is not measured again. It needs
Chromium, the extra `web`, and `npm ci` in examples/web: see CONTRIBUTING.md.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
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
    read_rows,
    refused_in_a_line,
    table,
)

from keras_resnet18.files import EXPORTS, TFLITE
from keras_resnet18.machine import start_keras

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # for `browser` and `small`

ENGINES = ("LiteRT", "wasm", "WebGPU")
KEY = ("network", "kind", "images")

FITTED = 300  # images that a network's last layer and its int8 file see
HELD_OUT = 100

# Builder's name, its arguments, side of the images. The maps of stage 4 have one pixel in the first
# network, which is the demo's, in the third and in both of variant "d".
NETWORKS: dict[str, tuple[str, dict[str, str], int]] = {
    "resnet18-12": ("build_resnet18", {"stem": "small_stride2"}, 12),
    "resnet18-32": ("build_resnet18", {"stem": "small_stride2"}, 32),
    "resnet34-16": ("build_resnet34", {"stem": "small_stride2"}, 16),
    "resnet18d-32": ("build_resnet18", {"variant": "d"}, 32),
    "resnet34d-32": ("build_resnet34", {"variant": "d"}, 32),
    "resnet18-64": ("build_resnet18", {}, 64),
    "resnet18-224": ("build_resnet18", {}, 224),
}

RUN = """async ([accelerator, shape, images]) => {
  const { Tensor, loadAndCompile, loadLiteRt } = await import("@litertjs/core");
  window.runtime ??= loadLiteRt("/node_modules/@litertjs/core/wasm/");
  await window.runtime;
  const file = await document.querySelector("#file").files[0].arrayBuffer();
  const model = await loadAndCompile(new Uint8Array(file), { accelerator });
  const pixels = Uint8Array.from(atob(images), (c) => c.charCodeAt(0));
  const size = shape.reduce((a, b) => a * b);
  const rows = [];
  for (let i = 0; i < pixels.length; i += size) {
    const image = new Tensor(pixels.slice(i, i + size), shape);
    const [output] = await model.run(image);
    rows.push(Array.from(await output.data()));
    output.delete();
    image.delete();
  }
  const whole = model.isFullyAccelerated;
  model.delete();
  return { rows, whole };
}"""


@dataclasses.dataclass
class Case:
    """A classifier and images for its files.

    Attributes:
        model: The Keras model.
        pixels: Images that it was not fitted to, uint8 (n, height, width, 3).
        export: From a kind, such as "tflite-int8", to the path of its file.
    """

    model: Any
    pixels: Any
    export: Callable[[str], Path]


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", metavar="RUN")
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    kinds = list(TFLITE.values())
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--images", type=at_least_one, default=60)
    parser.add_argument("--rows", type=Path, default=Path("saved_models/webgpu.jsonl"))
    arguments = parser.parse_args(given)
    with refused_in_a_line(), tempfile.TemporaryDirectory() as folder:
        start_keras()
        cases = {name: lambda name=name: of_run(name, arguments.images) for name in arguments.runs}
        for name in arguments.networks:
            cases[name] = lambda name=name: of_network(name, arguments.images, Path(folder))
        known = {tuple(row[key] for key in KEY) for row in read_rows(arguments.rows, *KEY)}
        for name, make in cases.items():
            missing = [x for x in arguments.kinds if (name, x, arguments.images) not in known]
            case = make() if missing else None
            for kind in missing:
                row = {"network": name, "kind": kind, "images": arguments.images}
                row |= {**figures(case, kind), **machine()}
                append_row(arguments.rows, row)
                print(f"{name}, {kind}: {row['agreeing']} of {row['n']}", flush=True)
    print(f"\n{text([row for row in read_rows(arguments.rows, *KEY) if row['network'] in cases])}")


def of_run(path: str, images: int) -> Case:
    """A run with some of its test images."""
    import keras_resnet18 as kr
    from keras_resnet18.exporters.graph import float32_twin

    run = kr.load_run(path)
    test = kr.open_classifier(run).open_images().splits["test"]
    pixels, _ = answers(lambda pixels: pixels, test, run.preprocess, limit=images)

    def export(kind: str) -> Path:
        file: Path = run.export_folder / EXPORTS[kind].file
        if not file.is_file():
            kr.export(run, kind)
        return file

    return Case(float32_twin(run.model), pixels, export)


def of_network(name: str, images: int, folder: Path) -> Case:
    """A random network, right on most digits by its last layer."""
    import keras
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from small import color_digits

    import keras_resnet18 as kr

    build, options, side = NETWORKS[name]
    grey, labels = load_digits(return_X_y=True)
    rows = np.arange(side) * 8 // side
    grey = grey.reshape(-1, 8, 8)[:, rows][:, :, rows] * (255 / 16)
    pixels, labels = color_digits((grey[..., None].repeat(3, -1), labels), FITTED + HELD_OUT)

    keras.utils.set_random_seed(0)
    model = getattr(kr, build)(input_shape=(side, side, 3), classes=10, **options)
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0  # one pass in training mode, and the statistics are this batch's
    model(pixels[:64].astype("float32"), training=True)
    for norm in norms:
        norm.momentum = 0.9
    pooled = keras.Model(model.input, model.get_layer("head_pool").output)
    features = pooled.predict(pixels[:FITTED], verbose=0)
    fit = LogisticRegression(C=0.1, max_iter=500).fit(features, labels[:FITTED])
    model.get_layer("predictions").set_weights([fit.coef_.T, fit.intercept_])

    def export(kind: str) -> Path:
        path = folder / f"{name}-{EXPORTS[kind].file}"
        quantize = next(key for key, value in TFLITE.items() if value == kind)
        kr.export_tflite(
            model,
            path,
            quantize=quantize,
            calibration=pixels[:FITTED],
            check=(pixels[FITTED:], labels[FITTED:]),
            min_agreement=0.0,  # int8 costs a random network more than a trained one
        )
        return path

    return Case(model, pixels[FITTED:][:images], export)


def figures(case: Case, kind: str) -> Row:
    """Agreement of a file with its model on each engine, and what went wrong there.

    Returns:
        `n` images, of which the file gives the model's class for `agreeing`; `difference`, the
        largest of a probability; both by engine. `errors` are the lines that LiteRT.js logged of
        wrong shapes, operators and shaders, and `classes` the number of classes that the model
        names.
    """
    from keras_resnet18.classify.exported import TFLiteFile

    path = case.export(kind)
    exact = case.model.predict(case.pixels, verbose=0)
    found = {"LiteRT": TFLiteFile(path)(case.pixels)}
    errors: list[str] = []
    for engine in ENGINES[1:]:
        found[engine], logged = in_browser(path, case.pixels, engine.lower())
        errors += logged
    return {
        "n": len(exact),
        "side": case.pixels.shape[1],
        "agreeing": {x: int((y.argmax(1) == exact.argmax(1)).sum()) for x, y in found.items()},
        "difference": {x: float(abs(y - exact).max()) for x, y in found.items()},
        "classes": len(set(exact.argmax(1))),
        "errors": errors,
    }


def in_browser(path: Path, pixels: Any, accelerator: str) -> tuple[Any, list[str]]:
    """A file's probabilities (n, classes) by LiteRT.js, and the errors that it logged."""
    from browser import chromium, served

    logged: list[str] = []
    with served() as site, chromium() as launch:
        page = launch(webgpu=accelerator == "webgpu").new_page()
        page.on("console", lambda message: logged.append(message.text))
        page.goto(site)
        page.evaluate("document.body.innerHTML = '<input type=file id=file>'")
        page.set_input_files("#file", path)
        images = base64.b64encode(pixels.tobytes()).decode()
        found = page.evaluate(RUN, [accelerator, [1, *pixels.shape[1:]], images])
    errors = [text for text in logged if re.search(r"mismatch|[Ii]nvalid due|^[EF]\d{4}", text)]
    if accelerator == "webgpu" and not found["whole"]:
        errors.append("not all of the model ran on WebGPU")
    return np.array(found["rows"], np.float32), errors


def text(rows: Sequence[Row]) -> str:
    """A table of runs and networks, and the machines."""
    names, kinds, lines = list(NETWORKS), list(TFLITE.values()), []
    failed = any(row["errors"] for row in rows)

    def place(row: Row) -> tuple[int, int]:
        name = row["network"]
        return names.index(name) if name in names else -1, kinds.index(row["kind"])

    for row in sorted(rows, key=place):
        cells = [f"{row['agreeing'][x]} ({row['difference'][x]:.1e})" for x in ENGINES]
        about = [row["network"], str(row["side"]), row["kind"], str(row["n"]), *cells]
        lines.append(about + (["; ".join(row["errors"])[:80]] if failed else []))
    titles = ("network", "px", "kind", "images", *ENGINES, *(["errors"] if failed else []))
    return f"{table(titles, lines)}\n\n{machine_in_words(rows)}"


if __name__ == "__main__":
    main()
