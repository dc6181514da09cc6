"""Requests and programs of docs/server.md, made as they stand there."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from keras_resnet18 import Preprocess, open_classifier, read_image
from keras_resnet18.images import resize_and_crop

PAGE = (Path(__file__).parents[1] / "docs" / "server.md").read_text(encoding="utf-8")

FILES = {"onnxruntime": "model.onnx", "ai_edge_litert": "model.tflite"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def place(exported, images, tmp_path, monkeypatch):
    """A folder with the page's files and a photo to be shrunk and cropped, to work in."""
    for name in ("model.tflite", "model.onnx"):
        if (exported / name).exists():
            shutil.copy(exported / name, tmp_path)
    with Image.open(images / "test" / "bee" / "0.png") as image:
        image.resize((84, 60)).save(tmp_path / "photo.jpg", quality=95)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def served(request: dict, model: Path) -> dict:
    """What TensorFlow Serving's REST API answers to a request in row format."""
    signature = tf.saved_model.load(str(model)).signatures[
        request.get("signature_name", "serving_default")
    ]
    ((name, spec),) = signature.structured_input_signature[1].items()
    decoded = [
        base64.b64decode(one["b64"]) if isinstance(one, dict) else one
        for one in request["instances"]
    ]
    columns = {
        key: value.numpy().tolist()
        for key, value in signature(**{name: tf.constant(decoded, spec.dtype)}).items()
    }
    # strings are base64 in the answer if their output is so named
    assert not any(key.endswith("_bytes") for key in columns)
    if len(columns) == 1:  # whose name is left out
        return {"predictions": next(iter(columns.values()))}
    rows = zip(*columns.values(), strict=True)
    return {"predictions": [dict(zip(columns, row, strict=True)) for row in rows]}


def named(model, photo, k):
    classifier = open_classifier(model)
    return classifier.answer(classifier.read(photo)[np.newaxis], k)[0].top


def test_the_curl_line_makes_the_request_and_the_answer_has_the_pages_keys(place, exported):
    _, curl = blocks("bash")
    body = curl.partition(" |\n  curl")[0]
    made = subprocess.run(["bash", "-c", body], capture_output=True, check=True).stdout
    shown, answer, *_ = map(json.loads, (x.replace("…", "") for x in blocks("json")))
    sent = json.loads(made)
    assert sent["instances"][0].keys() == shown["instances"][0].keys()
    assert sent | {"instances": []} == shown | {"instances": []}
    (row,) = served(sent, exported / "saved_model")["predictions"]
    assert row.keys() == answer["predictions"][0].keys()
    assert row["labels"][0] == b"bee"
    expected = named(exported / "saved_model", place / "photo.jpg", 3)
    assert row["probabilities"] == pytest.approx([p for _, p in expected], abs=1e-4)


def test_the_request_of_pixels_is_taken(exported):
    *_, request, answer = map(json.loads, (x.replace("…", "") for x in blocks("json")))
    got = served(request, exported / "saved_model")
    (probabilities,), (shown,) = got["predictions"], answer["predictions"]
    assert type(probabilities) is type(shown)
    assert len(probabilities) == 3 and sum(probabilities) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("words", "file"), FILES.items())
@pytest.mark.parametrize("threshold", [None, 1.0])
def test_a_program_gives_the_answer_of_predict(place, capsys, words, file, threshold):
    if not (place / file).exists():
        pytest.skip("needs the extra onnx")
    (program,) = (text for text in blocks("python") if words in text)
    if threshold is not None:
        program = program.replace('spec["threshold"] or 0', "1.0")
    exec(compile(program, file, "exec"), {})
    *label, probability = capsys.readouterr().out.split()
    ((best, expected),) = named(place / file, place / "photo.jpg", 1)
    assert " ".join(label) == ("not sure" if threshold else best)
    assert float(probability) == pytest.approx(expected, abs=0.02)
    written = [line for line in program.splitlines() if line]
    assert len([line for line in written if not re.match("import|from", line)]) <= 17


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "crop_ratio"), [((24, 32), 1.0), ((40, 32), 0.8)])
def test_its_pixels_are_those_of_the_spec(
    tmp_path, monkeypatch, fit, interpolation, size, crop_ratio
):
    # A multiple of both sizes: Pillow rounds where a bar ends, and would be off by half a row
    smooth = np.linspace(0, 255, 64 * 128 * 3).reshape(64, 128, 3).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "photo.jpg", quality=95)
    monkeypatch.chdir(tmp_path)
    preprocess = Preprocess(size, crop_ratio, interpolation, fit=fit)
    expected = resize_and_crop(read_image(tmp_path / "photo.jpg"), preprocess)
    for words in FILES:
        (program,) = (text for text in blocks("python") if words in text)
        start, end = program.index("image = ImageOps"), program.index("(probabilities,)")
        known = {"prepare": dataclasses.asdict(preprocess), "Image": Image, "ImageOps": ImageOps}
        exec(program[start:end], known)
        found = np.asarray(known["pixels"]).astype(int)
        assert found.shape == expected.shape and np.abs(found - expected).max() <= 1


def test_the_two_lines_do_it_too(place, capsys):
    if not (place / "model.onnx").exists():
        pytest.skip("needs the extra onnx")
    (program,) = (text for text in blocks("python") if "kr.predict" in text)
    exec(compile(program, "two lines", "exec"), {})
    assert "'bee'" in capsys.readouterr().out
