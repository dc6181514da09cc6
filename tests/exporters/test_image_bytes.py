"""A served image is decoded, by TensorFlow alone, to the pixels of the house's decoder."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_resnet18.exporters import image_bytes
from keras_resnet18.images import decode_image

ORIENTATION = 0x0112


def smooth_image(height: int = 60, width: int = 83) -> Image.Image:
    """As a photo: soft shades with an edge, no two sides or corners alike."""
    y, x = np.mgrid[:height, :width] / (height, width)[0]
    shades = [np.sin(3 * x + y) + 1, np.cos(2 * y) * x + 1, np.exp(-((x - 0.6) ** 2) * 4) + (y > x)]
    pixels = np.stack([255 * shade / shade.max() for shade in shades], -1)
    grain = np.random.default_rng(0).normal(0, 3, pixels.shape)
    return Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def decode():
    """The decoder compiled, as it is in a SavedModel."""
    graph = tf.function(image_bytes.decode, input_signature=[tf.TensorSpec((), tf.string)])
    return lambda data: graph(tf.constant(data)).numpy()


def largest_difference(got, expected):
    assert got.dtype == np.uint8 and got.shape == expected.shape
    return np.abs(got.astype(int) - expected).max()


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 95, "subsampling": "4:4:4"},
        {"quality": 75, "subsampling": "4:2:0"},
        {"quality": 85, "subsampling": "4:2:2"},
        {"quality": 75, "progressive": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_gives_the_same_pixels(decode, options, mode):
    data = encoded(smooth_image().convert(mode), "JPEG", **options)
    assert largest_difference(decode(data), decode_image(data)) == 0


def every_alpha() -> Image.Image:
    """256×256 pixels: every level under every opacity."""
    level, alpha = np.meshgrid(np.arange(256), np.arange(256))
    return Image.fromarray(np.stack([level, 255 - level, level // 2, alpha], -1).astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "P", "1", "RGBA"])
def test_a_png_gives_the_same_pixels(decode, mode):
    data = encoded(every_alpha().convert(mode), "PNG")
    assert largest_difference(decode(data), decode_image(data)) == 0


def test_a_transparent_colour_of_a_png_is_white(decode):
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    data = encoded(palette, "PNG", transparency=1)
    assert decode(data).tolist() == [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("transparency", [None, 1, bytes([0, 128])], ids=str)
def test_a_palette_of_any_size_gives_the_same_pixels(decode, bits, transparency):
    options = {} if transparency is None else {"transparency": transparency}
    data = encoded(smooth_image().quantize(2**bits), "PNG", bits=bits, **options)
    assert data[24] == bits  # of the header: the bits of an index
    assert largest_difference(decode(data), decode_image(data)) == 0


def test_a_palette_of_one_colour_is_not_white(decode):
    data = encoded(Image.new("RGB", (8, 8), (200, 30, 30)).quantize(8), "PNG")
    assert decode(data).tolist() == [[[200, 30, 30]] * 8] * 8


@pytest.mark.parametrize(("mode", "colour"), [("1", 255), ("L", 128), ("RGB", (9, 9, 9))])
def test_a_transparent_grey_or_colour_gives_the_same_pixels(decode, mode, colour):
    image = smooth_image()
    image.paste((128, 128, 128) if mode == "L" else (9, 9, 9), (0, 0, 20, 20))
    data = encoded(image.convert(mode), "PNG", transparency=colour)
    assert largest_difference(decode(data), decode_image(data)) == 0


def test_16_bit_grey_gives_the_same_pixels(decode):
    data = encoded(Image.fromarray(np.arange(65536, dtype=np.uint16).reshape(256, 256)), "PNG")
    assert largest_difference(decode(data), decode_image(data)) == 0


# EXIF


def exif_with(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = "a camera's maker"  # other tags before and behind, as cameras write them
    exif[ORIENTATION] = orientation
    exif[0x0132] = "2015:12:10 00:00:00"
    return exif


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_obeyed(decode, orientation, kind):
    data = encoded(smooth_image(), kind, exif=exif_with(orientation))
    assert largest_difference(decode(data), decode_image(data)) == 0
    assert (decode(data).shape[0] > decode(data).shape[1]) == (orientation > 4)


def jpeg_with(exif: bytes, before: bytes = b"") -> bytes:
    """A JPEG with these bytes as its EXIF, and other segments before them."""
    data = encoded(smooth_image(), "JPEG")
    return data[:2] + before + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def tiff(order: str = "<", *, magic: int = 42, directory: int = 8, entries: int = 1) -> bytes:
    """The smallest EXIF, whose one entry says orientation 6."""
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", magic, directory)
    return head + struct.pack(f"{order}HHHIHHI", entries, ORIENTATION, 3, 1, 6, 0, 0)


@pytest.mark.parametrize("order", ["<", ">"], ids=["little-endian", "big-endian"])
@pytest.mark.parametrize("before", [0, 1, 3, 100], ids="{} segments before".format)
def test_exif_is_found_in_either_byte_order_and_behind_other_segments(decode, order, before):
    other = b"\xff\xe0" + struct.pack(">H", 20_000) + bytes(19_998)
    data = jpeg_with(b"Exif\0\0" + tiff(order), before=before * other)
    assert largest_difference(decode(data), decode_image(data)) == 0
    assert decode(data).shape == (83, 60, 3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"Exif\0\0",
        b"Exif\0\0II",
        b"Exif\0\0XX" + tiff()[2:],
        b"Exif\0\0" + tiff(magic=43),
        b"Exif\0\0" + tiff(directory=9),
        b"Exif\0\0" + tiff(directory=2**32 - 1),
        b"Exif\0\0" + tiff(entries=0),
        b"Exif\0\0" + tiff()[:-8],
        b"http://ns.adobe.com/xap/1.0/\0<x/>",
        b"Exif\0\0" + tiff().replace(b"\x06", b"\x09"),
    ],
    ids=[
        "empty",
        "no structure",
        "cut short",
        "no byte order",
        "not the number 42",
        "a directory elsewhere",
        "a directory far away",
        "no entries",
        "half an entry",
        "not EXIF",
        "no such orientation",
    ],
)
def test_broken_exif_leaves_the_image_as_it_is(decode, exif):
    data = jpeg_with(exif)
    assert largest_difference(decode(data), decode_image(data)) == 0
    assert decode(data).shape == (60, 83, 3)


def test_an_entry_count_beyond_the_end_is_no_crash(decode):
    assert decode(jpeg_with(b"Exif\0\0" + tiff(entries=65535))).shape == (83, 60, 3)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xd8\xff", b"I am no image", encoded(smooth_image(), "JPEG")[:900]],
    ids=["empty", "a beginning", "text", "half a JPEG"],
)
def test_what_is_no_image_is_an_error(decode, data):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(data)
