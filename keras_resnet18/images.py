"""Image files as upright RGB uint8: the decoder, and resizing and cropping without TensorFlow."""

from __future__ import annotations

import importlib.util
import io
import os
import re
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from keras_resnet18.errors import InputError
from keras_resnet18.preprocess import FULL_RANGE, Preprocess

MAX_PIXELS = 89_478_485  # of an image: where Pillow begins to warn; 268 MB once it is decoded

# Formats that are read, by Pillow's names, and the suffixes of their files
FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
}
FORMATS_IN_WORDS = "JPEG, PNG, BMP, GIF, WebP or AVIF"

if importlib.util.find_spec("pillow_heif"):  # the extra `heic`: its codec's license is the LGPL
    import pillow_heif

    pillow_heif.register_heif_opener()
    FORMATS["HEIF"] = (".heic", ".heif")
    FORMATS_IN_WORDS = "JPEG, PNG, BMP, GIF, WebP, AVIF or HEIC"

_PNG = b"\x89PNG\r\n\x1a\n"  # its first bytes; byte 24 is its bits, byte 25 its kind of colors
_GRAY = 0

# Markers of JPEG (ITU T.81, table B.1) that are not part of a scan's data
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])", re.DOTALL)
_RESTART = re.compile(rb"\xff([\xd0-\xd7])", re.DOTALL)
_FRAMES = frozenset(bytes([0xC0 + kind]) for kind in range(16) if kind not in (4, 8, 12))
_BLOCK = 2**16  # bytes that Pillow reads at once, and no header does
_LOOKAHEAD = 16  # bytes at the end that libjpeg wants to see beside those that it needs, at most
_LEFT_OVER = 4  # bytes without a meaning at the end of a scan, which some cameras write

_SHORT = 3  # EXIF's type of a 16-bit number
# What turns an image upright, by its EXIF orientation (EXIF 2.3, section 4.6.4)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_EXPECTED = "an image must be"  # the beginning of every refusal of an image


def is_image_name(name: str | os.PathLike[str]) -> bool:
    """Whether a file of this name should hold an image that `decode_image` reads."""
    lower = os.fspath(name).lower()
    return any(lower.endswith(suffixes) for suffixes in FORMATS.values())


def decode_image(
    data: bytes, *, name: str | None = None, max_value: int = FULL_RANGE
) -> npt.NDArray[np.uint8]:
    """Decodes an image to the pixels that a person sees.

    EXIF orientation is applied, transparency is blended over white, gray is repeated over the three
    channels, 16-bit gray is scaled to 8 bits, and CMYK is converted. Of 16-bit colors the upper 8
    bits are taken, of an animation the first frame.

    Args:
        data: A JPEG, PNG, BMP, GIF, WebP or AVIF file; HEIC with the extra `heic`.
        name: Name of the image in an error; its number of bytes by default.
        max_value: Value that is white in 16-bit gray, as `Preprocess` has it.

    Returns:
        uint8 array of shape (height, width, 3), 0 to 255.

    Raises:
        InputError: If `data` is of another format, damaged, cut short or of over MAX_PIXELS; and
            for 16-bit colors with a `max_value` other than 65,535.
    """
    try:
        if max_value != FULL_RANGE and data[:8] == _PNG and data[24] == 16 and data[25] != _GRAY:
            raise ValueError("16-bit colors, which max_value cannot scale: make them 8-bit or gray")
        with _opened(io.BytesIO(data)) as image:
            image.load()
            turn = _TURNS.get(orientation(image.info.get("exif", b"")))
            upright = image if turn is None else image.transpose(turn)
            return np.array(_as_rgb(upright, max_value))
    except Exception as error:  # broken bytes make Pillow raise nearly anything, and only they vary
        raise InputError(_refusal(name or f"{len(data)} bytes", error)) from error


def read_image(
    path: str | os.PathLike[str], *, max_value: int = FULL_RANGE
) -> npt.NDArray[np.uint8]:
    """Reads an image file; see `decode_image`.

    Returns:
        uint8 array of shape (height, width, 3), 0 to 255.

    Raises:
        InputError: If the file cannot be read or is not a whole image; the message has its path.
    """
    return decode_image(read_bytes(path), name=os.fspath(path), max_value=max_value)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Reads an image file without decoding it. Raises InputError if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(_unreadable(os.fspath(path), error.strerror)) from error


