"""Published weights come from the Hub as they were published, or not at all."""

from __future__ import annotations

import hashlib
import re
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy
from golden.keras_weights import torch_weights
from golden.numpy_weights import numpy_weights, resnet_shapes
from huggingface_hub import constants
from PIL import Image
from weights.checkpoints import with_counters

from keras_resnet18 import build_plain18, build_resnet18, build_resnet34, save_weights
from keras_resnet18.errors import InputError
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.weights import catalogue
from keras_resnet18.weights.catalogue import (
    CATALOGUE,
    FILENAME,
    Published,
    fetch,
    find_weights,
    table,
)
from keras_resnet18.weights.checkpoints import is_name

PAGE = Path(__file__).parents[2] / "docs" / "keras.md"
CONTENT = bytes(range(256)) * 1000
REVISION = "0123456789" * 4
REPOSITORY = "models/timm/resnet18.made_up"


def entry_for(content):
    return Published(
        repository="timm/resnet18.made_up",
        revision=REVISION,
        sha256=hashlib.sha256(content).hexdigest(),
        license="Apache-2.0",
        preprocess=Preprocess(mean=(0.5,) * 3, std=(0.5,) * 3),
        top1=None,
    )


ENTRY = entry_for(CONTENT)


def serve(hub, content):
    """Lets a Hub have this content as the file of ENTRY."""
    hub.repositories[REPOSITORY] = {REVISION: {FILENAME: content}}


@pytest.fixture
def serving(hub):
    serve(hub, CONTENT)
    return hub


def refusal():
    """The line with which ENTRY is refused."""
    with pytest.raises(InputError) as error:
        fetch(ENTRY)
    assert "\n" not in str(error.value)
    return str(error.value)


# The table


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.name)
def test_an_entry_says_exactly_which_bytes_it_means(entry):
    assert re.fullmatch("[0-9a-f]{64}", entry.sha256)
    assert re.fullmatch("[0-9a-f]{40}", entry.revision)  # the client knows no shorter commits
    assert re.fullmatch(r"[\w-]+/[\w.-]+", entry.repository)
    assert entry.license and entry.network in ("resnet18", "resnet18d")
    assert entry.top1 is None or 60 < entry.top1 < 80
    assert entry.preprocess.size == (224, 224)
    assert is_name(entry.name)


def test_imagenet_is_timms_default():
    assert find_weights("imagenet") is find_weights("resnet18.a1_in1k")
    assert find_weights("imagenet").preprocess == Preprocess(
        crop_ratio=0.95, interpolation="bicubic"
    )


def test_an_unknown_name_is_refused_with_the_nearest_and_the_other_way():
    with pytest.raises(InputError) as error:
        find_weights("resnet18.a1_in1")
    message = str(error.value)
    assert "did you mean resnet18.a1_in1k?" in message and "the path of a checkpoint" in message
    assert "Received: weights='resnet18.a1_in1'" in message and "\n" not in message


def test_the_table_has_a_line_for_each_and_fits_a_terminal():
    lines = table().splitlines()
    assert max(map(len, lines)) <= 80
    for entry in CATALOGUE:
        (line,) = (line for line in lines if line.startswith(f"{entry.name} "))
        assert entry.license in line and f"{entry.preprocess.crop_ratio:g} " in line
        where = lines.index(f"{entry.repository}@{entry.revision}")
        assert lines[where + 1].strip() == entry.sha256
    assert "imagenet is resnet18.a1_in1k" in lines


# From the Hub


def test_a_file_is_downloaded_once_and_then_needs_no_network(serving):
    path = fetch(ENTRY)
    assert path.read_bytes() == CONTENT
    assert serving.requests[-1] == f"GET /timm/resnet18.made_up/resolve/{REVISION}/{FILENAME}"
    serving.close()
    assert fetch(ENTRY) == path


@pytest.mark.parametrize("no_links", [False, True])
def test_a_file_of_other_bytes_is_refused_and_removed(hub, tmp_path, monkeypatch, no_links):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", no_links)
    for wrong in (b"other" * 100, CONTENT[:-1]):
        serve(hub, wrong)
        message = refusal()
        assert ENTRY.sha256 in message and hashlib.sha256(wrong).hexdigest() in message
        assert "Try again" in message
        assert not any(path.is_file() for path in tmp_path.rglob(FILENAME))
    serve(hub, CONTENT)
    path = fetch(ENTRY)
    path.write_bytes(CONTENT[:-1])  # the cache goes bad
    assert "Try again" in refusal()
    assert fetch(ENTRY).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("status", "change"),
    [
        (404, lambda hub: serve(hub, None)),
        (404, lambda hub: hub.repositories.clear()),
        (403, lambda hub: hub.gated.add(REPOSITORY)),
        (503, lambda hub: setattr(hub, "down", True)),
    ],
)
def test_what_the_hub_does_not_give_is_one_line(serving, status, change):
    change(serving)
    message = refusal()
    assert str(status) in message and "timm/resnet18.made_up" in message


