"""JPEG and PNG files decoded by TensorFlow's operators alone, so that a SavedModel can do it."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_resnet18.images import MAX_PIXELS

_PNG = b"\x89PNG\r\n\x1a\n"  # its first bytes

# Segments of a JPEG, and chunks of a PNG, that are looked at for EXIF.
_MOST_SEGMENTS = 1000
_MOST_CHUNKS = 100_000

# For EXIF's orientations 1 to 8 (EXIF 2.3, section 4.6.4): whether rows and columns change places,
# and whether the rows, and the columns, are then reversed.
_TRANSPOSED = (False, False, False, False, True, True, True, True)
_ROWS_REVERSED = (False, False, True, True, False, False, True, True)
_COLUMNS_REVERSED = (False, True, True, False, False, True, True, False)


def decode(file: Any) -> Any:
    """Decodes one image to the way a person sees it.

    EXIF orientation is obeyed, transparency lies over white, grey is repeated over the three
    channels, 16-bit grey is scaled to 8 bits; of 16-bit colours the upper 8 bits are taken, and a
    transparent one is not looked for, as in `images.decode_image`. Broken EXIF counts as none.

    Args:
        file: String tensor of shape (), a whole JPEG or PNG file of at most MAX_PIXELS. Anything
            else is a `tf.errors.InvalidArgumentError` when the operators run.

    Returns:
        uint8 tensor of shape (height, width, 3), 0 to 255.
    """
    return _decode(file)


def _decode_either(file: Any) -> Any:
    is_jpeg = tf.io.is_jpeg(file)
    known = is_jpeg | (tf.strings.substr(file, 0, len(_PNG)) == _PNG)
    file = _checked(file, known, "a whole JPEG or PNG file", _beginning(file))
    size = tf.cond(
        is_jpeg, lambda: _jpeg_size(file), lambda: _number(_piece(file, 16, 8), [0, 4], 4)
    )
    allowed = tf.reduce_prod(size) <= MAX_PIXELS
    file = _checked(file, allowed, f"of at most {MAX_PIXELS:,} pixels, height × width", size)
    image = tf.cond(is_jpeg, lambda: _decode_jpeg(file), lambda: _decode_png(file))
    return tf.ensure_shape(image, (None, None, 3))


# traced once a process, and not for every endpoint
_decode = tf.function(_decode_either, [tf.TensorSpec((), tf.string)], autograph=False)


def _checked(file: Any, condition: Any, expected: str, received: Any) -> Any:
    """The file, which is not decoded unless the condition holds."""
    message = f"an image must be {expected}. Received:"
    with tf.control_dependencies([tf.debugging.Assert(condition, [message, received])]):
        return tf.identity(file)


def _beginning(file: Any) -> Any:
    """The first bytes of a file as text, such as `GIF89a??`: an error must be UTF-8."""
    begin = tf.cast(_piece(file, 0, 8), tf.int32)
    return tf.strings.unicode_encode(
        tf.where((begin > 31) & (begin < 127), begin, ord("?")), "UTF-8"
    )


def _jpeg_size(file: Any) -> Any:
    return tf.cast(tf.io.extract_jpeg_shape(file)[:2], tf.int64)


def _decode_jpeg(file: Any) -> Any:
    # the arithmetic that other programs use; TensorFlow's default is a faster and coarser one
    image = tf.io.decode_jpeg(file, channels=3, dct_method="INTEGER_ACCURATE")
    return _upright(image, _orientation(_jpeg_exif(file)))


def _decode_png(file: Any) -> Any:
    header = _piece(file, 24, 2)
    bits, colour_type = _number(header, 0, 1), _number(header, 1, 1)
    exif, has_transparency = _png_chunks(file)

    def grey_16() -> Any:
        rgba = tf.io.decode_png(file, channels=4, dtype=tf.uint16)
        levels = tf.cast(tf.round(tf.cast(rgba[..., :3], tf.float32) / 257), tf.uint8)
        return tf.where(rgba[..., 3:] > 0, levels, 255)

    image = tf.case(
        [
            # without transparency in the file, TensorFlow gives these an alpha of 1, 3 or 15
            ((bits < 8) & ~has_transparency, lambda: tf.io.decode_png(file, channels=3)),
            ((bits == 16) & (colour_type == 0), grey_16),
            ((bits == 16) & (colour_type == 2), lambda: tf.io.decode_png(file, channels=3)),
        ],
        default=lambda: _over_white(tf.io.decode_png(file, channels=4)),
    )
    return _upright(image, _orientation(exif))


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


def _jpeg_exif(file: Any) -> Any:
    """The TIFF structure in a JPEG's EXIF segment, uint8 of shape (n,); n is 0 if there is none."""

    def head(at: Any) -> Any:
        return _piece(file, at, 10)

    def is_exif(head: Any) -> Any:
        marker_and_name = _bytes(head, tf.constant([0, 1, 4, 5, 6, 7, 8, 9], tf.int64))
        return tf.reduce_all(marker_and_name == [*b"\xff\xe1Exif\0\0"])

    def is_other_segment(at: Any) -> Any:
        segment = head(at)
        is_scan = _number(segment, 1, 1) == 0xDA
        return (_number(segment, 0, 1) == 0xFF) & ~is_scan & ~is_exif(segment)

    (at,) = tf.while_loop(
        is_other_segment,
        lambda at: [at + 2 + _number(head(at), 2, 2)],  # a length does not count the marker
        [tf.constant(2, tf.int64)],  # after the file's own marker
        maximum_iterations=_MOST_SEGMENTS,
    )
    segment = head(at)
    return _piece(file, at + 10, tf.where(is_exif(segment), _number(segment, 2, 2) - 8, 0))


def _png_chunks(file: Any) -> tuple[Any, Any]:
    """The TIFF structure in the eXIf chunk, as of `_jpeg_exif`; whether there is transparency."""

    def kind(at: Any) -> Any:
        return tf.strings.substr(file, tf.minimum(at + 4, _length(file)), 4)

    def step(at: Any, exif: Any, transparent: Any) -> tuple[Any, Any, Any]:
        size = _number(_piece(file, at, 4), 0, 4)
        exif = tf.where(kind(at) == b"eXIf", tf.stack([at + 8, size]), exif)
        return at + 12 + size, exif, transparent | (kind(at) == b"tRNS")

    _, found, transparent = tf.while_loop(
        lambda at, *_: (kind(at) != b"IEND") & (kind(at) != b""),
        step,
        (tf.constant(8, tf.int64), tf.constant([0, 0], tf.int64), tf.constant(False)),
        maximum_iterations=_MOST_CHUNKS,
    )
    return _piece(file, found[0], found[1]), transparent


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


def _piece(file: Any, at: Any, size: Any) -> Any:
    """Up to `size` bytes of a file from `at` on, uint8; fewer at its end."""
    start = tf.minimum(tf.cast(at, tf.int64), _length(file))
    return tf.io.decode_raw(tf.strings.substr(file, start, tf.cast(size, tf.int64)), tf.uint8)


def _length(file: Any) -> Any:
    return tf.cast(tf.strings.length(file), tf.int64)