def largest_value(data: bytes) -> int | None:
    """Largest value of a 16-bit gray image file, 0 to 65,535; None for any other image."""
    if data[:8] != _PNG or data[24:26] != bytes((16, _GRAY)):
        return None
    with _opened(io.BytesIO(data)) as image:
        return int(np.asarray(image).max())


def image_format(file: str | os.PathLike[str] | io.BytesIO) -> str | None:
    """Reads the format of an image from its header: a key of `FORMATS`, or None for any other."""
    try:
        with _opened(file) as image:
            return "JPEG" if image.format == "MPO" else image.format  # MPO: with a preview
    except Exception:  # as in decode_image
        return None


def image_size(data: bytes) -> tuple[int, int] | None:
    """Reads (height, width) of the upright image from its header; None if it cannot be read."""
    try:
        with _opened(io.BytesIO(data)) as image:
            turned = orientation(image.info.get("exif", b"")) > 4
            return image.size if turned else image.size[::-1]
    except Exception:  # as in decode_image
        return None


class _HeldBack(io.BytesIO):
    """File whose blocks end before its last bytes, so `tell` shows whether these were needed."""

    def __init__(self, data: bytes, stop: int) -> None:
        super().__init__(data)
        self._stop = stop

    def read(self, size: int | None = -1) -> bytes:
        left = self._stop - self.tell()
        return super().read(min(size, left) if size and size >= _BLOCK and left > 0 else size)


