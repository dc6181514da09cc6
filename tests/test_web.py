"""The page in examples/web, used in a real browser, gives the answers of the interpreter."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from browser import CHROMIUM, WEB, chromium, served
from PIL import Image
from sklearn.datasets import load_sample_image
from small import build_tiny

from keras_resnet18 import Preprocess, build_resnet18, export_tflite
from keras_resnet18.classify.classifier import open_classifier
from keras_resnet18.images import read_image
from keras_resnet18.spec import threshold_to_json
from keras_resnet18.tflite_file import append_files

SIZE = 64

pytestmark = [pytest.mark.web, pytest.mark.filterwarnings("ignore:.*how images are prepared")]
playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs playwright: see CONTRIBUTING.md"
)
if not CHROMIUM:
    pytest.skip("needs Chromium: see CONTRIBUTING.md", allow_module_level=True)
if not (WEB / "node_modules").is_dir():
    pytest.skip("needs npm ci in examples/web: see CONTRIBUTING.md", allow_module_level=True)


# What a browser that errs would see: the label of its answer then says what it did wrong.


def views(name: str, upright: np.ndarray) -> dict[str, np.ndarray]:
    return {
        name: upright,
        f"{name} sideways": np.rot90(upright),  # as the bytes in the file lie
        f"{name} with red and blue swapped": upright[..., ::-1],
    }


def colour_card() -> np.ndarray:
    """Four colours in the corners and all between them, uint8 (200, 300, 3)."""
    corners = np.array([[[220, 30, 40], [250, 210, 20]], [[20, 60, 200], [30, 160, 90]]])
    y, x = np.mgrid[0:1:200j, 0:1:300j][..., np.newaxis]
    top, bottom = (row[0] * (1 - x) + row[1] * x for row in corners)
    return np.rint(top * (1 - y) + bottom * y).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("web")


@pytest.fixture(scope="module")
def images(folder):
    """A colour card, and a photograph that lies sideways in its file, as phones leave them."""
    Image.fromarray(colour_card()).save(folder / "card.png")
    photo = Image.fromarray(load_sample_image("china.jpg")[40:400, 60:560])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    photo.transpose(Image.Transpose.ROTATE_90).save(
        folder / "photo.jpg", exif=exif, quality=90, subsampling=2
    )
    return {"card": folder / "card.png", "photo": folder / "photo.jpg"}


@pytest.fixture(scope="module")
def seen(images):
    """By label, what the classifier is made to recognise, uint8 (64, 64, 3) each."""
    spec = Preprocess(size=(SIZE, SIZE))
    return {
        label: spec.resize_and_crop(view.copy()).numpy()
        for name, path in images.items()
        for label, view in views(name, read_image(path)).items()
    }


@pytest.fixture(scope="module")
def models(folder, seen):
    """A ResNet-18 of random convolutions whose head tells what was seen apart, in two formats."""
    keras.utils.set_random_seed(0)
    images = np.stack(list(seen.values()))
    model = build_resnet18(stem="small_stride2", input_shape=(SIZE, SIZE, 3), classes=len(seen))
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0  # one pass in training mode, and the statistics are these images'
    model(images.astype("float32"), training=True)
    features = keras.Model(model.input, model.get_layer("head_pool").output)(images).numpy()
    weights = np.linalg.pinv(features) * 4  # logits of 4 for the right class, 0 for the others
    model.get_layer("predictions").set_weights([weights, np.zeros(len(seen))])
    files = {"float32": folder / "model.tflite", "int8": folder / "model-int8.tflite"}
    export_tflite(model, files["float32"], labels=list(seen), check=images)
    export_tflite(
        model,
        files["int8"],
        labels=list(seen),
        quantize="int8",
        calibration=np.concatenate([images] * 34),  # 200 are asked for
        min_agreement=0.0,
    )
    return files


@pytest.fixture(scope="module")
def unnamed(folder):
    """A classifier of 16×16 images into three classes, without labels."""
    model = build_tiny(input_shape=(16, 16, 3), classes=3, stem="small", dropout=0.0)
    return export_tflite(model, folder / "unnamed.tflite").path


@pytest.fixture(scope="module")
def foreign(folder):
    """A .tflite file that takes something else: one grey channel, in float32."""
    model = keras.Sequential([keras.Input((4, 4, 1), batch_size=1), keras.layers.Flatten()])
    path = folder / "foreign.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    return path


@pytest.fixture(scope="module")
def site():
    with served() as address:
        yield address


@pytest.fixture(scope="module")
def launch():
    with chromium() as launch:
        yield launch


@pytest.fixture(scope="module")
def browser(launch):
    return launch()


@pytest.fixture
def page(browser, site):
    page = browser.new_page()
    page.goto(site)
    yield page
    page.close()


@pytest.fixture
def phone(browser, site):
    """The page on a phone of 360 × 740 points."""
    page = browser.new_page(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page.goto(site)
    yield page
    page.close()


def answers(page) -> dict[str, float]:
    """What the page answers: probabilities by label, the most probable first."""
    page.locator("#result:visible, #error:not(:empty)").first.wait_for()
    assert page.inner_text("#error") == ""
    assert page.get_attribute("main", "aria-busy") == "false"
    names = page.locator("#answers li > span:first-child").all_inner_texts()
    values = page.locator("#answers data").evaluate_all("all => all.map(one => one.value)")
    return dict(zip(names, map(float, values), strict=True))


def error(page) -> str:
    page.locator("#error:not(:empty)").wait_for()
    assert page.locator("#result").is_hidden()
    return page.inner_text("#error")


# The answers


@pytest.mark.parametrize("format", ["float32", "int8"])
def test_sideways_and_swapped_images_would_give_other_answers(models, seen, format):
    """Else the tests below could not fail."""
    classifier = open_classifier(models[format])
    got = classifier.predict(np.stack(list(seen.values())))
    assert [classifier.labels[i] for i in got.argmax(1)] == list(seen)
    for wrong, upright in ((1, 0), (2, 0), (4, 3), (5, 3)):
        assert abs(got[wrong] - got[upright]).max() > 0.1


def interpreted(model: Path, image: Path, spec: Preprocess) -> dict[str, float]:
    """What LiteRT's interpreter gives for an image, prepared by TensorFlow; the best first."""
    pixels = spec.resize_and_crop(read_image(image)).numpy()
    return dict(open_classifier(model).best(pixels[np.newaxis], 6)[0])


