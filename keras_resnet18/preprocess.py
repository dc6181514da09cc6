"""What a photo goes through before the network, and what its answers are called after it."""

from __future__ import annotations

import csv
import dataclasses
import functools
import importlib.resources
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_resnet18.errors import InputError, one_of, within

# Statistics of ImageNet's training images, on a scale of 0 to 1 (Krizhevsky 2012; torchvision).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_CHANNELS = (1, 2, 3, 4)  # of images that `preprocess_input` takes

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """How an upright RGB image of any size becomes the network's input.

    The image is resized until it covers `size / crop_ratio` and its middle is cut out; the
    pixels are then normalised to `(pixel / 255 - mean) / std`. The spec travels with weights, runs
    and exports, and all of them read it, so that every road to the network is the same road.

    Attributes:
        size: (height, width) of the network's input, in pixels.
        crop_ratio: The part of each side that the centre crop keeps, over 0 and up to 1.
        interpolation: `"nearest"`, `"bilinear"` or `"bicubic"`.
        antialias: Whether to filter when shrinking, as Pillow always does.
        mean: Of red, green and blue, on a scale of 0 to 1.
        std: Of red, green and blue, on a scale of 0 to 1.

    Raises:
        InputError: For a value outside of these ranges.
    """

    size: tuple[int, int] = (224, 224)
    crop_ratio: float = 0.875
    interpolation: str = "bilinear"
    antialias: bool = True
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        for field in ("size", "mean", "std"):  # JSON and TOML give lists
            value = getattr(self, field)
            if isinstance(value, list):
                object.__setattr__(self, field, tuple(value))
        sides = _is_tuple_of(self.size, int, 2) and min(self.size) >= 1
        within("size", self.size, sides, "two positive whole numbers, (height, width)")
        ratio = _is_number(self.crop_ratio) and 0 < self.crop_ratio <= 1
        within("crop_ratio", self.crop_ratio, ratio, "over 0 and at most 1")
        one_of("interpolation", self.interpolation, INTERPOLATIONS)
        within("antialias", self.antialias, isinstance(self.antialias, bool), "true or false")
        # published weights have 0.5 to 127.5/255 here; 255 would be a mean of pixels, not of 0 to 1
        mean = _is_tuple_of(self.mean, (int, float), 3) and all(0 <= m <= 1 for m in self.mean)
        within("mean", self.mean, mean, "three numbers from 0 to 1")
        std = _is_tuple_of(self.std, (int, float), 3) and all(0 < s <= 1 for s in self.std)
        within("std", self.std, std, "three numbers over 0 and up to 1")

    def to_dict(self) -> dict[str, Any]:
        """The spec as plain values, ready for JSON."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """The spec that `to_dict` gave.

        Raises:
            InputError: For an unknown key or a value out of range.
        """
        known = tuple(field.name for field in dataclasses.fields(cls))
        for key in values:
            one_of("key", key, known)
        return cls(**values)

    @classmethod
    def read(cls, path: Path) -> Preprocess:
        """The spec in a JSON file.

        Raises:
            InputError: If there is no such file, or it holds something else.
        """
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InputError(
                "preprocessing is read from a JSON file as `export` writes it. "
                f"Received: {path} ({reason})"
            ) from None

    def scale_and_offset(self, channels: int = 3) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """What pixels of 0–255 are multiplied by, and what is then added, to normalise them.

        Args:
            channels: How many the image has. With 3 it is red, green and blue; of any other number
                each channel has the mean of the three means and of the three standard deviations.

        Returns:
            Scale and offset, one of each a channel: (pixel / 255 - mean) / std is
            pixel · scale + offset.
        """
        mean, std = self.mean, self.std
        if channels != 3:
            mean, std = ((sum(values) / 3,) * channels for values in (mean, std))  # type: ignore[assignment]
        scale = tuple(1 / (255 * s) for s in std)
        return scale, tuple(-m / s for m, s in zip(mean, std, strict=True))

    def resize_and_crop(self, image: Any) -> Any:
        """Brings one image, or several of one size, to the network's size.

        Args:
            image: uint8 tensor of shape (height, width, channels), sizes known or not, or the same
                with a batch in front.

        Returns:
            uint8 TensorFlow tensor of shape (*size, channels), or (batch, *size, channels).
            Resizing rounds to whole levels, as image files do, so the pixels are the same ones
            whether or not they went through a file.
        """
        import tensorflow as tf

        image = tf.convert_to_tensor(image)
        height, width = self.size
        # ⌊size / ratio⌋, torchvision's and timm's rule; the 1e-6 keeps 224 / .875 at 256
        cover_height, cover_width = (int(side / self.crop_ratio + 1e-6) for side in self.size)
        # the smallest image of the old proportions that covers both
        if image.shape[-3:-1].is_fully_defined():
            old_height, old_width = image.shape[-3:-1]
            new_height = max(cover_width * old_height // old_width, cover_height)
            new_width = max(cover_height * old_width // old_height, cover_width)
        else:
            old_height, old_width = tf.unstack(tf.shape(image)[-3:-1])
            new_height = tf.maximum(cover_width * old_height // old_width, cover_height)
            new_width = tf.maximum(cover_height * old_width // old_height, cover_width)
        resized = tf.image.resize(
            image, (new_height, new_width), method=self.interpolation, antialias=self.antialias
        )
        top, left = _half(new_height - height), _half(new_width - width)
        window = resized[..., top : top + height, left : left + width, :]
        pixels = tf.saturate_cast(tf.round(window), tf.uint8)
        return tf.ensure_shape(pixels, (*image.shape[:-3], height, width, image.shape[-1]))


def preprocess_input(x: Any, preprocess: Preprocess | None = None) -> Any:
    """Normalises pixels for a network built with `include_preprocessing=False`.

    A network built with `include_preprocessing=True`, the default, does this itself: give it the
    pixels as they are.

    Args:
        x: Pixels of 0 to 255, any real dtype, shape (…, channels), RGB where there are three: a
            NumPy array or a tensor of the Keras backend.
        preprocess: Whose mean and std to use; ImageNet's by default.

    Returns:
        float32 tensor of the same shape, `(x / 255 - mean) / std`, where an image that does not
        have three channels is normalised by the mean over the three (`scale_and_offset`).

    Raises:
        InputError: If the last dimension is not 1 to 4.
    """
    from keras import ops

    x = ops.cast(x, "float32")
    # more channels would more likely be an image with its channels first than a camera's
    shape = tuple(x.shape)
    within("shape", shape, bool(shape) and shape[-1] in _CHANNELS, "(…, 1 to 4 channels)")
    scale, offset = (preprocess or Preprocess()).scale_and_offset(x.shape[-1])
    return x * ops.convert_to_tensor(scale, "float32") + ops.convert_to_tensor(offset, "float32")


@functools.cache
def imagenet_classes() -> tuple[tuple[str, str], ...]:
    """ImageNet's 1,000 classes in the order of every published checkpoint, as (synset, name).

    Names are the first lemma of WordNet's synset. Two of them name two classes each, a crane and a
    maillot, and are told apart here as WordNet does.
    """
    file = importlib.resources.files("keras_resnet18").joinpath("imagenet_classes.csv")
    with file.open(encoding="utf-8") as lines:
        return tuple((row["synset"], row["name"]) for row in csv.DictReader(lines))


def decode_predictions(preds: Any, top: int = 5) -> list[list[tuple[str, str, float]]]:
    """Names the most probable ImageNet classes, as `keras.applications` does.

    Args:
        preds: Probabilities or logits of shape (batch, 1000).
        top: How many classes to name for each image, 1 to 1000.

    Returns:
        For each image `top` tuples of (synset, name, score), the highest score first.

    Raises:
        InputError: If `preds` has another shape, or `top` is out of range.
    """
    import keras

    scores = keras.ops.convert_to_numpy(preds)
    fits = scores.ndim == 2 and scores.shape[1] == 1000
    within("shape", scores.shape, fits, "(batch, 1000), ImageNet's classes")
    within("top", top, isinstance(top, int) and 1 <= top <= 1000, "from 1 to 1000")
    names = imagenet_classes()
    return [
        [(*names[i], float(row[i])) for i in (-row).argsort(kind="stable")[:top]] for row in scores
    ]


def _half(margin: Any) -> Any:
    """Half of a whole number or tensor, .5 rounded to even: where torchvision's crop begins."""
    return (margin + margin % 4 // 3) // 2


def _is_tuple_of(value: Any, kind: type | tuple[type, ...], length: int) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == length
        and all(isinstance(item, kind) and not isinstance(item, bool) for item in value)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
