"""JPEG and PNG decoding with TensorFlow operators only, for use inside a SavedModel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_resnet18.images import MAX_PIXELS

_PNG = b"\x89PNG\r\n\x1a\n"  # the signature of a PNG file
_GRAY, _RGB, _PALETTE = 0, 2, 3  # PNG color types

_MAX_SEGMENTS = 1000  # of a JPEG, in which EXIF is searched for

# For EXIF orientations 1 to 8 (EXIF 2.3, section 4.6.4): whether rows and columns are swapped, and
# whether the rows, and the columns, are then reversed.
_TRANSPOSED = (False, False, False, False, True, True, True, True)
_ROWS_REVERSED = (False, False, True, True, False, False, True, True)
_COLUMNS_REVERSED = (False, True, True, False, False, True, True, False)


def _decode(file: Any) -> Any:
    """Decodes a JPEG or PNG file, a string tensor of shape (), to uint8 (height, width, 3).

    The pixels are those of `images.decode_image`. The EXIF orientation of a JPEG is applied, that
    of a PNG is not. Transparent pixels are blended over white, except in 16-bit RGB without an
    alpha channel. Grayscale is repeated over three channels. 16-bit grayscale is scaled to 8 bits;
    of 16-bit colors, the upper 8 bits are taken. Invalid EXIF data is ignored.

    Raises:
        tf.errors.InvalidArgumentError: When run on another format, a damaged file, or one of more
            than MAX_PIXELS pixels.
    """
    data = tf.pad(tf.io.decode_raw(file, tf.uint8), [[0, 1]])
    is_jpeg = tf.io.is_jpeg(file)
    is_known = is_jpeg | (tf.strings.substr(file, 0, len(_PNG)) == _PNG)
    file = _checked(file, is_known, "a whole JPEG or PNG file", "another format")
    size = tf.cond(
        is_jpeg,
        lambda: tf.cast(tf.io.extract_jpeg_shape(file)[:2], tf.int64),
        lambda: _number(data, [16, 20], 4),
    )
    is_allowed = tf.reduce_prod(size) <= MAX_PIXELS
    file = _checked(file, is_allowed, f"of at most {MAX_PIXELS:,} pixels, height × width", size)
    image = tf.cond(is_jpeg, lambda: _decode_jpeg(file, data), lambda: _decode_png(file, data))
    return tf.ensure_shape(image, (None, None, 3))


# Traced once per process rather than once per endpoint
decode: Callable[[Any], Any] = tf.function(_decode, [tf.TensorSpec((), tf.string)], autograph=False)


def refuse_16_bit(file: Any) -> Any:
    """Returns a JPEG or PNG file with an assertion that it is not a PNG of 16 bits."""
    bits = tf.pad(tf.io.decode_raw(file, tf.uint8), [[0, 25]])[24]
    is_png = tf.strings.substr(file, 0, len(_PNG)) == _PNG
    return _checked(
        file, ~is_png | (bits != 16), "of 8 bits, scaled before by max_value", "16 bits"
    )


def _checked(file: Any, condition: Any, expected: str, received: Any) -> Any:
    """Returns the file with an assertion that runs before it is decoded."""
    message = f"an image must be {expected}. Received:"
    with tf.control_dependencies([tf.debugging.Assert(condition, [message, received])]):
        return tf.identity(file)


def _decode_png(file: Any, data: Any) -> Any:
    bits, color_type = _number(data, 24, 1), _number(data, 25, 1)

    def gray() -> Any:
        # One level may be transparent. With fewer than 8 bits and no such level, TensorFlow sets
        # alpha to 1, 3 or 15 instead of 255.
        image = tf.io.decode_png(file, channels=4, dtype=tf.uint16)
        levels = tf.cast(tf.round(tf.cast(image[..., :3], tf.float32) / 257), tf.uint8)
        return tf.where(image[..., 3:] > 0, levels, 255)

    def palette() -> Any:
        image = tf.io.decode_png(file)  # 4 channels if there is transparency, else 3
        alpha = [[0, 0], [0, 0], [0, 4 - tf.shape(image)[2]]]
        return _over_white(tf.pad(image, alpha, constant_values=255))

    return tf.case(
        [
            (color_type == _GRAY, gray),
            (color_type == _PALETTE, palette),
            ((color_type == _RGB) & (bits == 16), lambda: tf.io.decode_png(file, channels=3)),
        ],
        default=lambda: _over_white(tf.io.decode_png(file, channels=4)),
    )


def _over_white(rgba: Any) -> Any:
    rgba = tf.cast(rgba, tf.uint16)
    color, alpha = rgba[..., :3], rgba[..., 3:]
    over_white = color * alpha + 255 * (255 - alpha)  # at most 255², which fits 16 bits
    return tf.cast((over_white + 127) // 255, tf.uint8)


def _decode_jpeg(file: Any, data: Any) -> Any:
    # The arithmetic of other programs; TensorFlow's default is faster and less accurate
    image = tf.io.decode_jpeg(file, channels=3, dct_method="INTEGER_ACCURATE")
    orientation = _orientation(_exif(data))

    def of(table: tuple[bool, ...]) -> Any:
        return tf.constant(table)[orientation - 1]

    turned = tf.cond(of(_TRANSPOSED), lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
    reversed_axes = tf.boolean_mask([0, 1], tf.stack([of(_ROWS_REVERSED), of(_COLUMNS_REVERSED)]))
    return tf.reverse(turned, reversed_axes)


def _exif(data: Any) -> Any:
    """TIFF structure of a JPEG's EXIF segment, uint8 (n + 1,), followed by a 0."""

    def is_exif(at: Any) -> Any:
        name = int.from_bytes(b"Exif\0\0")
        return (_number(data, at, 2) == 0xFFE1) & (_number(data, at + 4, 6) == name)

    def is_other_segment(at: Any) -> Any:
        is_scan = _number(data, at, 2) == 0xFFDA
        return (_number(data, at, 1) == 0xFF) & ~is_scan & ~is_exif(at)

    (at,) = tf.while_loop(
        is_other_segment,
        lambda at: [at + 2 + _number(data, at + 2, 2)],  # a length does not count the marker
        [tf.constant(2, tf.int64)],  # after the file's own marker
        maximum_iterations=_MAX_SEGMENTS,
    )
    end = at + 2 + _number(data, at + 2, 2)
    return tf.pad(data[at + 10 : tf.where(is_exif(at), end, 0)], [[0, 1]])


def _orientation(tiff: Any) -> Any:
    """EXIF orientation, 1 to 8; 1, which is upright, if it is missing or invalid."""
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
    """Unsigned numbers of `width` bytes at some positions, int64.

    The last byte of `data` must be 0: it is read for every position past the end.
    """
    place = tf.range(width, dtype=tf.int64)
    weight = 256 ** tf.where(little_endian, place, width - 1 - place)
    positions = tf.expand_dims(tf.cast(at, tf.int64), -1) + place
    values = tf.gather(data, tf.minimum(positions, tf.size(data, tf.int64) - 1))
    return tf.reduce_sum(tf.cast(values, tf.int64) * weight, -1)