@pytest.mark.parametrize("image", ["card", "photo"])
@pytest.mark.parametrize("format", ["float32", "int8"])
def test_the_page_gives_the_answer_of_the_interpreter(page, models, images, format, image):
    page.set_input_files("#model", models[format])
    page.set_input_files("#image", images[image])
    got = answers(page)
    expected = interpreted(models[format], images[image], Preprocess(size=(SIZE, SIZE)))
    assert next(iter(got)) == next(iter(expected)) == image
    assert len(got) == 5
    assert got == pytest.approx({label: expected[label] for label in got}, abs=1e-3)
    assert list(got.values()) == sorted(got.values(), reverse=True)
    said = page.inner_text("[role=status]")
    assert said.startswith(f"{image}, {100 * got[image]:.1f} %. The model took ")
    assert said.count(" ms") == 2


def pack(path: Path, name: str, text: str) -> Path:
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, text)
    return path


def test_preprocess_json_in_the_model_is_obeyed(page, models, images, tmp_path):
    model = Path(shutil.copy(models["float32"], tmp_path))
    spec = Preprocess(size=(SIZE, SIZE), crop_ratio=0.5, interpolation="bicubic")
    pack(model, "preprocess.json", json.dumps(spec.to_dict()))
    page.set_input_files("#model", model)
    page.set_input_files("#image", images["photo"])
    got, expected = answers(page), interpreted(model, images["photo"], spec)
    assert got == pytest.approx({label: expected[label] for label in got}, abs=1e-3)
    without = interpreted(model, images["photo"], Preprocess(size=(SIZE, SIZE)))
    assert max(abs(without[label] - expected[label]) for label in expected) > 1e-2


@pytest.mark.parametrize(("threshold", "known"), [(0.0, True), (1.0, False)])
def test_below_the_score_threshold_it_is_none_of_these(
    page, models, images, tmp_path, threshold, known
):
    model = Path(shutil.copy(models["float32"], tmp_path))
    pack(model, "threshold.json", threshold_to_json(threshold))
    page.set_input_files("#model", model)
    page.set_input_files("#image", images["photo"])
    got = answers(page)
    label, probability = next(iter(got.items()))
    best = f"{label}, {100 * probability:.1f} %"
    said = page.inner_text("[role=status]")
    assert said.startswith(f"{best}. " if known else f"None of these (best: {best}). ")


