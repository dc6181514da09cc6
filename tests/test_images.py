from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from keras_resnet18.data.stored import decode_op
from keras_resnet18.errors import InputError
from keras_resnet18.images import (
    broken_image,
    decode_image,
    image_format,
    is_image_name,
    read_image,
)

# Four quarters of different colours, higher than wide: no turn or mirror image equals another.
QUARTERS = np.zeros((16, 8, 3), np.uint8)
QUARTERS[:8, :4] = (250, 10, 10)
QUARTERS[:8, 4:] = (10, 250, 10)
QUARTERS[8:, :4] = (10, 10, 250)
QUARTERS[8:, 4:] = (240, 240, 240)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "WEBP"])
def test_lossless_formats_give_the_pixels_back(kind: str) -> None:
    data = encoded(Image.fromarray(QUARTERS), kind, lossless=True)
    np.testing.assert_array_equal(decode_image(data), QUARTERS)


def test_jpeg_gives_nearly_the_pixels_back() -> None:
    image = decode_image(encoded(Image.fromarray(QUARTERS), "JPEG", quality=95, subsampling=0))
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - QUARTERS).max() < 12


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


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_exif_orientation_is_obeyed(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {"lossless": True}
    data = encoded(Image.fromarray(QUARTERS), kind, exif=exif, **options)
    expected = UPRIGHT[orientation](QUARTERS)
    image = decode_image(data)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).max() < 12


def test_an_orientation_is_obeyed_though_another_tag_is_broken() -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\x01\x0f\0\x02\xff"
    data = encoded(Image.fromarray(QUARTERS), "JPEG", exif=exif)
    assert decode_image(data).shape == (8, 16, 3)


def test_alpha_lies_over_white() -> None:
    rgba = Image.fromarray(np.array([[[200, 0, 0, 0], [200, 0, 0, 255], [0, 0, 0, 51]]], np.uint8))
    expected = [[[255, 255, 255], [200, 0, 0], [204, 204, 204]]]
    np.testing.assert_array_equal(decode_image(encoded(rgba, "PNG")), expected)


def test_grey_with_alpha_lies_over_white() -> None:
    grey_alpha = Image.fromarray(np.array([[[0, 0], [0, 255], [7, 255]]], np.uint8), "LA")
    expected = [[[255] * 3, [0] * 3, [7] * 3]]
    np.testing.assert_array_equal(decode_image(encoded(grey_alpha, "PNG")), expected)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_white(kind: str) -> None:
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image = decode_image(encoded(palette, kind, transparency=1))
    np.testing.assert_array_equal(image, [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]])


def test_grey_and_black_and_white_are_repeated_over_three_channels() -> None:
    grey = Image.fromarray(np.array([[0, 9, 255]], np.uint8))
    np.testing.assert_array_equal(decode_image(encoded(grey, "PNG"))[0, 1], [9, 9, 9])
    bits = encoded(grey.convert("1"), "PNG")
    np.testing.assert_array_equal(decode_image(bits)[0, :, 0], [0, 0, 255])


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    grey = Image.fromarray(np.array([[0, 257, 32768, 65535]], np.uint16))
    image = decode_image(encoded(grey, "PNG"))
    np.testing.assert_array_equal(image[0, :, 1], [0, 1, 128, 255])


def test_cmyk_is_converted() -> None:
    cmyk = Image.fromarray(QUARTERS).convert("CMYK")
    image = decode_image(encoded(cmyk, "JPEG", quality=95))
    assert np.abs(image.astype(int) - QUARTERS)[2:6, 1:3].max() < 12


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_is_taken(kind: str) -> None:
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    data = encoded(first, kind, save_all=True, append_images=[second], lossless=True)
    np.testing.assert_array_equal(decode_image(data)[0, 0], [255, 0, 0])


def test_a_camera_jpeg_with_a_preview_inside_is_a_jpeg() -> None:
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    assert decode_image(data)[0, 0].argmax() == 0


