"""Image files of every kind that people have, made small, whole and damaged, the same each time."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

_ORIENTATION = 0x0112
# The passes of an interlaced PNG: first row, first column, steps, in digits
_ADAM7 = ("0088", "0488", "4084", "0244", "2042", "0122", "1021")
_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6  # PNG's kinds of color


def smooth_image(height: int = 30, width: int = 41) -> Image.Image:
    """As a photo: soft shades with an edge, no two sides or corners alike."""
    y, x = np.mgrid[:height, :width] / (height, width)[0]
    shades = [np.sin(3 * x + y) + 1, np.cos(2 * y) * x + 1, np.exp(-((x - 0.6) ** 2) * 4) + (y > x)]
    pixels = np.stack([255 * shade / shade.max() for shade in shades], -1)
    grain = np.random.default_rng(0).normal(0, 3, pixels.shape)
    return Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image as Pillow writes it."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int | None, order: str = ">") -> Image.Exif:
    """EXIF as cameras write it: an orientation, if any, between other tags."""
    tags = Image.Exif()
    tags.endian = order
    tags[0x010F], tags[0x0132] = "a camera", "2015:12:10 00:00:00"
    if orientation is not None:
        tags[_ORIENTATION] = orientation
    return tags


def png(
    samples: np.ndarray,
    color: int,
    bits: int,
    *,
    interlaced: bool = False,
    chunks: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """A PNG of any kind, those that Pillow reads and does not write too.

    Its samples are whole numbers, shape (height, width, channels); `chunks` are kinds and contents.
    """
    height, width, _ = samples.shape
    passes = _ADAM7 if interlaced else ["0011"]
    data = b""
    for top, left, down, right in (map(int, digits) for digits in passes):
        for row in samples[top::down, left::right] if left < width else ():
            values = row.reshape(-1, 1).astype(np.uint16)
            packed = np.packbits((values >> np.arange(bits - 1, -1, -1).astype(np.uint16)) & 1)
            data += b"\0" + packed.tobytes()  # no filter
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlaced)
    whole = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*one) for one in whole)


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def display_p3() -> bytes:
    """An ICC profile (ICC.1:2022) of Display P3, which phones write into their photos."""

    def fixed(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(value * 2**16) for value in values))

    def xyz(*values: float) -> bytes:
        return b"XYZ " + bytes(4) + fixed(*values)

    curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0)  # sRGB's
    curve += fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    white = (0.9642, 1, 0.8249)  # D50, to which the primaries are adapted
    tags = {
        b"wtpt": xyz(*white),
        b"rXYZ": xyz(0.51512, 0.2412, -0.00105),
        b"gXYZ": xyz(0.29198, 0.69225, 0.04189),
        b"bXYZ": xyz(0.1571, 0.06657, 0.78407),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    table, content, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(content), len(data))
        content += data + bytes(-len(data) % 4)
    kind = struct.pack(">II4s4s4s", 0, 4 << 24, b"mntr", b"RGB ", b"XYZ ")
    header = (kind + bytes(12) + b"acsp" + bytes(28) + fixed(*white)).ljust(124, b"\0")
    return struct.pack(">I", start + len(content)) + header + table + content


def color_card() -> Image.Image:
    """4,096 colors, all combinations of 16 levels."""
    levels = np.arange(0, 256, 17, np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(64, 64, 3))


def declaring(data: bytes, at: int, size: bytes) -> bytes:
    """A file whose header declares another size; a PNG's checksum is mended."""
    changed = bytearray(data)
    changed[at : at + len(size)] = size
    if data.startswith(b"\x89PNG"):
        changed[29:33] = struct.pack(">I", zlib.crc32(changed[12:29]))
    return bytes(changed)


def whole_files() -> dict[str, bytes]:
    """The kinds that are decoded, by the names of their files."""
    return {name: data for part in (_jpegs, _pngs, _others) for name, data in part()}