@pytest.mark.parametrize("text", ["", "{}", '{"score_threshold": 2}'])
def test_threshold_json_must_be_one(page, unnamed, tmp_path, text):
    model = pack(Path(shutil.copy(unnamed, tmp_path)), "threshold.json", text)
    page.set_input_files("#model", model)
    page.wait_for_function("document.querySelector('#error').textContent")
    assert "must have a probability" in page.inner_text("#error")


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [True, False])
def test_pixels_are_those_of_preprocess(page, interpolation, antialias, fit):
    spec = Preprocess((40, 24), 0.8, interpolation, antialias, fit=fit)
    photo = load_sample_image("china.jpg")[100:250:2, 100:500:3]
    for shape in ((90, 131), (131, 60), (11, 17), (40, 40), (1, 1), (9, 300)):
        image = np.resize(photo, (*shape, 3))
        expected = spec.resize_and_crop(image).numpy()
        rgba = np.concatenate([image, np.full((*shape, 1), 255, np.uint8)], axis=-1)
        got = page.evaluate(
            """async ([height, width, rgba, spec]) => {
              const { resizeAndCrop } = await import("/preprocess.js");
              return Array.from(resizeAndCrop({ height, width, rgba }, spec));
            }""",
            [*shape, rgba.ravel().tolist(), spec.to_dict()],
        )
        difference = abs(np.reshape(got, expected.shape) - expected.astype(int))
        assert difference.max() <= 1 and (difference > 0).mean() < 0.01, shape


def test_a_transparent_image_lies_over_white(page, tmp_path):
    pixels = np.zeros((600, 4, 4), np.uint8)  # higher than the band that is read at once
    pixels[:300, :, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "half.png")
    page.set_input_files("#image", tmp_path / "half.png")
    got = page.evaluate(
        """async () => {
          const { decode } = await import("/preprocess.js");
          const { width, height, rgba } = await decode(document.querySelector("#image").files[0]);
          return [height, width, Array.from(rgba)];
        }"""
    )
    rgb = np.reshape(got[2], (got[0], got[1], 4))[..., :3]
    np.testing.assert_array_equal(rgb, read_image(tmp_path / "half.png"))


# Labels


def test_classes_without_names_have_their_numbers(page, unnamed, images):
    page.set_input_files("#model", unnamed)
    page.set_input_files("#image", images["card"])
    assert sorted(answers(page)) == ["0", "1", "2"]


def test_packed_labels_may_be_deflated(page, unnamed, images, tmp_path):
    path = Path(shutil.copy(unnamed, tmp_path))
    pack(path, "other.txt", "x\n" * 1000)
    pack(path, "labels.txt", "ant\nbee\n蝉\n")
    page.set_input_files("#image", images["card"])
    page.set_input_files("#model", path)
    assert sorted(answers(page)) == ["ant", "bee", "蝉"]


# Bad input


def test_a_model_must_be_a_tflite_file(page, images):
    page.set_input_files("#model", images["card"])
    assert error(page) == "Expected a .tflite model. Received: card.png"


def test_a_model_must_take_images(page, foreign):
    page.set_input_files("#model", foreign)
    assert error(page) == (
        "foreign.tflite must take uint8 (1, height, width, 3) and give float32 (1, classes). "
        "Received: float32 (1, 4, 4, 1) and float32 (1, 16)"
    )


def test_a_cut_model_is_refused_and_the_next_one_is_not(page, unnamed, images, tmp_path):
    (tmp_path / "cut.tflite").write_bytes(unnamed.read_bytes()[:2000])
    page.set_input_files("#image", images["card"])
    page.set_input_files("#model", tmp_path / "cut.tflite")
    assert error(page).startswith("cut.tflite cannot be run by LiteRT.js: ")
    page.set_input_files("#model", unnamed)
    assert len(answers(page)) == 3


def test_labels_must_be_as_many_as_classes(page, unnamed, tmp_path):
    path = Path(shutil.copy(unnamed, tmp_path / "two.tflite"))
    append_files(path, {"labels.txt": "".join(f"{x}\n" for x in ["ant", "bee"])})
    page.set_input_files("#model", path)
    assert error(page) == (
        "The labels in two.tflite must be as many as its classes, 3. Received: 2"
    )


@pytest.mark.parametrize("text", ["{", "null", '{"size": [16, 16], "crop_ratio": 2}'])
def test_preprocess_json_must_be_one(page, unnamed, tmp_path, text):
    path = pack(Path(shutil.copy(unnamed, tmp_path)), "preprocess.json", text)
    page.set_input_files("#model", path)
    assert error(page) == (
        f"Expected a preprocess.json that export wrote in unnamed.tflite. Received: {text}"
    )