def test_avif_and_heic_are_read_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    stored = Image.fromarray(QUARTERS.repeat(32, 0).repeat(32, 1))
    upright = np.asarray(stored.transpose(Image.Transpose.ROTATE_270), np.int64)
    for kind, suffix in (("AVIF", ".avif"), ("HEIF", ".heic")):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(encoded(stored, kind, quality=95, exif=exif.tobytes()))
        assert is_image_name(path) and image_format(path) == kind
        assert np.abs(read_image(path) - upright).mean() < 3, kind


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "AVIF", "HEIF"])
def test_a_truncated_file_is_an_input_error(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(InputError, match="whole JPEG"):
        decode_image(data[: len(data) // 2])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        encoded(Image.fromarray(QUARTERS), "TIFF"),
        encoded(Image.new("L", (1, 1)), "PPM"),
    ],
    ids=["empty", "text", "tiff", "ppm"],
)
def test_other_files_are_an_input_error(data: bytes) -> None:
    with pytest.raises(InputError, match=f"Received: '{len(data)} bytes' .unknown format"):
        decode_image(data)


def test_a_decompression_bomb_is_an_input_error() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(InputError, match=r"60,000 × 60,000 pixels, over|decompression bomb"):
        decode_image(bomb)


def test_an_error_names_the_path_on_one_line(tmp_path: Path) -> None:
    broken, missing = tmp_path / "née\nHund.jpg", tmp_path / "gone.png"
    broken.write_text("no image")
    with pytest.raises(InputError, match=r"Hund\.jpg") as broken_error:
        read_image(broken)
    with pytest.raises(InputError, match=r"gone.png.*No such file") as missing_error:
        read_image(missing)
    assert "\n" not in str(broken_error.value) + str(missing_error.value)


def test_a_path_gives_the_same_pixels_as_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "quarters.png"
    Image.fromarray(QUARTERS).save(path)
    np.testing.assert_array_equal(read_image(path), decode_image(path.read_bytes()))
    np.testing.assert_array_equal(read_image(str(path)), ImageOps.exif_transpose(Image.open(path)))


def test_names_and_headers_tell_images_apart(tmp_path: Path) -> None:
    assert is_image_name("a/B.JPG") and not is_image_name("jpg") and not is_image_name("a.tif")
    text, image = tmp_path / "text.jpg", tmp_path / "image.jpg"
    text.write_text("no image")
    Image.fromarray(QUARTERS).save(image)
    assert image_format(image) == "JPEG" and image_format(text) is None


def test_the_op_gives_pixels_of_unknown_size_and_three_channels(tmp_path: Path) -> None:
    path = tmp_path / "quarters.png"
    Image.fromarray(QUARTERS).save(path)
    pixels = tf.data.Dataset.from_tensors(str(path)).map(lambda p: decode_op(read_bytes_path, p))
    assert pixels.element_spec.shape.as_list() == [None, None, 3]
    np.testing.assert_array_equal(next(iter(pixels)), QUARTERS)


def read_bytes_path(path: bytes) -> np.ndarray:
    return read_image(path.decode())


def test_a_broken_image_is_found_in_tensorflows_error(tmp_path: Path) -> None:
    path = tmp_path / "Grüße.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0 no image")
    pixels = tf.data.Dataset.from_tensors(str(path)).map(lambda p: decode_op(read_bytes_path, p))
    with pytest.raises(tf.errors.OpError) as caught:
        next(iter(pixels))
    found = broken_image(caught.value)
    with pytest.raises(InputError) as direct:
        read_image(path)
    assert isinstance(found, InputError)
    assert str(found) == str(direct.value)


def test_other_errors_of_tensorflow_are_no_broken_image() -> None:
    with pytest.raises(tf.errors.OpError) as caught:
        tf.ensure_shape(tf.zeros(3), (4,))
    assert broken_image(caught.value) is None