def refused_files() -> dict[str, bytes]:
    """The kinds that are none or too large, by the names of their files, which lie."""
    image = smooth_image()
    frame = (jpeg := encoded(image, "JPEG")).index(b"\xff\xc0") + 5
    webp = encoded(image, "WEBP", exif=exif(6))
    return {
        "tiff.jpg": encoded(image, "TIFF"),
        "ppm.png": encoded(image, "PPM"),
        "jpeg 2000.jpg": encoded(image, "JPEG2000"),
        "text.jpg": b"I am no image",
        "page.png": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "pdf.jpg": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj <<>> endobj",
        "empty.jpg": b"",
        "huge jpeg.jpg": declaring(jpeg, frame, struct.pack(">HH", 60_000, 60_000)),
        "huge png.png": declaring(encoded(image, "PNG"), 16, struct.pack(">II", 60_000, 60_000)),
        "huge bmp.bmp": declaring(encoded(image, "BMP"), 18, struct.pack("<ii", 60_000, 60_000)),
        "huge webp.webp": declaring(webp, 24, b"\xff\x3f\0\xff\x3f\0"),  # 16,384 × 16,384
    }


def damaged(files: dict[str, bytes]) -> dict[str, bytes]:
    """Each file cut in the middle and near its end, and with flipped bits."""
    draw = random.Random(0)
    found = {}
    for name, data in files.items():
        stem, dot, suffix = name.rpartition(".")
        found[f"{stem}, half{dot}{suffix}"] = data[: len(data) // 2]
        found[f"{stem}, cut{dot}{suffix}"] = data[:-30]
        flipped = bytearray(data)
        for _ in range(1 + len(found) % 3):
            flipped[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        found[f"{stem}, flipped{dot}{suffix}"] = bytes(flipped)
    return found


def _jpegs() -> Iterator[tuple[str, bytes]]:
    image = smooth_image()

    def jpeg(image: Image.Image = image, **options: Any) -> bytes:
        return encoded(image, "JPEG", **options)

    yield "jpeg 444.jpg", jpeg(subsampling=0, quality=95)
    yield "jpeg 422.jpg", jpeg(subsampling=1)
    yield "jpeg 420.jpg", jpeg(subsampling=2, quality=40)
    yield "jpeg grey.jpg", jpeg(image.convert("L"))
    yield "jpeg progressive.jpg", jpeg(progressive=True)
    yield "jpeg progressive grey.jpeg", jpeg(image.convert("L"), progressive=True)
    yield "jpeg restarts.jpg", jpeg(restart_marker_blocks=3)
    yield "jpeg cmyk.jpg", (cmyk := jpeg(image.convert("CMYK")))
    adobe = cmyk.index(b"Adobe") + 11  # the kind of the colors; 2 is YCCK
    yield "jpeg ycck.jpg", cmyk[:adobe] + b"\2" + cmyk[adobe + 1 :]
    yield "jpeg profile.jpg", jpeg(icc_profile=bytes(70_000))
    yield "jpeg tail.jpg", jpeg() + b"a camera's notes"
    yield "jpeg named png.png", jpeg()
    yield "jpeg 1x1.jpg", jpeg(smooth_image(1, 1))
    yield "jpeg 1x5000.jpg", jpeg(smooth_image(1, 5000))
    preview = encoded(image, "MPO", save_all=True, append_images=[image.resize((9, 9))])
    yield "jpeg with preview.jpg", preview
    for number in range(1, 9):
        yield f"jpeg turned {number}.jpg", jpeg(exif=exif(number))
    yield "jpeg turned 6, little endian.jpg", jpeg(exif=exif(6, "<"))
    yield "jpeg without a turn.jpg", jpeg(exif=exif(None))
    yield "jpeg with xmp.jpg", jpeg(xmp=b'<x tiff:Orientation="6"/>')
    turned = jpeg(exif=exif(6))
    before = 3 * (b"\xff\xea" + struct.pack(">H", 40_000) + bytes(39_998))  # other segments
    yield "jpeg turned far behind.jpg", turned[:2] + before + turned[2:]


def _pngs() -> Iterator[tuple[str, bytes]]:
    image = smooth_image()
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        yield f"png {mode}.png", encoded(image.convert(mode), "PNG")
    alpha = image.copy()
    alpha.putalpha(image.convert("L"))
    yield "png alpha.png", encoded(alpha, "PNG")
    yield "png grey alpha.png", encoded(alpha.convert("LA"), "PNG")
    yield "png grey transparent.png", encoded(image.convert("L"), "PNG", transparency=128)
    color = image.getpixel((3, 4))
    yield "png rgb transparent.png", encoded(image, "PNG", transparency=color)
    for bits in (1, 2, 4, 8):
        palette = image.quantize(2**bits)
        yield f"png palette {bits}.png", encoded(palette, "PNG", bits=bits)
        for kind, opacity in (("transparent", 1), ("alpha", bytes([0, 128]))):
            data = encoded(palette, "PNG", bits=bits, transparency=opacity)
            yield f"png palette {bits} {kind}.png", data
    level, alpha = (x.astype(np.uint8) for x in np.meshgrid(np.arange(256), np.arange(256)))
    every = Image.fromarray(np.stack([level, 255 - level, level // 2, alpha], -1))
    yield "png every alpha.png", encoded(every, "PNG")
    yield "png grey every alpha.png", encoded(every.convert("LA"), "PNG")
    greys = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    yield "png every grey 16.png", encoded(Image.fromarray(greys), "PNG")
    rgb = np.asarray(image).astype(np.uint16)
    fine = rgb * 256 + rgb[::-1, ::-1]  # both bytes of 16 bits say something
    fine_rgba = np.concatenate([fine, 65535 - fine[..., :1]], -1)
    for bits in (2, 4):
        yield f"png grey {bits}.png", png(rgb[..., :1] >> (8 - bits), _GREY, bits)
    yield "png grey 16.png", png(fine[..., :1], _GREY, 16)
    seen_through = (b"tRNS", fine[5, 5, :1].astype(">u2").tobytes())
    yield "png grey 16 transparent.png", png(fine[..., :1], _GREY, 16, chunks=[seen_through])
    yield "png grey alpha 16.png", png(fine[..., :2], _GREY_ALPHA, 16)
    yield "png rgb 16.png", png(fine, _RGB, 16)
    seen_through = (b"tRNS", fine[5, 5].astype(">u2").tobytes())
    yield "png rgb 16 transparent.png", png(fine, _RGB, 16, chunks=[seen_through])
    yield "png rgba 16.png", png(fine_rgba, _RGBA, 16)
    yield "png interlaced.png", png(rgb, _RGB, 8, interlaced=True)
    entries = (b"PLTE", bytes(range(48)))
    palette_4 = png(rgb[..., :1] >> 4, _PALETTE, 4, interlaced=True, chunks=[entries])
    yield "png interlaced palette.png", palette_4
    frames = [image.rotate(180)]
    yield "png animated.png", encoded(image, "PNG", save_all=True, append_images=frames)
    for number in range(1, 9):
        yield f"png turned {number}.png", encoded(image, "PNG", exif=exif(number))
    yield "png 1x1.png", encoded(smooth_image(1, 1), "PNG")
    yield "png named jpg.jpg", encoded(image, "PNG")


def _others() -> Iterator[tuple[str, bytes]]:
    """Kinds that a SavedModel does not decode."""
    image = smooth_image()
    frames = [image.rotate(180), image.rotate(90)]
    alpha = image.copy()
    alpha.putalpha(image.convert("L"))
    yield "gif.gif", encoded(image, "GIF")
    yield "gif transparent.gif", encoded(image.quantize(16), "GIF", transparency=3)
    yield "gif animated.gif", encoded(image, "GIF", save_all=True, append_images=frames)
    yield "webp lossy.webp", encoded(image, "WEBP")
    yield "webp lossless.webp", encoded(image, "WEBP", lossless=True)
    yield "webp alpha.webp", encoded(alpha, "WEBP")
    yield "webp animated.webp", encoded(image, "WEBP", save_all=True, append_images=frames)
    yield "webp turned.webp", encoded(image, "WEBP", exif=exif(6))
    yield "webp named jpg.jpg", encoded(image, "WEBP")
    yield "avif.avif", encoded(image, "AVIF")
    yield "bmp.bmp", (bmp := encoded(image, "BMP"))
    yield "bmp palette.bmp", encoded(image.quantize(64), "BMP")
    yield "bmp top down.bmp", declaring(bmp, 22, struct.pack("<i", -image.height))
