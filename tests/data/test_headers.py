from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_image

from keras_resnet18.data.headers import Header, header_of, read_header, read_headers
from keras_resnet18.data.sources import open_source
from keras_resnet18.data.stored import StoredImage, encoded_image
from keras_resnet18.errors import InputError
from keras_resnet18.images import broken_image, decode_image

PHOTO = Image.fromarray(load_sample_image("flower.jpg")).resize((203, 131))


def jpeg(image: Image.Image = PHOTO, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def exif(orientation: int | None, order: str = "big") -> bytes:
    tags = Image.Exif()
    tags.endian = ">" if order == "big" else "<"
    tags[0x010F] = "a camera"
    if orientation is not None:
        tags[0x0112] = orientation
    return tags.tobytes()


PLAIN = {
    "small": jpeg(PHOTO.resize((1, 1))),
    "odd size": jpeg(PHOTO.resize((17, 9))),
    "4:4:4": jpeg(subsampling=0),
    "4:2:2": jpeg(subsampling=1),
    "4:2:0": jpeg(subsampling=2, quality=40),
    "optimized": jpeg(optimize=True),
    "restart markers": jpeg(restart_marker_blocks=3),
    "grey": jpeg(PHOTO.convert("L")),
    "upright": jpeg(exif=exif(1)),
    "upright, little endian": jpeg(exif=exif(1, "little")),
    "no orientation": jpeg(exif=exif(None)),
    "long comment": jpeg(comment=b"x" * 60_000),
    "profile": jpeg(icc_profile=bytes(100_000)),
}
OTHERS = {
    **{f"turned by {i}": jpeg(exif=exif(i)) for i in range(2, 9)},
    "turned, little endian": jpeg(exif=exif(6, "little")),
    "turned by XMP": jpeg(xmp=b'<x tiff:Orientation="6"/>'),
    "progressive": jpeg(progressive=True),
    "CMYK": jpeg(PHOTO.convert("CMYK")),
    "RGB, not YCbCr": jpeg(keep_rgb=True),
}


def viewed(
    data: bytes, plain: bool, view: Callable[[StoredImage], Any], asked: list[bytes] | None = None
) -> np.ndarray:
    """A view of an image, made in a `tf.data` graph; `asked` gets what Python decodes."""

    def decode(value: bytes) -> np.ndarray:
        if asked is not None:
            asked.append(value)
        return decode_image(value, name="image.jpg")

    files = tf.data.Dataset.from_tensors((data, plain))
    views = files.map(lambda data, plain: view(encoded_image(data, plain, decode, data)))
    pixels: np.ndarray = next(views.as_numpy_iterator())
    return pixels


def whole(image: StoredImage) -> Any:
    return image.whole()


@pytest.mark.parametrize("name", [*PLAIN, *OTHERS])
def test_tensorflow_decodes_plain_jpegs_alone_and_to_the_same_pixels(
    name: str, tmp_path: Path
) -> None:
    data = (PLAIN | OTHERS)[name]
    path = tmp_path / "image.jpg"
    path.write_bytes(data)
    assert read_header(path) is (Header.PLAIN_JPEG if name in PLAIN else Header.IMAGE)
    asked: list[bytes] = []
    expected = decode_image(data)
    np.testing.assert_array_equal(viewed(data, name in PLAIN, whole, asked), expected)
    assert viewed(data, name in PLAIN, lambda image: image.size).tolist() == [*expected.shape[:2]]
    assert bool(asked) == (name in OTHERS)


def test_headers_tell_images_from_other_files(tmp_path: Path) -> None:
    contents: dict[str, bytes] = {"text.jpg": b"no image", "empty.png": b"", "cut.jpg": jpeg()[:99]}
    for kind in ("PNG", "GIF", "BMP", "WEBP"):
        file = io.BytesIO()
        PHOTO.save(file, kind)
        contents[f"{kind}.png"] = file.getvalue()  # the name says nothing
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    found = read_headers([*(tmp_path / name for name in contents), tmp_path / "missing.png"])
    assert found == [Header.BROKEN] * 3 + [Header.IMAGE] * 4 + [Header.BROKEN]


def test_a_jpeg_of_too_many_pixels_is_not_for_tensorflow() -> None:
    data = bytearray(jpeg())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    assert header_of(bytes(data)) is Header.IMAGE
    with pytest.raises(InputError, match=r"65,535 × 65,535 pixels|decompression bomb"):
        decode_image(bytes(data))


def test_any_damage_to_a_jpeg_is_seen_by_both_decoders_alike() -> None:
    draw = random.Random(0)
    data = jpeg(PHOTO.resize((60, 40)), quality=60)
    outcomes = {"same": 0, "refused": 0}
    for _ in range(100):
        damaged = bytearray(data)
        damaged[draw.randrange(len(data))] = draw.randrange(256)
        plain = header_of(bytes(damaged)) is Header.PLAIN_JPEG
        try:
            pixels = decode_image(bytes(damaged))
        except InputError:
            outcomes["refused"] += 1
            if plain:
                with pytest.raises(tf.errors.OpError) as caught:
                    viewed(bytes(damaged), plain, whole)
                assert isinstance(broken_image(caught.value), InputError)
        else:
            outcomes["same"] += 1
            np.testing.assert_array_equal(viewed(bytes(damaged), plain, whole), pixels)
    assert min(outcomes.values()) > 8


@pytest.mark.parametrize("times", [1, 2, 4, 8])
@pytest.mark.parametrize("plain", [True, False])
def test_a_window_is_the_part_of_the_image_that_was_asked_for(times: int, plain: bool) -> None:
    # red and green hold a pixel's place, so the ends of a result tell its window
    y, x = np.mgrid[:240, :240]
    places = np.stack([y, x, 0 * y], -1).astype(np.uint8)
    data = jpeg(Image.fromarray(places), quality=100, subsampling=0)
    size = 24
    start, extent = (8, 16), (size * times + 5, size * times + 2)
    box = tf.constant(start), tf.constant(extent), (size, size), "bilinear"
    window = viewed(data, plain, lambda image: image.window(*box))
    for axis, ends in enumerate((window[[0, -1], 12, 0], window[12, [0, -1], 1])):
        step = extent[axis] / size
        expected = [start[axis] + step / 2 - 0.5, start[axis] + extent[axis] - step / 2 - 0.5]
        np.testing.assert_allclose(ends, expected, atol=2 + times / 2)


def test_a_window_of_a_photo_is_near_the_antialiased_one() -> None:
    photo = Image.fromarray(load_sample_image("flower.jpg")).resize((1280, 854))
    data = jpeg(photo, quality=90)
    box = tf.constant((50, 100)), tf.constant((700, 900)), (96, 96), "bilinear"
    ours, exact = (viewed(data, plain, lambda image: image.window(*box)) for plain in (True, False))
    unfiltered = tf.image.resize(decode_image(data)[50:750, 100:1000], (96, 96))
    assert np.abs(ours - exact).mean() < 4 < np.abs(unfiltered - exact).mean()


def test_a_jpeg_cut_short_or_emptied_is_named() -> None:
    for data in (jpeg()[:-200], b""):
        with pytest.raises(tf.errors.OpError) as caught:
            viewed(data, True, whole)
        assert "'image.jpg'" in str(broken_image(caught.value))


def test_a_file_that_is_gone_is_named(make_folder: Callable[..., Path]) -> None:
    folder = make_folder("a/1.png", "b/1.png")
    for name in ("a", "b"):
        for i in range(20):
            (folder / name / f"{i}.jpg").write_bytes(jpeg())
    split = open_source(folder).splits["train"]
    for path in folder.glob("*/*.jpg"):
        path.unlink()
    with pytest.raises(tf.errors.OpError) as caught:
        list(split.elements(None, 0).map(split.fetch))
    assert f"{folder}/a/" in str(broken_image(caught.value))
    assert "No such file" in str(broken_image(caught.value))
