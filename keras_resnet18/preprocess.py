"""Preprocess, the way from an image to the network's input, and the names of ImageNet's classes."""

from __future__ import annotations

import csv
import dataclasses
import functools
import importlib.resources
from collections.abc import Sequence
from typing import Any

from keras_resnet18.errors import check_types, one_of, within

# Statistics of ImageNet's training images, on a scale of 0 to 1 (Krizhevsky 2012; torchvision).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_INTERPOLATIONS = ("bilinear", "bicubic")
_FITS = ("crop", "pad", "squash")
_LARGEST_SIDE = 16_384

FULL_RANGE = 65_535  # the largest value of 16 bits


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Specification of how an upright RGB image of any size becomes the network's input.

    The image is resized to `size / crop_ratio` as `fit` says, the center of `size` is cut out, and
    the pixels are normalized to `(pixel / 255 - mean) / std`. The specification travels with
    weights, runs and exported files; training, evaluation, prediction and export all read it.

    Attributes:
        size: (height, width) of the network's input, in pixels.
        crop_ratio: Fraction of each side that the center crop keeps, 0.1 to 1.
        interpolation: `"bilinear"` or `"bicubic"`, with a filter where the image shrinks, as Pillow
            has it.
        mean: Of red, green and blue, on a scale of 0 to 1.
        std: Of red, green and blue, on a scale of 0 to 1, at least 0.001.
        fit: `"crop"` keeps the proportions and covers the size: the ends of a long image are never
            seen. `"pad"` keeps the proportions and shows the whole image, with black bars.
            `"squash"` shows the whole image and gives up the proportions.
        max_value: Value that is white in 16-bit gray files, 1 to 65,535, such as 4,095 for 12-bit
            data. Files are scaled by it to 0 to 255, and higher values are white too. Files of 8
            bits, arrays and exported models' pixels are 0 to 255 whatever it is.

    Raises:
        InputError: For a value outside of these ranges.
    """

    size: tuple[int, int] = (224, 224)
    crop_ratio: float = 0.875
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    fit: str = "crop"
    max_value: int = FULL_RANGE

    def __post_init__(self) -> None:
        check_types(self)
        one_of("interpolation", self.interpolation, _INTERPOLATIONS)
        one_of("fit", self.fit, _FITS)
        for name, least, most in (
            ("size", 1, _LARGEST_SIDE),
            ("crop_ratio", 0.1, 1),
            ("mean", 0, 1),
            ("std", 0.001, 1),
            ("max_value", 1, FULL_RANGE),
        ):
            value = getattr(self, name)
            every = value if isinstance(value, tuple) else (value,)
            fits = least <= min(every) and max(every) <= most
            within(name, value, fits, f"from {least} to {most:,}")

    def scale_and_offset(self, channels: int = 3) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Scale and offset of each channel: (pixel / 255 - mean) / std is pixel · scale + offset.

        Args:
            channels: Number of the image's channels: 3 for red, green and blue. Any other number
                of channels share the mean of the three means and of the three standard deviations.
        """
        mean, std = self.mean, self.std
        if channels != 3:
            mean, std = ((sum(values) / 3,) * channels for values in (mean, std))  # type: ignore[assignment]
        scale = tuple(1 / (255 * s) for s in std)
        return scale, tuple(-m / s for m, s in zip(mean, std, strict=True))

    def placement(
        self, height: Any, width: Any, most: Any = max, least: Any = min
    ) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        """Size that an image is resized to, and position of the network's input in it.

        Args:
            height: Height of the image, an int or an int64 tensor.
            width: Width of the image, an int or an int64 tensor.
            most: `max`, or `tf.maximum` for tensors.
            least: `min`, or `tf.minimum` for tensors.

        Returns:
            (height, width) of the resized image, and (top, left) of the network's input inside it,
            negative where there are bars.
        """
        # ⌊size / ratio⌋, torchvision's and timm's rule; the 1e-6 keeps 224 / .875 at 256
        full_height, full_width = (int(side / self.crop_ratio + 1e-6) for side in self.size)
        new_height, new_width = full_height, full_width
        if self.fit != "squash":
            choose = most if self.fit == "crop" else least
            new_height = most(choose(full_width * height // width, full_height), 1)
            new_width = most(choose(full_height * width // height, full_width), 1)
        corner = _half(new_height - self.size[0]), _half(new_width - self.size[1])
        return (new_height, new_width), corner

    def fraction_unseen(self, sizes: Sequence[tuple[int, int]]) -> float:
        """Mean fraction of images' area that the center crop cuts off, 0 to 1; 0 without images.

        Args:
            sizes: (height, width) of the images.
        """
        resized = [self.placement(*size)[0] for size in sizes]
        seen = [min(1, self.size[0] / h) * min(1, self.size[1] / w) for h, w in resized]
        return 1 - sum(seen) / len(seen) if seen else 0.0

    def resize_and_crop(self, image: Any) -> Any:
        """Brings one image, or several of one size, to the network's size, in TensorFlow.

        `images.resize_and_crop` does the same to a NumPy image without TensorFlow.

        Args:
            image: uint8 tensor of shape (height, width, channels), sizes known or not, or the same
                with a batch in front.

        Returns:
            uint8 tensor of shape (*size, channels), or (batch, *size, channels), rounded to whole
            levels, as in an image file.
        """
        import tensorflow as tf

        image = tf.convert_to_tensor(image)
        batch = image if image.shape.rank == 4 else image[tf.newaxis]
        old = tf.shape(batch, tf.int64)[1:3]
        new, corner = self.placement(old[0], old[1], tf.maximum, tf.minimum)
        # Only the pixels that are kept are computed: a resized panorama could exceed the memory.
        resized = tf.raw_ops.ScaleAndTranslate(
            images=batch,
            size=self.size,
            scale=tf.cast(tf.cast(tf.stack(new), tf.int64) / old, tf.float32),
            translation=-tf.cast(tf.stack(corner), tf.float32),
            kernel_type={"bilinear": "triangle", "bicubic": "keyscubic"}[self.interpolation],
            antialias=True,
        )
        if self.interpolation == "bilinear":  # never beyond the levels that it is made of
            pixels = tf.cast(resized + 0.5, tf.uint8)
        else:
            pixels = tf.saturate_cast(tf.round(resized), tf.uint8)
        pixels = pixels if image.shape.rank == 4 else pixels[0]
        return tf.ensure_shape(pixels, (*image.shape[:-3], *self.size, image.shape[-1]))


def preprocess_input(x: Any, preprocess: Preprocess | None = None) -> Any:
    """Normalizes pixels for a network built with `include_preprocessing=False`.

    A network built with `include_preprocessing=True`, the default, does this itself: give it the
    pixels as they are.

    Args:
        x: Pixels of 0 to 255, any real dtype, shape (…, channels), RGB where there are three: a
            NumPy array or a tensor of the Keras backend.
        preprocess: Whose mean and std to use; ImageNet's by default.

    Returns:
        float32 tensor of the same shape, `(x / 255 - mean) / std`, where an image that does not
        have three channels is normalized by the mean over the three (`scale_and_offset`).

    Raises:
        InputError: If the last dimension is not 1 to 4.
    """
    from keras import ops

    x = ops.cast(x, "float32")
    # more channels would more likely be an image with its channels first than a camera's
    shape = tuple(x.shape)
    within("shape", shape, bool(shape) and 1 <= shape[-1] <= 4, "(…, 1 to 4 channels)")
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
    """Half of a whole number or tensor, .5 rounded to even, as torchvision's crop begins."""
    return (margin + margin % 4 // 3) // 2
