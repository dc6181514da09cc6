"""The page in examples/web, used in a real browser, gives the answers of the interpreter."""

from __future__ import annotations

import dataclasses
import json
import re
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from browser import CHROMIUM, WEB, chromium, served
from corpus import color_card, display_p3
from digit_exports import LABELS
from PIL import Image
from sklearn.datasets import load_sample_image

from keras_resnet18 import Preprocess, export_tflite, open_classifier
from keras_resnet18.classify.exported import TFLiteFile
from keras_resnet18.images import read_image
from keras_resnet18.spec import ClassifierSpec

pytestmark = pytest.mark.web
playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs playwright: see CONTRIBUTING.md"
)
if not CHROMIUM:
    pytest.skip("needs Chromium: see CONTRIBUTING.md", allow_module_level=True)
if not (WEB / "node_modules").is_dir():
    pytest.skip("needs npm ci in examples/web: see CONTRIBUTING.md", allow_module_level=True)

PREPROCESS = Preprocess((32, 32), crop_ratio=0.9, interpolation="bicubic")
ENGINE = {False: "the CPU", True: "WebGPU"}
JS = "text/javascript"
SPEC = {"labels": LABELS, "preprocess": dataclasses.asdict(PREPROCESS), "threshold": None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("web")


@pytest.fixture(scope="module")
def models(small_classifier, training, folder):
    """A classifier of colored digits in two formats, whose files say all that is needed."""
    spec = ClassifierSpec(tuple(LABELS), PREPROCESS)
    files = {None: folder / "model.tflite", "int8": folder / "model-int8.tflite"}
    for quantize, file in files.items():
        export_tflite(
            small_classifier, file, spec=spec, quantize=quantize, calibration=training[0][:200]
        )
    return files


@pytest.fixture(scope="module")
def photo(folder, colored_digits):
    """A digit of 90×70 pixels that lies sideways in its file, as phones leave photos."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    image = Image.fromarray(colored_digits[0][7]).resize((70, 90), Image.Resampling.BICUBIC)
    image.transpose(Image.Transpose.ROTATE_90).save(folder / "photo.jpg", exif=exif, quality=95)
    return folder / "photo.jpg"


@pytest.fixture(scope="module")
def with_file(models, folder):
    """`with_file(content)`: a copy of the model with this classifier.json in it, or without any."""
    with zipfile.ZipFile(models[None]) as packed:
        bare = models[None].read_bytes()[: packed.infolist()[0].header_offset]

    def make(content=None):
        path = folder / "other.tflite"
        path.write_bytes(bare)
        if content is not None:
            with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as packed:
                packed.writestr("classifier.json", content)
        return path

    return make


@pytest.fixture(scope="module")
def site():
    with served() as address:
        yield address


@pytest.fixture(scope="module")
def browsers(folder, photo):
    """Browsers without WebGPU and with it. Their camera sees the photo: YUV4MPEG2, 4:2:0."""
    luma, *chroma = Image.fromarray(read_image(photo)).convert("YCbCr").split()
    planes = (luma, *(plane.resize((35, 45)) for plane in chroma))
    frame = b"FRAME\n" + b"".join(plane.tobytes() for plane in planes)
    film = folder / "photo.y4m"
    film.write_bytes(b"YUV4MPEG2 W70 H90 F30:1 Ip A1:1 C420jpeg\n" + 30 * frame)
    flags = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    flags = (*flags, f"--use-file-for-fake-video-capture={film}")
    with chromium() as launch:
        yield {webgpu: launch(*flags, webgpu=webgpu) for webgpu in (False, True)}


@pytest.fixture
def webgpu():
    """Whether `page` is in a browser with WebGPU."""
    return False


@pytest.fixture
def page(browsers, webgpu, site):
    """The page on a phone of 360×740 points; it asks nobody else for a byte."""
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    page = browsers[webgpu].new_page(**phone)
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    page.goto(site)
    yield page
    page.close()
    assert [url for url in addresses if not url.startswith((site, "data:", "blob:"))] == []


def answers(page) -> dict[str, float]:
    """What the page answers: probabilities by label, the most probable first."""
    page.locator("#result:visible, #error:not(:empty)").first.wait_for()
    assert page.inner_text("#error") == ""
    names = page.locator("#answers li > span:first-child").all_inner_texts()
    values = page.locator("#answers data").evaluate_all("all => all.map(one => one.value)")
    return dict(zip(names, map(float, values), strict=True))


def error(page) -> str:
    page.locator("#error:not(:empty)").wait_for()
    assert page.locator("#result").is_hidden()
    return page.get_by_role("alert").inner_text()


@pytest.mark.parametrize("webgpu", [False, True], ids=["CPU", "WebGPU"])
@pytest.mark.parametrize("quantize", [None, "int8"])
def test_the_page_gives_the_answer_of_the_interpreter(page, models, photo, quantize, webgpu):
    status = page.get_by_role("status")
    assert status.inner_text() == "Choose a model and an image."
    page.get_by_label("Model", exact=True).set_input_files(models[quantize])
    playwright.expect(status).to_have_text("Now choose an image.")
    take_a_photo = page.get_by_label("Or take a photo")
    assert take_a_photo.get_attribute("capture") == "environment"
    take_a_photo.set_input_files(photo)
    got, classifier = answers(page), open_classifier(models[quantize])
    expected = classifier.answer(classifier.read(photo)[np.newaxis], 5)[0].top
    assert list(got) == [name for name, _ in expected]
    assert list(got.values()) == pytest.approx([p for _, p in expected], abs=1e-3)
    best, probability = expected[0]
    assert re.fullmatch(
        rf"{best}, {100 * probability:.1f} %\. Preparing the image took [\d.]+ ms, "
        rf"the model [\d.]+ ms on {ENGINE[webgpu]}\.",
        status.inner_text(),
    )
    assert page.evaluate("document.documentElement.scrollWidth") == 360


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_are_those_of_preprocess(page, interpolation, fit):
    spec = Preprocess((40, 24), 0.8, interpolation, fit=fit)
    china = load_sample_image("china.jpg")[100:250:2, 100:500:3]
    for shape in ((90, 131), (131, 60), (11, 17), (40, 40), (1, 1), (9, 300)):
        image = np.resize(china, (*shape, 3))
        expected = spec.resize_and_crop(image).numpy()
        rgba = np.concatenate([image, np.full((*shape, 1), 255, np.uint8)], axis=-1)
        got = page.evaluate(
            """async ([height, width, rgba, spec]) => {
              const { resizeAndCrop } = await import("/preprocess.js");
              return Array.from(resizeAndCrop({ height, width, rgba }, spec));
            }""",
            [*shape, rgba.ravel().tolist(), dataclasses.asdict(spec)],
        )
        difference = abs(np.reshape(got, expected.shape) - expected.astype(int))
        assert difference.max() <= 1 and (difference > 0).mean() < 0.01, shape


def test_images_are_decoded_upright_over_white_and_as_they_are_stored(page, photo, folder):
    pixels = np.zeros((600, 4, 4), np.uint8)  # higher than the band that is read at once
    pixels[:300, :, 3] = 255
    Image.fromarray(pixels).save(folder / "half.png")
    color_card().save(folder / "card.png", icc_profile=display_p3())
    for file, levels in ((folder / "half.png", 0), (folder / "card.png", 0), (photo, 2)):
        page.set_input_files("#image", file)
        height, width, rgba = page.evaluate(
            """async () => {
              const { decode } = await import("/preprocess.js");
              const [file] = document.querySelector("#image").files;
              const { width, height, rgba } = await decode(file);
              return [height, width, Array.from(rgba)];
            }"""
        )
        got = np.reshape(rgba, (height, width, 4))[..., :3]
        np.testing.assert_allclose(got, read_image(file).astype(int), atol=levels)


def test_the_file_says_threshold_and_names_and_else_classes_are_numbers(page, with_file, photo):
    for content, start in (
        (json.dumps(SPEC | {"threshold": 0}), "digit 7, "),
        (json.dumps(SPEC | {"threshold": 1, "labels": ["蝉"] * 10}), "Not sure (best: 蝉, "),
        (None, "7, "),
    ):
        page.reload()
        page.set_input_files("#model", with_file(content))
        page.set_input_files("#image", photo)
        assert answers(page)
        assert page.get_by_role("status").inner_text().startswith(start)


def test_bad_input_is_one_line_and_no_old_answer_stays(page, models, photo, with_file, folder):
    model = keras.Sequential([keras.Input((4, 4, 1), batch_size=1), keras.layers.Flatten()])
    foreign, cut, words = (folder / x for x in ("foreign.tflite", "cut.tflite", "words.jpg"))
    foreign.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    cut.write_bytes(models[None].read_bytes()[:2000])
    words.write_text("no image")

    def file(**changes):
        return with_file(json.dumps(SPEC | changes))

    for make, message in (
        (lambda: photo, r"Expected a .tflite model\. Received: photo.jpg"),
        (
            lambda: foreign,
            r"foreign.tflite must take uint8 .* Received: float32 \(1, 4, 4, 1\) and",
        ),
        (lambda: cut, "cut.tflite cannot be run by LiteRT.js: "),
        (lambda: with_file("{"), r"Expected a classifier.json that export wrote .* Received: {"),
        (lambda: file(threshold=2), "Expected a classifier.json that export wrote in other.tflite"),
        (lambda: file(labels=["ant", "bee"]), r"must be as many as its classes, 10\. Received: 2"),
        (lambda: file(preprocess=None), "Expected preprocessing that export wrote in other.tflite"),
        (
            lambda: file(preprocess=dataclasses.asdict(Preprocess(size=(24, 32)))),
            r"must be for the model's 32 × 32 pixels\. Received: 24 × 32",
        ),
    ):
        page.set_input_files("#model", models[None])
        page.set_input_files("#image", photo)
        assert answers(page)
        page.set_input_files("#model", make())
        assert re.search(message, error(page)), error(page)
    page.set_input_files("#model", models[None])
    assert answers(page)
    page.set_input_files("#image", words)
    assert error(page) == "Expected an image that this browser can open. Received: words.jpg"


def test_without_litert_the_page_says_how_to_get_it(page, models):
    page.route("**/node_modules/**", lambda route: route.abort())
    page.reload()
    page.set_input_files("#model", models[None])
    assert "run npm ci" in error(page)


NO_LOG = ("|Shape mismatch/", "/")
NO_COMPARISON = ("TOLERANCE = 0.02", "TOLERANCE = 2")


@pytest.mark.parametrize("webgpu", [True], ids=["WebGPU"])
@pytest.mark.parametrize("without", [(), (NO_LOG,), (NO_COMPARISON,), (NO_LOG, NO_COMPARISON)])
def test_the_cpu_answers_where_webgpu_is_wrong(page, int8_file, photo, without):
    """The converter's own file, on which LiteRT's GPU engine is wrong."""
    script = (WEB / "classifier.js").read_text()
    for old, new in without:
        assert old in script
        script = script.replace(old, new)
    page.route("**/classifier.js", lambda route: route.fulfill(body=script, content_type=JS))
    page.set_input_files("#model", int8_file.converted)
    page.set_input_files("#image", photo)
    got = answers(page)
    pixels = Preprocess((32, 32)).resize_and_crop(read_image(photo)).numpy()
    expected = TFLiteFile(int8_file.converted)(pixels[np.newaxis])[0]
    difference = max(abs(value - expected[int(name)]) for name, value in got.items())
    status = page.get_by_role("status").inner_text()
    if without == (NO_LOG, NO_COMPARISON):  # else the test could not fail
        assert difference > 0.02 and status.endswith(" ms on WebGPU.")
    else:
        assert difference < 0.005  # its probabilities are steps of 1/256
        assert status.endswith(" ms on the CPU, because WebGPU failed a check.")


@pytest.mark.parametrize("webgpu", [False, True], ids=["CPU", "WebGPU"])
def test_the_camera_is_answered_frame_by_frame_until_it_is_stopped(page, models, photo, webgpu):
    frames = rf"^digit 7, \d.* \d+\.\d frames a second, the model [\d.]+ ms on {ENGINE[webgpu]}\.$"
    page.get_by_role("button", name="Start the camera").click()
    assert error(page) == "Choose a model first."
    page.set_input_files("#model", models["int8"])
    playwright.expect(page.get_by_role("status")).to_have_text("Now choose an image.")
    page.get_by_role("button", name="Start the camera").click()
    status = page.get_by_role("status")
    playwright.expect(status).to_have_text(re.compile(frames))
    assert status.get_attribute("aria-live") == "off"  # not every frame is read out
    page.set_input_files("#model", models[None])  # while it runs
    playwright.expect(status).to_have_text(re.compile(frames))
    page.get_by_role("button", name="Stop the camera").click()
    playwright.expect(status).to_have_text("The camera is stopped.")
    assert page.locator("#camera").is_hidden()
    assert page.locator("#camera").evaluate("video => video.srcObject") is None
    page.set_input_files("#image", photo)
    playwright.expect(status).to_have_text(re.compile("^digit 7, .* Preparing the image took"))
