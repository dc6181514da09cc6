"""HTML pages that a browser shows without a network."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from keras_resnet18.classify.table import percent, range_text

_SHOWN_SIDE = 224  # largest side of an image on the page, in pixels
_SMALL_SIDE = 64  # largest side of an image whose pixels are shown as squares


def page(template: Path, shown: Mapping[str, Any]) -> str:
    """Fill a template with values by name, and escape all text; page.css is its style."""
    templates = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"percent": percent, "range": range_text, "svg": svg_url}
    templates.filters |= {"picture": picture_url, "overlay": overlay}
    html = templates.get_template(template.name).render(shown, small_side=_SMALL_SIDE)
    # file names may have bytes that are not UTF-8
    return html.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def svg_url(svg: bytes) -> str:
    """Encode an SVG as a data URL."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


def picture_url(pixels: npt.NDArray[np.uint8]) -> str:
    """Encode pixels, (height, width, 3), as the data URL of an image of at most 224×224."""
    image = Image.fromarray(pixels)
    image.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
    kind = "png" if max(image.size) <= _SMALL_SIDE else "jpeg"
    image.save(content := io.BytesIO(), kind, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"


def overlay(
    pixels: npt.NDArray[np.uint8], activation: npt.NDArray[np.float32]
) -> npt.NDArray[np.uint8]:
    """Draw an activation map, in colors that color-blind people can order, over a gray image."""
    image = Image.fromarray(pixels).convert("L").convert("RGB")
    scale = max(1, round(_SHOWN_SIDE / max(image.size)))  # makes a small image's map smooth too
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    map_ = Image.fromarray(activation.astype(np.float32))
    strength = np.asarray(map_.resize(image.size, Image.Resampling.BILINEAR)).clip(0, 1)
    heat = matplotlib.colormaps["inferno"](strength)[..., :3] * 255
    alpha = 0.15 + 0.55 * strength[..., np.newaxis]
    mixed: npt.NDArray[np.uint8] = (np.asarray(image) * (1 - alpha) + heat * alpha).astype(np.uint8)
    return mixed
