"""Exported files answer on LiteRT's GPU engine as on its CPU engines.

A sensible part of the table in docs/formats.md; `python training/webgpu.py` makes all of it.
"""

from __future__ import annotations

import pytest
<<<<<<< HEAD
from browser import CHROMIUM, WEB, chromium, served
from small import colour_digits, fit_random_network
=======
import webgpu
from browser import CHROMIUM, WEB
>>>>>>> gpu

from keras_resnet18.files import TFLITE

pytestmark = pytest.mark.web
pytest.importorskip("playwright.sync_api", reason="needs playwright: see CONTRIBUTING.md")
if not CHROMIUM:
    pytest.skip("needs Chromium: see CONTRIBUTING.md", allow_module_level=True)
if not (WEB / "node_modules").is_dir():
    pytest.skip("needs npm ci in examples/web: see CONTRIBUTING.md", allow_module_level=True)


<<<<<<< HEAD
# Builder, its arguments, side of the images, number of images compared. The maps of stage 4 have
# one pixel in the first network and in both of variant "d".
NETWORKS = {
    "ResNet-18, stem small_stride2": (build_resnet18, {"stem": "small_stride2"}, 12, 60),
    "ResNet-18, stem small": (build_resnet18, {"stem": "small"}, 32, 60),
    "ResNet-18, stem imagenet": (build_resnet18, {}, 64, 60),
    "ResNet-18, stem imagenet, large": (build_resnet18, {}, 224, 4),
    "ResNet-34, stem small_stride2": (build_resnet34, {"stem": "small_stride2"}, 16, 20),
    "ResNet-18-D": (build_resnet18, {"variant": "d"}, 32, 20),
    "ResNet-34-D": (build_resnet34, {"variant": "d"}, 32, 20),
}

RUN = """async ([accelerator, height, width]) => {
  const { Tensor, loadAndCompile, loadLiteRt } = await import("@litertjs/core");
  window.runtime ??= loadLiteRt("/node_modules/@litertjs/core/wasm/");
  await window.runtime;
  const read = async (name) => new Uint8Array(await (await fetch(name)).arrayBuffer());
  const model = await loadAndCompile(await read("/model.tflite"), { accelerator });
  const images = await read("/images.bin");
  const size = 3 * height * width;
  const rows = [];
  for (let i = 0; i < images.length; i += size) {
    const image = new Tensor(images.slice(i, i + size), [1, height, width, 3]);
    const [output] = await model.run(image);
    rows.push(Array.from(await output.data()));
    output.delete();
    image.delete();
  }
  const whole = model.isFullyAccelerated;
  model.delete();
  return { rows, whole };
}"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as launch:
        yield launch(webgpu=True)


@pytest.fixture(scope="module")
def site():
    with served() as address:
        yield address


@pytest.fixture
def run_in_browser(browser, site):
    """`run_in_browser(path, images, accelerator)`: a file's probabilities by LiteRT.js."""
    page = browser.new_page()
    logged: list[str] = []
    page.on("console", lambda message: logged.append(message.text))
    page.goto(site)

    def run(path, images, accelerator):
        page.route("**/model.tflite", lambda route: route.fulfill(path=path))
        page.route("**/images.bin", lambda route: route.fulfill(body=images.tobytes()))
        found = page.evaluate(RUN, [accelerator, *images.shape[1:3]])
        assert found["whole"] or accelerator == "wasm"
        errors = [text for text in logged if re.search(r"mismatch|[Ii]nvalid due|^[EF]\d{4}", text)]
        assert errors == []
        return np.array(found["rows"], np.float32)

    yield run
    page.close()


@pytest.fixture(scope="module", params=NETWORKS)
def network(request, digits):
    """A random ResNet, right on most digits by its last layer; its name, and images with labels."""
    build, arguments, side, count = NETWORKS[request.param]
    images, labels = colour_digits(digits, TRAINING + 100)
    rows = np.arange(side) * images.shape[1] // side
    images = np.ascontiguousarray(images[:, rows][:, :, rows])
    keras.utils.set_random_seed(0)
    model = build(input_shape=(side, side, 3), classes=10, **arguments)
    fit_random_network(model, images[:TRAINING], labels[:TRAINING])
    return request.param, model, images, labels, count


@pytest.mark.parametrize("quantize", TFLITE, ids=str)
def test_webgpu_gives_the_models_classes_as_often_as_the_cpu(
    network, quantize, run_in_browser, tmp_path
):
    name, model, images, labels, count = network
    path = tmp_path / "model.tflite"
    export_tflite(
        model,
        path,
        quantize=quantize,
        calibration=images[:TRAINING],
        check=(images[TRAINING:], labels[TRAINING:]),
        min_agreement=0.95,
    )
    pixels = images[TRAINING : TRAINING + count]
    exact = model.predict(pixels, verbose=0)
    found = {
        "LiteRT": TFLiteFile(path)(pixels),
        "wasm": run_in_browser(path, pixels, "wasm"),
        "WebGPU": run_in_browser(path, pixels, "webgpu"),
    }
    agreeing = {key: sum(x.argmax(1) == exact.argmax(1)) for key, x in found.items()}
    differing = {key: abs(x - exact).max() for key, x in found.items()}
    cells = [f"{agreeing[key]}, {differing[key]:.1e}" for key in found]
    side = images.shape[1]
    print(f"\n| {name} | {side} | {TFLITE[quantize]} | {' | '.join(cells)} | {count} |")
    assert (
        agreeing["LiteRT"] > 0.9 * count and len(set(exact.argmax(1))) > 2
    )  # a network that knows
=======
@pytest.mark.parametrize(
    ("network", "kind"),
    [
        *(("resnet18-12", kind) for kind in TFLITE.values()),
        ("resnet34-16", "tflite-int8"),
        ("resnet18d-32", "tflite-int8"),
        ("resnet18-64", "tflite-dynamic"),
        ("resnet18-64", "tflite-int8"),
    ],
)
def test_webgpu_gives_the_models_classes_as_often_as_the_cpu(network, kind, tmp_path):
    found = webgpu.figures(webgpu.of_network(network, 20, tmp_path), kind)
    agreeing, difference = found["agreeing"], found["difference"]
    assert agreeing["LiteRT"] >= 15 and found["classes"] > 2  # a network that knows
    assert found["errors"] == []
>>>>>>> gpu
    for engine in ("wasm", "WebGPU"):
        assert agreeing[engine] >= agreeing["LiteRT"] - 1
        assert difference[engine] <= 1.5 * difference["LiteRT"] + 1e-3
