"""Image files of many kinds, whole and damaged, through every decoder and every verb."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from corpus import damaged, refused_files, whole_files
from PIL import ImageFile

from keras_resnet18 import check, evaluate, predict, train
from keras_resnet18.data.files import Header, each_file, read_header
from keras_resnet18.data.stored import encoded_image
from keras_resnet18.errors import InputError
from keras_resnet18.exporters import image_bytes
from keras_resnet18.images import broken_image, decode_image, jpeg_damage

WHOLE, REFUSED = whole_files(), refused_files()
FILES = {**WHOLE, **REFUSED, **damaged(WHOLE)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All files, in two classes."""
    root = tmp_path_factory.mktemp("corpus")
    for number, (name, data) in enumerate(FILES.items()):
        path = root / "ab"[number % 2] / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return root


def outcome(decode):
    """The pixels, or why there are none."""
    try:
        return np.asarray(decode())
    except (InputError, tf.errors.OpError) as error:
        return error


@pytest.fixture(scope="module")
def decoded():
    """What the house's decoder makes of each file."""
    return {name: outcome(lambda data=data: decode_image(data)) for name, data in FILES.items()}


def test_every_kind_is_decoded_or_refused_in_one_line(decoded):
    for name, found in decoded.items():
        if name in WHOLE:
            assert not isinstance(found, Exception), (name, found)
        if isinstance(found, Exception):
            assert str(found).startswith("an image must be a whole JPEG") and "\n" not in str(found)
        if name in REFUSED or ", half" in name:
            assert isinstance(found, InputError) or "animated" in name or "preview" in name, name


# JPEGs whose pixels TensorFlow would not give as Pillow does: they go through Pillow.
NOT_PLAIN = {
    *(f"jpeg turned {number}.jpg" for number in range(2, 9)),
    "jpeg turned 6, little endian.jpg",
    "jpeg turned far behind.jpg",
    "jpeg progressive.jpg",
    "jpeg progressive grey.jpeg",
    "jpeg cmyk.jpg",
    "jpeg ycck.jpg",
}


def test_training_sees_the_pixels_of_the_decoder_or_its_error(decoded, folder):
    paths = {path.name: path for path in folder.glob("*/*")}
    headers = dict(zip(paths, each_file(read_header, list(paths.values())), strict=True))

    @tf.function(input_signature=[tf.TensorSpec((), tf.string), tf.TensorSpec((), tf.bool)])
    def trained(data, plain):
        image = encoded_image(data, plain, decode_image, data)
        pixels = image.whole()
        tf.debugging.assert_equal(image.size, tf.shape(pixels)[:2])
        return pixels

    for name, data in FILES.items():
        expected = decoded[name]
        if headers[name] is Header.BROKEN:  # it is refused when the source is opened
            assert isinstance(expected, InputError), name
            continue
        plain = headers[name] is Header.PLAIN_JPEG
        got = outcome(lambda data=data, plain=plain: trained(data, plain))
        if isinstance(got, Exception):
            assert isinstance(expected, InputError), (name, got)
            assert "\n" not in str(broken_image(got)), name
        else:
            np.testing.assert_array_equal(got, expected, name)
    plain = {name for name in WHOLE if headers[name] is Header.PLAIN_JPEG}
    assert plain == {name for name in WHOLE if name.startswith("jpeg")} - NOT_PLAIN


JPEG_OR_PNG = (b"\xff\xd8", b"\x89PNG")  # first bytes

# JPEG in CMYK, which the two programs round differently.
ROUNDED = ("jpeg cmyk", "jpeg ycck")


def test_a_server_sees_the_pixels_of_the_decoder_or_one_clear_error(decoded):
    for name, data in FILES.items():
        expected = decoded[name]
        got = outcome(lambda data=data: image_bytes.decode(tf.constant(data)))
        if not data.startswith(JPEG_OR_PNG):
            assert "must be a whole JPEG or PNG file" in str(got), name
        elif name in WHOLE:
            assert not isinstance(got, Exception), (name, got)
        if isinstance(got, Exception):
            assert isinstance(got, tf.errors.InvalidArgumentError), (name, got)
        else:
            assert not isinstance(expected, Exception), (name, expected)
            if name.startswith("png turned"):  # a PNG's orientation is not applied there
                expected = decoded["png turned 1.png"]
            most = 1 if name.startswith(ROUNDED) else 0
            np.testing.assert_allclose(got.astype(int), expected, 0, most, err_msg=name)


@pytest.mark.parametrize("name", [name for name in REFUSED if name.startswith("huge")])
def test_pixels_are_counted_before_memory_is_asked_for(name, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("was decoded"))
    with pytest.raises(InputError, match="pixels"):
        decode_image(REFUSED[name])
    if REFUSED[name].startswith(JPEG_OR_PNG):
        with pytest.raises(tf.errors.InvalidArgumentError, match="at most 89,478,485 pixels"):
            image_bytes.decode(tf.constant(REFUSED[name]))


@pytest.mark.usefixtures("tiny_network")
def test_check_train_evaluate_and_predict_lose_no_file(decoded, folder, quick_recipe, tmp_path):
    unread = {name for name, found in decoded.items() if isinstance(found, Exception)}
    inside = {name for name in decoded.keys() - unread if jpeg_damage(FILES[name])}
    assert inside and not inside & WHOLE.keys()
    broken = unread | inside

    found = check(folder)
    listed = {i for one in found.findings if one.kind == "undecodable" for i in one.images}
    assert {Path(name).name for name in listed} == broken
    assert found.n == len(FILES) - len(broken)

    recipe = dataclasses.replace(quick_recipe, epochs=1)
    run = train(str(folder), recipe, tmp_path / "run", on_bad_image="skip")
    assert {Path(name).name for name in run.environment["left_out"]} == broken
    sizes = [evaluate(run, split=split).n for split in ("train", "validation", "test")]
    assert sum(sizes) == len(FILES) - len(broken)

    rows = list(predict(run, folder))
    assert sorted(row.path.name for row in rows) == sorted(FILES)
    assert {row.path.name for row in rows if row.error is not None} == unread