def test_without_a_network_the_file_can_be_put_where_the_error_says(hub, monkeypatch):
    hub.close()
    message = refusal()
    assert "refused" in message and "HF_HUB_OFFLINE=1" in message
    told = Path(re.search(rf"put it at (\S+{FILENAME}),", message)[1])
    told.parent.mkdir(parents=True)
    told.write_bytes(CONTENT)
    assert fetch(ENTRY) == told


# In a builder


@pytest.fixture(scope="module")
def imagenet_arrays():
    return numpy_weights(resnet_shapes(18, 1000), 3)


@pytest.fixture(scope="module")
def imagenet_file(imagenet_arrays):
    return safetensors.numpy.save(with_counters(imagenet_arrays))


@pytest.fixture
def imagenet(hub, imagenet_file, monkeypatch):
    """A hub whose "imagenet" is a checkpoint that a test made, normalized with .5 and .5."""
    serve(hub, imagenet_file)
    monkeypatch.setattr(catalogue, "CATALOGUE", (entry_for(imagenet_file),))
    monkeypatch.setitem(catalogue.ALIASES, "imagenet", "resnet18.made_up")
    return hub


def test_imagenet_gives_the_weights_of_the_file_and_its_normalization(imagenet, imagenet_arrays):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = build_resnet18(input_shape=(32, 32, 3), weights="imagenet")
    loaded = torch_weights(model, imagenet_arrays)
    assert loaded.keys() == imagenet_arrays.keys()
    for name, array in loaded.items():
        assert np.array_equal(array, imagenet_arrays[name]), name
    normalized = model.get_layer("normalization")(np.array([[[[0, 127.5, 255]]]]))
    np.testing.assert_allclose(np.ravel(normalized), [-1, 0, 1], atol=1e-6)


def test_other_classes_keep_the_body_and_say_that_the_head_is_new(imagenet, imagenet_arrays):
    with pytest.warns(UserWarning, match=r"^resnet18\.made_up has .* head for 5 cl") as warned:
        model = build_resnet18(input_shape=(32, 32, 3), weights="resnet18.made_up", classes=5)
    assert [warning.filename for warning in warned] == [__file__]  # the line that builds
    body = {name: a for name, a in imagenet_arrays.items() if not name.startswith("fc.")}
    for name, array in torch_weights(model, body).items():
        assert np.array_equal(array, body[name]), name
    head = keras.ops.convert_to_numpy(model.get_layer("predictions").kernel)
    assert head.shape == (512, 5) and head.std() > 0


def test_features_take_the_body_and_warn_of_nothing(imagenet, imagenet_arrays):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = build_resnet18(
            input_shape=(32, 32, 1),
            include_top=False,
            include_preprocessing=False,
            weights="imagenet",
        )
    kernel = model.get_layer("stem_conv").kernel  # grey: the sum over red, green and blue
    expected = imagenet_arrays["conv1.weight"].sum(axis=1, keepdims=True).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, expected)


@pytest.mark.parametrize(
    ("build", "arguments", "received"),
    [
        (build_resnet34, {"weights": "imagenet"}, "for a resnet34"),
        (build_plain18, {"weights": "resnet18.tv_in1k"}, "for a plain18"),
        (build_resnet18, {"weights": "imagenet", "stem": "small"}, "stem='small'"),
        (build_resnet18, {"weights": "resnet18d.ra2_in1k"}, "for a resnet18 with"),
    ],
)
def test_weights_of_another_network_are_refused_before_a_download(hub, build, arguments, received):
    with pytest.raises(InputError) as error:
        build(**arguments)
    expected, _, got = str(error.value).partition(" Received: ")
    network = find_weights(arguments["weights"]).network
    assert expected == f"these weights are for a {network} with the imagenet stem."
    assert received in got and "\n" not in got
    assert hub.requests == []


def test_the_lines_of_the_docs_for_a_photo_work(imagenet, tmp_path, monkeypatch, capsys):
    programs = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (program,) = (text for text in programs if 'weights="imagenet"' in text)
    monkeypatch.chdir(tmp_path)
    pixels = np.random.RandomState(0).randint(0, 256, (300, 400, 3), np.uint8)
    Image.fromarray(pixels).save("holiday.jpg")
    exec(program, {})
    assert len(re.findall(r"\('n\d{8}', .+?, 0\.\d+\)", capsys.readouterr().out)) == 5


def test_weights_of_resnet_d_go_into_its_variant(tmp_path, monkeypatch):
    published = build_resnet18(variant="d", input_shape=(32, 32, 3))
    save_weights(published, tmp_path / FILENAME, layout="timm")
    monkeypatch.setattr("keras_resnet18.model.arguments.fetch", lambda entry: tmp_path / FILENAME)
    model = build_resnet18(weights="resnet18d.ra2_in1k", variant="d", input_shape=(32, 32, 3))
    for got, expected in zip(model.get_weights(), published.get_weights(), strict=True):
        np.testing.assert_array_equal(got, expected)
