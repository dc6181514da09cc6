"""Broken EXIF costs a served image nothing; test_corpus.py has EXIF that is whole."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import tensorflow as tf
from corpus import encoded, smooth_image

from keras_resnet18.exporters import image_bytes
from keras_resnet18.images import decode_image

ORIENTATION = 0x0112


def decode(data):
    return image_bytes.decode(tf.constant(data)).numpy()


def jpeg_with(exif: bytes) -> bytes:
    """A JPEG with these bytes as its EXIF."""
    data = encoded(smooth_image(), "JPEG")
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def tiff(*, magic: int = 42, directory: int = 8, entries: int = 1) -> bytes:
    """The smallest EXIF, whose one entry says orientation 6."""
    head = b"II" + struct.pack("<HI", magic, directory)
    return head + struct.pack("<HHHIHHI", entries, ORIENTATION, 3, 1, 6, 0, 0)


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"Exif\0\0",
        b"Exif\0\0XX" + tiff()[2:],
        b"Exif\0\0" + tiff(magic=43),
        b"Exif\0\0" + tiff(directory=2**32 - 1),
        b"Exif\0\0" + tiff(entries=0),
        b"Exif\0\0" + tiff()[:-8],
        b"http://ns.adobe.com/xap/1.0/\0<x/>",
        b"Exif\0\0" + tiff().replace(b"\x06", b"\x09"),
    ],
)
def test_broken_exif_leaves_the_image_as_it_is(exif):
    data = jpeg_with(exif)
    np.testing.assert_array_equal(decode(data), decode_image(data))
    assert decode(data).shape == (30, 41, 3)


def test_an_entry_count_beyond_the_end_is_no_crash():
    assert decode(jpeg_with(b"Exif\0\0" + tiff(entries=65535))).shape == (41, 30, 3)
