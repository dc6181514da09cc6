"""Whatever images a caller has at hand, as batches of pixels for calibration and proof."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet18.errors import InputError

# (n, height, width, channels) uint8, and class numbers (n,) where the caller gave labels
Batch = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]

_BATCH_SIZE = 32
_NOISE_IMAGES = 16


def pixel_batches(
    data: Any, shape: tuple[int | None, ...], *, argument: str, limit: int | None = None
) -> Iterator[Batch]:
    """Batches of pixels, and of class numbers where `data` has them.

    Args:
        data: A `tf.data.Dataset` of images or (image, label), batched or not, or arrays: images or
            (images, labels). Pixels are 0 to 255, of any dtype; labels class numbers or one-hot.
        shape: (height, width, channels) that the images must have.
        argument: What the caller calls `data`; the errors say it.
        limit: How many images to take at the most.

    Raises:
        InputError: If `data` is something else, is empty or has no end.
    """
    elements = _elements(data, argument, limit)
    empty = True
    while some := list(itertools.islice(elements, _BATCH_SIZE)):
        empty = False
        for image, *_ in some:
            if image.shape != tuple(shape):
                raise InputError(
                    f"{argument} needs images of the model's input shape {tuple(shape)}. "
                    f"Received: {image.shape}"
                )
        labels = None
        if len(some[0]) == 2:
            labels = _class_numbers(np.stack([label for _, label in some]), argument)
        yield _as_pixels(np.stack([image for image, *_ in some]), argument), labels
    if empty:
        raise InputError(f"{argument} needs at least one image. Received: none")


def noise(shape: tuple[int, ...]) -> Iterator[Batch]:
    """Images that show whether arithmetic is equal, though not how good the classes are."""
    rng = np.random.default_rng(0)
    yield rng.integers(0, 256, (_NOISE_IMAGES, *shape), dtype=np.uint8), None


def _elements(data: Any, argument: str, limit: int | None) -> Iterator[tuple[Any, ...]]:
    """One image at a time, as (image,) or (image, label) of NumPy arrays."""
    if not isinstance(data, tf.data.Dataset):
        try:
            data = tf.data.Dataset.from_tensor_slices(data)
        except (TypeError, ValueError):
            raise InputError(
                f"{argument} must be a tf.data.Dataset or arrays, of images or (images, labels). "
                f"Received: {type(data).__name__}"
            ) from None
    spec = data.element_spec
    parts = spec if isinstance(spec, tuple) else (spec,)
    rank = getattr(getattr(parts[0], "shape", None), "rank", None)
    if rank not in (3, 4) or len(parts) > 3:
        raise InputError(
            f"{argument} must hold images (height, width, channels), batched or not, alone or as "
            f"(image, label). Received: {spec}"
        )
    data = data.map(lambda *parts: parts[:2])  # sample weights have no say here
    if rank == 4:
        data = data.unbatch()
    if limit is not None:
        data = data.take(limit)
    elif data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise InputError(f"{argument} must come to an end: use .take(n). Received: endless data")
    elements: Iterator[tuple[Any, ...]] = data.as_numpy_iterator()
    return elements


def _as_pixels(images: np.ndarray[Any, Any], argument: str) -> np.ndarray[Any, Any]:
    if images.dtype == np.uint8:
        return images
    if not (images.min() >= 0 and images.max() <= 255) or 0 < images.max() <= 1:  # NaN: neither
        raise InputError(
            f"{argument} needs pixels of 0 to 255, as a camera gives them, not normalised ones. "
            f"Received: {images.dtype} values from {images.min():.3g} to {images.max():.3g}"
        )
    pixels: np.ndarray[Any, Any] = np.rint(images).astype(np.uint8)
    return pixels


def _class_numbers(labels: np.ndarray[Any, Any], argument: str) -> np.ndarray[Any, Any]:
    if labels.dtype.kind not in "biuf":
        raise InputError(
            f"{argument} needs class numbers or one-hot rows as labels. "
            f"Received: {labels[0].tolist()!r}"
        )
    one_hot = labels.ndim == 2 and labels.shape[1] > 1
    return labels.argmax(1) if one_hot else labels.reshape(-1)
