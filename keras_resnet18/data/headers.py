"""Headers of image files: what a file holds, and whether TensorFlow may decode it itself."""

from __future__ import annotations

import enum
import os
import struct
from collections.abc import Sequence
from typing import Literal

from keras_resnet18.data.each_file import READ, Advance, each_file, silent
from keras_resnet18.images import MAX_PIXELS, has_image_header

_FIRST_BYTES = 2**13  # the whole header of most files
_MOST_BYTES = 2**20  # of a header with a thumbnail and a colour profile

# Markers of JPEG (ITU T.81, table B.1); the 4, 8 and C among C0 to CF begin no frame
_FRAMES = frozenset(range(0xFFC0, 0xFFD0)) - {0xFFC4, 0xFFC8, 0xFFCC}
_BASELINE, _SCAN, _APP1, _APP14 = 0xFFC0, 0xFFDA, 0xFFE1, 0xFFEE
_ORIENTATION = 0x0112  # a tag of EXIF
_segment = struct.Struct(">HH").unpack_from  # marker and length


class Header(enum.Enum):
    """What the first bytes of a file say.

    PLAIN_JPEG is a baseline JPEG, grey or colour and not to be turned, which TensorFlow decodes to
    the pixels of `images.decode_image`; IMAGE is any other image, BROKEN anything else.
    """

    PLAIN_JPEG = enum.auto()
    IMAGE = enum.auto()
    BROKEN = enum.auto()


def read_headers(
    paths: Sequence[str | os.PathLike[str]], advance: Advance = silent
) -> list[Header]:
    """Reads the headers of many files."""
    return each_file(read_header, paths, advance)


def read_header(path: str | os.PathLike[str]) -> Header:
    """Reads the header of a file; no pixel is decoded."""
    try:
        file = os.open(path, READ)
        try:
            data = os.read(file, _FIRST_BYTES)
            header = header_of(data)
            if header is None and data[:2] == b"\xff\xd8":
                header = header_of(data + os.read(file, _MOST_BYTES))
        finally:
            os.close(file)
    except OSError:
        return Header.BROKEN
    if header is None:
        return Header.IMAGE if has_image_header(path) else Header.BROKEN
    return header


def header_of(data: bytes) -> Header | None:
    """What the first bytes of a file say; None if that takes more bytes, or Pillow, to tell."""
    if data[:16] == b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" or data[:5] in (b"GIF87", b"GIF89"):
        return Header.IMAGE
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return Header.IMAGE
    if data[:2] != b"\xff\xd8":
        return None
    header, at, frame = Header.PLAIN_JPEG, 2, False
    while at + 4 <= len(data):
        marker, length = _segment(data, at)
        if marker == _SCAN and frame:
            return header
        if marker < 0xFF01:
            return None
        if marker in _FRAMES:
            frame = True
            plain = marker == _BASELINE and _is_plain_frame(data[at + 4 : at + 10])
        elif marker == _APP1:
            plain = not _may_be_turned(data[at + 4 : at + 2 + length])
        else:  # Adobe's marker ends with the kind of the colours: 1 is YCbCr
            end = at + 2 + length
            plain = marker != _APP14 or data[end - 1 : end] == b"\1"
        if not plain:
            header = Header.IMAGE
        at += 2 + length
    return None


def _is_plain_frame(segment: bytes) -> bool:
    """Whether a frame has 8 bits, grey or three colours, and a size that is allowed."""
    height, width = int.from_bytes(segment[1:3]), int.from_bytes(segment[3:5])
    return segment[:1] == b"\x08" and segment[5:6] in b"\1\3" and 0 < height * width <= MAX_PIXELS


def _may_be_turned(segment: bytes) -> bool:
    """Whether EXIF might say that an image is not stored upright."""
    if segment[:6] != b"Exif\0\0":
        return False
    tiff = segment[6:]
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], order)

    start = number(4, 4)
    for entry in range(start + 2, min(start + 2 + 12 * number(start, 2), len(tiff)), 12):
        if number(entry, 2) == _ORIENTATION:
            return number(entry + 8, 2) != 1
    return tiff[:4] not in (b"II*\0", b"MM\0*")