def jpeg_damage(data: bytes) -> str | None:
    """Describes damage inside a JPEG, which libjpeg fills up with gray; None if none is found.

    The data of a baseline JPEG must last exactly to its last pixel, and the scans of any other must
    bring every bit. Damage that changes neither, or inside the scans of a progressive JPEG, is not
    found.

    Args:
        data: Any file that `decode_image` decodes.
    """
    at, frame, scans, needed = 2, 0, 0, b"\xff\xd8"
    lowest: dict[int, list[int]] = {}  # of each component, for each frequency, the last bit read
    found = None
    while data[:2] == needed[:2] and (found := _MARKER.search(data, at)):
        content = data[at : found.start()]  # of a scan; of all other segments it is empty
        if any(number[0] % 8 != i % 8 for i, number in enumerate(_RESTART.findall(content))):
            return "JPEG data is damaged: restart markers are missing"
        if found[1] == b"\xd9":
            break
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2])
        segment = data[found.end() + 2 : at]
        if found[1] in _FRAMES:
            frame, lowest = found[1][0], {component: [13] * 64 for component in segment[6::3]}
        elif found[1] == b"\xda" and len(segment) >= 6:
            scans, (first, last, bits) = scans + 1, segment[-3:]
            for component in segment[1:-3:2]:
                of_component = lowest.setdefault(component, [13] * 64)
                of_component[first : last + 1] = [bits % 16] * (last + 1 - first)
        if found[1] < b"\xe0":
            needed += data[found.start() : at]
    if any(map(any, lowest.values())):
        return "JPEG data is missing: it ends before its last scan"
    if found is None or frame > 0xC1 or scans != 1:
        return None
    # Without its end marker, a decoder must ask for every byte, and be content with them
    end = len(needed) + len(content)
    file = _HeldBack(needed + content + bytes(_LOOKAHEAD), end - _LEFT_OVER)
    with Image.open(file, formats=("JPEG",)) as image:
        image.draft("L", (max(1, image.width // 8), max(1, image.height // 8)))  # faster
        try:
            image.load()
        except OSError:
            return "JPEG data is missing: it ends before its last pixel"
        if file.tell() < end:
            return "JPEG data is damaged: some is left over after its last pixel"
    return None


def orientation(exif: bytes) -> int:
    """Reads the EXIF orientation: 1 to 8, and 1, upright, if there is none or EXIF is broken.

    Args:
        exif: A TIFF structure (EXIF 2.3, section 4.5.2), with or without `Exif\\0\\0` before it.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    if tiff[:4] not in (b"II*\0", b"MM\0*"):
        return 1
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"

    def number(at: int, size: int = 2) -> int:
        return int.from_bytes(tiff[at : at + size], order)

    entries = number(4, 4) + 2
    for entry in range(entries, min(entries + 12 * number(entries - 2), len(tiff)), 12):
        if number(entry) == ExifTags.Base.Orientation and number(entry + 2) == _SHORT:
            return number(entry + 8) if number(entry + 8) in _TURNS else 1
    return 1


def resize_and_crop(image: npt.NDArray[np.uint8], spec: Preprocess) -> npt.NDArray[np.uint8]:
    """Resizes and crops an image, uint8 (height, width, 3) to (*spec.size, 3), without TensorFlow.

    The pixels differ from those of `Preprocess.resize_and_crop` by at most one level.
    """
    (height, width), corner = spec.placement(*image.shape[:2])
    top, left = (max(c, 0) for c in corner)
    bottom, right = min(corner[0] + spec.size[0], height), min(corner[1] + spec.size[1], width)
    y, x = image.shape[0] / height, image.shape[1] / width
    box = (left * x, top * y, right * x, bottom * y)
    size = (right - left, bottom - top)
    if spec.interpolation == "bilinear":
        visible = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, box))
    else:  # in float32: of uint8, Pillow clips rows before columns where a cubic filter overshoots
        visible = np.empty((size[1], size[0], 3), np.uint8)
        for i in range(3):
            channel = Image.fromarray(image[..., i].astype(np.float32))
            resized = channel.resize(size, Image.Resampling.BICUBIC, box)
            visible[..., i] = np.rint(np.asarray(resized).clip(0, 255))
    placed = np.zeros((*spec.size, 3), np.uint8)
    top, left = (max(-c, 0) for c in corner)
    placed[top : top + len(visible), left : left + visible.shape[1]] = visible
    return placed


def _opened(file: str | os.PathLike[str] | io.BytesIO) -> Image.Image:
    image = Image.open(file, formats=tuple(FORMATS))
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width:,} × {image.height:,} pixels, over {MAX_PIXELS:,}")
    return image


def broken_image(error: Exception) -> InputError | None:
    """Finds the one-line message about an unreadable image in an error of TensorFlow.

    An exception inside `tf.data` reaches the training loop as an `OpError` whose text is a Python
    traceback in a graph's error report.

    Args:
        error: Exception of iterating over a dataset, or of `Model.fit`.

    Returns:
        The `InputError` that the decoder raised, or one for a file that is gone or a damaged JPEG;
        None if something else went wrong.
    """
    text = str(error)
    if decoder := re.search(rf"InputError: ({_EXPECTED}.*)", text):
        return InputError(decoder[1])
    if unread := re.search(r"::\w*Map\w*: (.*); (.*)\n.*ReadFile", text):
        return InputError(_unreadable(unread[1], unread[2]))
    if "jpeg::Uncompress failed" in text:
        return InputError(
            f"{_EXPECTED} whole. Received: a JPEG with damaged data. `keras-resnet18 check` names "
            "it: replace or delete it."
        )
    return None


def _unreadable(path: str, reason: str | None) -> str:
    return f"{_EXPECTED} a file that can be read. Received: {path!r} ({reason}). Check its path."


def _refusal(name: str, error: Exception) -> str:
    reason = "unknown format" if isinstance(error, UnidentifiedImageError) else str(error)
    reason = " ".join(reason.split()) or type(error).__name__
    # repr keeps the message on one line whatever the name, and printable
    return (
        f"{_EXPECTED} a whole {FORMATS_IN_WORDS} file. Received: {name!r} ({reason}). "
        "Replace or delete it."
    )


def _as_rgb(image: Image.Image, max_value: int) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit gray, which Pillow's own conversion clips at 255
        gray = np.asarray(image)
        scaled = gray.astype(np.float32) / (max_value / 255)
        levels = np.rint(scaled.clip(0, 255)).astype(np.uint8)
        levels[gray == image.info.get("transparency", -1)] = 255
        image = Image.fromarray(levels)
    if image.mode == "RGB" and max(image.info.get("transparency", (0,))) > 255:
        del image.info["transparency"]  # of 16 bits, which Pillow compares with 8
    if image.has_transparency_data:
        pixels = image.convert("RGBA")
        white = Image.new("RGBA", pixels.size, "white")
        image = Image.alpha_composite(white, pixels)
    return image.convert("RGB")