def test_preprocess_json_must_be_for_the_model(page, unnamed, tmp_path):
    spec = json.dumps(Preprocess(size=(24, 32)).to_dict())
    path = pack(Path(shutil.copy(unnamed, tmp_path)), "preprocess.json", spec)
    page.set_input_files("#model", path)
    assert error(page) == (
        "The preprocess.json in unnamed.tflite must be for the model's 16 × 16 pixels. "
        "Received: 24 × 32"
    )


def test_an_image_must_be_one_and_no_old_answer_stays(page, unnamed, images, tmp_path):
    page.set_input_files("#model", unnamed)
    page.set_input_files("#image", images["card"])
    assert answers(page)
    (tmp_path / "words.jpg").write_text("no image")
    page.set_input_files("#image", tmp_path / "words.jpg")
    assert error(page) == "Expected an image that this browser can open. Received: words.jpg"


def test_without_litert_the_page_says_how_to_get_it(browser, site, unnamed):
    page = browser.new_page()
    page.route("**/node_modules/**", lambda route: route.abort())
    page.goto(site)
    page.set_input_files("#model", unnamed)
    assert "run npm ci" in error(page)
    page.close()


# The person


def test_all_can_be_done_with_the_keyboard(page, unnamed, images):
    # Playwright begins to catch dialogues a moment after it is asked to: too late for the first key
    page.on("filechooser", lambda _: None)
    for id_, file in (("model", unnamed), ("image", images["card"])):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        assert focused.get_attribute("id") == id_
        assert focused.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
        with page.expect_file_chooser() as chooser:
            page.keyboard.press("Enter")
        chooser.value.set_files(file)
        playwright.expect(page.get_by_role("status")).not_to_have_text(re.compile("Choose|…"))
    assert len(answers(page)) == 3


def test_a_screen_reader_hears_names_states_and_the_answer(page, unnamed, images):
    for label in ("Model", "Image"):
        assert page.get_by_label(label, exact=True).count() == 1
    assert page.get_by_role("status").inner_text() == "Choose a model and an image."
    page.set_input_files("#model", unnamed)
    playwright.expect(page.get_by_role("status")).to_have_text("Now choose an image.")
    page.set_input_files("#image", images["card"])
    best = max(answers(page).items(), key=lambda item: item[1])
    assert page.get_by_role("status").inner_text().startswith(f"{best[0]}, {100 * best[1]:.1f} %")
    assert page.get_by_role("list").get_by_role("listitem").count() == 3
    assert page.get_by_role("img", name="The image as the network sees it").count() == 1
    page.set_input_files("#model", images["card"])
    playwright.expect(page.get_by_role("alert")).to_contain_text("Expected a .tflite model")


def test_files_can_be_dropped(page, unnamed, images):
    page.set_input_files("#image", [images["card"]])  # one way to get files into the browser
    page.evaluate(
        """() => {
          const dataTransfer = new DataTransfer();
          const { files } = document.querySelector("#image");
          dataTransfer.items.add(files[0]);
          document.querySelector("#image").value = "";
          window.dropped = dataTransfer;
        }"""
    )
    page.set_input_files("#model", unnamed)
    page.evaluate(
        """() => {
          window.dropped.items.add(document.querySelector("#model").files[0]);
          document.querySelector("#model").value = "";
          const options = { dataTransfer: window.dropped, bubbles: true, cancelable: true };
          document.querySelector("h1").dispatchEvent(new DragEvent("drop", options));
        }"""
    )
    assert len(answers(page)) == 3
    assert page.eval_on_selector("#model", "one => one.files[0].name") == "unnamed.tflite"
    assert page.eval_on_selector("#image", "one => one.files[0].name") == "card.png"


# The camera


@pytest.fixture(scope="module")
def film(folder, images):
    """The colour card in motion, as Chromium's fake camera shows it: YUV4MPEG2, 4:2:0."""
    card = Image.fromarray(read_image(images["card"])).convert("YCbCr")
    luma, *chroma = card.split()
    small = [plane.resize((150, 100)) for plane in chroma]
    frame = b"FRAME\n" + b"".join(plane.tobytes() for plane in (luma, *small))
    path = folder / "card.y4m"
    path.write_bytes(b"YUV4MPEG2 W300 H200 F30:1 Ip A1:1 C420jpeg\n" + 30 * frame)
    return path


