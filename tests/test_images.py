"""The decoder gives every image as a person sees it; tests/corpus.py has more kinds of files."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import tensorflow as tf
from corpus import color_card, display_p3, encoded, exif
from PIL import Image, ImageCms
from sklearn.datasets import load_sample_image

from keras_resnet18.classify.evaluate import open_whole
from keras_resnet18.data.files import Header, read_header
from keras_resnet18.errors import InputError
from keras_resnet18.exporters import image_bytes
from keras_resnet18.images import (
    decode_image,
    image_format,
    is_image_name,
    jpeg_damage,
    largest_value,
    orientation,
    read_image,
)

# Four quarters of different colors, higher than wide: no turn or mirror image equals another.
QUARTERS = np.zeros((16, 8, 3), np.uint8)
QUARTERS[:8, :4] = (250, 10, 10)
QUARTERS[:8, 4:] = (10, 250, 10)
QUARTERS[8:, :4] = (10, 10, 250)
QUARTERS[8:, 4:] = (240, 240, 240)


def assert_near(image, expected):
    assert image.dtype == np.uint8 and image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).max() < 12


def test_every_format_gives_the_pixels_back():
    for kind in ("PNG", "BMP", "GIF", "WEBP"):
        data = encoded(Image.fromarray(QUARTERS), kind, lossless=True)
        np.testing.assert_array_equal(decode_image(data), QUARTERS, kind)
    jpeg = encoded(Image.fromarray(QUARTERS), "JPEG", quality=95, subsampling=0)
    assert_near(decode_image(jpeg), QUARTERS)
    cmyk = encoded(Image.fromarray(QUARTERS).convert("CMYK"), "JPEG", quality=95)
    assert_near(decode_image(cmyk)[2:6, 1:3], QUARTERS[2:6, 1:3])


# What a viewer does to the stored pixels for each value of the tag (EXIF 2.3, section 4.6.4)
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("turn", UPRIGHT)
def test_exif_orientation_is_obeyed(turn):
    for kind, options in (
        ("JPEG", {"quality": 100, "subsampling": 0}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
    ):
        data = encoded(Image.fromarray(QUARTERS), kind, exif=exif(turn), **options)
        assert_near(decode_image(data), UPRIGHT[turn](QUARTERS))


def test_an_orientation_is_read_from_exif_of_any_order_and_broken_exif_has_none():
    for order in "<>":
        assert orientation(exif(6, order).tobytes()) == 6
    good = exif(6).tobytes()
    assert orientation(good.removeprefix(b"Exif\0\0")) == 6
    broken = (b"", b"Exif\0\0", good[:20], good.replace(b"MM", b"XX"), exif(9).tobytes())
    assert [orientation(one) for one in (*broken, exif(None).tobytes())] == [1] * 6
    one_bad_tag = b"MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\x01\x0f\0\x02\xff"
    assert orientation(one_bad_tag) == 6


def row(*pixels, dtype=np.uint8, mode=None):
    return Image.fromarray(np.array([pixels], dtype), mode)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (row((200, 0, 0, 0), (200, 0, 0, 255), (0, 0, 0, 51)), [[255] * 3, [200, 0, 0], [204] * 3]),
        (row((0, 0), (0, 255), (7, 255), mode="LA"), [255, 0, 7]),
        (row(0, 9, 255), [0, 9, 255]),
        (row(0, 9, 255).convert("1"), [0, 0, 255]),
        (row(0, 257, 32768, 65535, dtype=np.uint16), [0, 1, 128, 255]),
    ],
    ids=["alpha", "grey alpha", "grey", "black and white", "16-bit grey"],
)
def test_transparency_lies_over_white_and_grey_is_scaled_and_repeated(image, expected):
    found = decode_image(encoded(image, "PNG"))
    expected = np.broadcast_to(np.reshape(expected, (1, len(expected), -1)), found.shape)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_white(kind):
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image = decode_image(encoded(palette, kind, transparency=1))
    np.testing.assert_array_equal(image, [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]])


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "MPO"])
def test_the_first_frame_of_an_animation_and_no_preview_is_taken(kind):
    first, second = (Image.new("RGB", (8, 8), color) for color in ("red", "blue"))
    data = encoded(first, kind, save_all=True, append_images=[second], lossless=True)
    assert_near(decode_image(data), np.full((8, 8, 3), (255, 0, 0), np.uint8))


def test_avif_and_heic_are_read_upright_and_refused_cut_short(tmp_path):
    stored = Image.fromarray(QUARTERS.repeat(32, 0).repeat(32, 1))
    upright = np.asarray(stored.transpose(Image.Transpose.ROTATE_270), np.int64)
    for kind, suffix in (("AVIF", ".avif"), ("HEIF", ".heic")):
        path = tmp_path / f"a{suffix}"
        data = encoded(stored, kind, quality=95, exif=exif(6).tobytes())
        path.write_bytes(data)
        assert is_image_name(path) and image_format(path) == kind
        assert np.abs(read_image(path) - upright).mean() < 3, kind
        with pytest.raises(InputError, match="whole JPEG"):
            decode_image(data[: len(data) // 2])


def test_names_and_headers_tell_images_apart(tmp_path):
    assert is_image_name("a/B.JPG") and not is_image_name("jpg") and not is_image_name("a.tif")
    text, image = tmp_path / "text.jpg", tmp_path / "image.jpg"
    text.write_text("no image")
    Image.fromarray(QUARTERS).save(image)
    assert image_format(image) == "JPEG" and image_format(text) is None
    np.testing.assert_array_equal(read_image(str(image)), decode_image(image.read_bytes()))


def test_an_error_names_what_it_is_about_on_one_line(tmp_path):
    with pytest.raises(InputError, match=r"Received: '5 bytes' .unknown format"):
        decode_image(b"hello")
    broken, missing = tmp_path / "née\nHund.jpg", tmp_path / "gone.png"
    broken.write_text("no image")
    for path, message in ((broken, r"Hund\.jpg"), (missing, "gone.png.*No such file")):
        with pytest.raises(InputError, match=message) as error:
            read_image(path)
        assert "\n" not in str(error.value)


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2] + b"\xff\xd9"


def _left_over(data: bytes) -> bytes:
    return data[:-2] + bytes(400) + data[-2:]


def _without_restart(data: bytes) -> bytes:
    return data.replace(b"\xff\xd3", b"", 1)


@pytest.mark.parametrize(
    ("options", "damage", "reason"),
    [
        ({}, _half, "missing: it ends before its last pixel"),
        ({}, _left_over, "left over after its last pixel"),
        ({"restart_marker_rows": 1}, _half, "missing"),
        ({"restart_marker_rows": 1}, _without_restart, "restart markers"),
        ({"progressive": True}, _half, "before its last scan"),
    ],
)
def test_a_jpeg_that_is_damaged_inside_is_told_from_a_whole_one(options, damage, reason):
    data = encoded(Image.fromarray(load_sample_image("china.jpg")), "JPEG", **options)
    assert jpeg_damage(data) is None and jpeg_damage(data + b"a tail") is None
    damaged = damage(data)
    decode_image(damaged)  # as if it were whole
    assert re.search(reason, jpeg_damage(damaged))


def test_16_bit_grey_is_scaled_by_a_stated_maximum_and_nothing_else_is():
    grey = np.array([[0, 16, 2048, 4095, 5000]], np.uint16)
    data = encoded(Image.fromarray(grey), "PNG")
    assert decode_image(data)[0, :, 0].tolist() == [0, 0, 8, 16, 19]
    scaled = decode_image(data, max_value=4095)
    assert scaled[0, :, 1].tolist() == [0, 1, 128, 255, 255]  # higher values are white too
    assert largest_value(data) == 5000
    for kind in ("PNG", "JPEG"):
        data = encoded(Image.fromarray(QUARTERS), kind)
        np.testing.assert_array_equal(decode_image(data, max_value=4095), decode_image(data))
        assert largest_value(data) is None


def test_16_bit_colors_are_not_scaled_wrongly_but_refused():
    data = tf.io.encode_png(np.full((4, 4, 3), 4095, np.uint16)).numpy()
    assert (decode_image(data) == 15).all()
    with pytest.raises(InputError, match="16-bit colors, which max_value cannot scale"):
        decode_image(data, max_value=4095)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_levels_are_as_they_are_stored_whatever_the_color_profile(kind, tmp_path):
    """As docs/reference.md has it, from a file, in tf.data and in a SavedModel."""
    profile = display_p3()
    tagged = encoded(color_card(), kind, lossless=True, icc_profile=profile)
    stored = decode_image(encoded(color_card(), kind, lossless=True))
    with Image.open(io.BytesIO(tagged)) as image:
        assert image.info["icc_profile"] == profile
        profiles = (ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"))
        converted = np.asarray(ImageCms.profileToProfile(image.convert("RGB"), *profiles), np.int64)
    assert np.abs(converted - stored).max(-1).mean() > 20  # so whoever converts is found out

    path = tmp_path / "card" / f"0.{kind.lower()}"
    path.parent.mkdir()
    path.write_bytes(tagged)
    np.testing.assert_array_equal(read_image(path), stored)
    (split,) = open_whole(tmp_path, ("card",)).splits
    ((image, _),) = split.elements(None, 0).map(split.fetch).as_numpy_iterator()
    np.testing.assert_array_equal(image, stored)
    if kind != "WEBP":  # which a SavedModel does not take
        np.testing.assert_array_equal(image_bytes.decode(tf.constant(tagged)), stored)
    assert (read_header(path) is Header.PLAIN_JPEG) == (kind == "JPEG")  # decoded natively
