"""JPEG and PNG files decoded by TensorFlow's operators alone, so that a SavedModel can do it."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

# EXIF comes first in a file, or after a few segments; each is 64 KiB at the most.
_HEAD_BYTES = 2**18
_HEAD_SEGMENTS = 32

# For EXIF's orientations 1 to 8 (EXIF 2.3, section 4.6.4): whether rows and columns change places,
# and whether the rows, and the columns, are then reversed.
_TRANSPOSED = (False, False, False, False, True, True, True, True)
_ROWS_REVERSED = (False, False, True, True, False, False, True, True)
_COLUMNS_REVERSED = (False, True, True, False, False, True, True, False)


def decode(data: Any) -> Any:
    """Decodes one image to the way a person sees it.

    EXIF orientation is obeyed in JPEG files, transparency lies over white, grey is repeated over
    the three channels; of 16 bits the upper 8 are taken. Broken EXIF is no EXIF.

    Args:
        data: String tensor of shape (), a whole JPEG or PNG file. Anything else is a
            `tf.errors.InvalidArgumentError` when the operators run.

    Returns:
        uint8 tensor of shape (height, width, 3), 0 to 255.
    """
    image = tf.cond(tf.io.is_jpeg(data), lambda: _decode_jpeg(data), lambda: _decode_png(data))
    return tf.ensure_shape(image, (None, None, 3))


def _decode_jpeg(data: Any) -> Any:
    # the arithmetic that other programs use; TensorFlow's default is a faster and coarser one
    image = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
    return _upright(image, _orientation(_exif(data)))


def _decode_png(data: Any) -> Any:
    # TensorFlow adds a wrong alpha to grey of 1, 2 or 4 bits, as the header's 24th byte tells
    few_greys = tf.strings.substr(data, 24, 2) == tf.constant([b"\1\0", b"\2\0", b"\4\0"])
    return tf.cond(
        tf.reduce_any(few_greys),
        lambda: tf.io.decode_png(data, channels=3),
        lambda: _over_white(tf.io.decode_png(data, channels=4)),
    )


def _over_white(rgba: Any) -> Any:
    rgba = tf.cast(rgba, tf.uint16)
    colour, alpha = rgba[..., :3], rgba[..., 3:]
    over_white = colour * alpha + 255 * (255 - alpha)  # at most 255², which 16 bits hold
    return tf.cast((over_white + 127) // 255, tf.uint8)


def _upright(image: Any, orientation: Any) -> Any:
    def of(table: tuple[bool, ...]) -> Any:
        return tf.constant(table)[orientation - 1]

    turned = tf.cond(of(_TRANSPOSED), lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
    reversed_axes = tf.boolean_mask([0, 1], tf.stack([of(_ROWS_REVERSED), of(_COLUMNS_REVERSED)]))
    return tf.reverse(turned, reversed_axes)


def _exif(jpeg: Any) -> Any:
    """The TIFF structure in a JPEG's EXIF segment, uint8 of shape (n,); n is 0 if there is none."""
    data = tf.io.decode_raw(tf.strings.substr(jpeg, 0, _HEAD_BYTES), tf.uint8)

    def is_exif(at: Any) -> Any:
        marker_and_name = _bytes(data, at + tf.constant([0, 1, 4, 5, 6, 7, 8, 9], tf.int64))
        return tf.reduce_all(marker_and_name == [*b"\xff\xe1Exif\0\0"])

    def is_other_segment(at: Any) -> Any:
        return (_number(data, at, 1) == 0xFF) & ~is_exif(at)

    def end(at: Any) -> Any:  # of a segment: its two-byte marker is not counted in its length
        return at + 2 + _number(data, at + 2, 2)

    start = tf.constant(2, tf.int64)  # after the file's own marker
    (at,) = tf.while_loop(
        is_other_segment, lambda at: [end(at)], [start], maximum_iterations=_HEAD_SEGMENTS
    )
    return data[at + 10 : tf.where(is_exif(at), end(at), 0)]


def _orientation(tiff: Any) -> Any:
    """EXIF's orientation, 1 to 8; 1, upright, where it is missing or the structure is broken."""
    order = _number(tiff, 0, 2)
    little_endian = order == 0x4949

    def number(at: Any, width: int) -> Any:
        return _number(tiff, at, width, little_endian)

    is_tiff = (little_endian | (order == 0x4D4D)) & (number(2, 2) == 42)
    directory = number(4, 4)
    entries = directory + 2 + 12 * tf.range(number(directory, 2))
    tag, kind, value = (number(entries + offset, 2) for offset in (0, 2, 8))
    found = tf.boolean_mask(value, (tag == 0x0112) & (kind == 3))  # Orientation, a 16-bit number
    orientation = tf.concat([found, [1]], 0)[0]
    return tf.where(is_tiff & (orientation >= 1) & (orientation <= 8), orientation, 1)


def _number(data: Any, at: Any, width: int, little_endian: Any = False) -> Any:
    """The unsigned numbers of `width` bytes at each of the places, int64 of their shape."""
    place = tf.range(width, dtype=tf.int64)
    weight = 256 ** tf.where(little_endian, place, width - 1 - place)
    places = tf.expand_dims(tf.cast(at, tf.int64), -1) + place
    return tf.reduce_sum(_bytes(data, places) * weight, -1)


def _bytes(data: Any, places: Any) -> Any:
    """The bytes at these places, int64; beyond the end all are 0."""
    padded = tf.pad(data, [[0, 1]])
    return tf.cast(tf.gather(padded, tf.minimum(places, tf.size(data, tf.int64))), tf.int64)