@pytest.fixture(scope="module")
def filming(launch, film):
    flags = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    return launch(*flags, f"--use-file-for-fake-video-capture={film}")


@pytest.fixture
def live(filming, site):
    page = filming.new_page(viewport={"width": 360, "height": 740})
    page.goto(site)
    yield page
    page.close()


def test_the_camera_is_answered_frame_by_frame_until_it_is_stopped(live, models, images):
    live.set_input_files("#model", models["float32"])
    live.get_by_role("button", name="Start the camera").click()
    status = live.get_by_role("status")
    playwright.expect(status).to_have_text(re.compile(r"card, \d.* \d+\.\d frames a second\.$"))
    assert next(iter(answers(live))) == "card"
    assert status.get_attribute("aria-live") == "off"  # not every frame is read out
    assert live.locator("#camera").evaluate("video => video.videoWidth") > 0
    stop = live.get_by_role("button", name="Stop the camera")
    assert stop.evaluate("one => one === document.activeElement")
    stop.click()
    playwright.expect(status).to_have_text("The camera is stopped.")
    assert live.locator("#camera").is_hidden()
    assert live.locator("#camera").evaluate("video => video.srcObject") is None
    live.set_input_files("#image", images["photo"])
    playwright.expect(status).to_have_text(re.compile("^photo, "))


def test_another_model_or_an_image_may_be_chosen_while_the_camera_runs(
    live, models, unnamed, images
):
    live.set_input_files("#model", models["int8"])
    live.get_by_role("button", name="Start the camera").click()
    status = live.get_by_role("status")
    playwright.expect(status).to_have_text(re.compile("^card, "))
    live.set_input_files("#model", unnamed)
    playwright.expect(status).to_have_text(re.compile("^[0-2], .* frames a second"))
    live.set_input_files("#image", images["card"])
    playwright.expect(status).to_have_text(re.compile("^[0-2], .* The model took"))
    assert live.locator("#camera").is_hidden()


def test_a_camera_needs_a_model_and_a_permission(live, page, unnamed):
    live.get_by_role("button", name="Start the camera").click()
    assert error(live) == "Choose a model first."
    page.set_input_files("#model", unnamed)  # in a browser without a camera
    playwright.expect(page.get_by_role("status")).to_have_text("Now choose an image.")
    page.get_by_role("button", name="Start the camera").click()
    assert error(page).startswith("The camera cannot be used: ")
    assert page.get_by_role("button", name="Start the camera").is_visible()


def test_a_phone_has_a_camera_and_nothing_to_scroll_sideways(phone, models, images):
    width = "document.documentElement.scrollWidth"
    assert phone.evaluate(width) == 360
    photo = phone.get_by_label("Or take a photo")
    assert photo.get_attribute("capture") == "environment"
    phone.set_input_files("#model", models["float32"])
    photo.set_input_files(images["photo"])
    assert next(iter(answers(phone))) == "photo"
    assert phone.evaluate(width) == 360


def test_a_computer_does_not_offer_a_phones_way_to_take_a_photo(page):
    assert page.locator("#photo").is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_what_they_stand_on(page, scheme):
    """4.5 : 1 or more, WCAG's level AA."""
    page.emulate_media(color_scheme=scheme)
    names = ["--paper", "--card", "--ink", "--soft", "--accent", "--on-accent", "--wrong"]
    colours = page.evaluate(
        """names => names.map(name =>
          getComputedStyle(document.documentElement).getPropertyValue(name).trim())""",
        names,
    )
    light = dict(zip(names, map(luminance, colours), strict=True))
    for text, ground in (
        ("--ink", "--paper"),
        ("--ink", "--card"),
        ("--soft", "--paper"),
        ("--soft", "--card"),
        ("--wrong", "--paper"),
        ("--on-accent", "--accent"),
    ):
        low, high = sorted((light[text], light[ground]))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)


def luminance(colour: str) -> float:
    """WCAG's relative luminance of #rrggbb, 0 to 1."""
    values = np.array(list(bytes.fromhex(colour.removeprefix("#")))) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_no_bytes_come_from_elsewhere(browser, site, unnamed, images):
    page = browser.new_page()
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    page.goto(site)
    page.set_input_files("#model", unnamed)
    page.set_input_files("#image", images["card"])
    assert answers(page)
    assert len(addresses) > 5
    assert [url for url in addresses if not url.startswith((site, "data:"))] == []
    page.close()
