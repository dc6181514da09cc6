"""What the programs share: the images of a split as arrays, and a classifier's answers to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np

Arrays = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
Change = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]

BATCH = 250


def arrays(split: Any) -> Arrays:
    """Images (n, height, width, 3), uint8 of one size, and labels (n,) of a source's split."""
    batches = split.elements(None, 0).map(split.fetch).batch(1024).as_numpy_iterator()
    images, labels = zip(*batches, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def mirrored(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An image, (height, width, 3), left for right."""
    return image[:, ::-1]


def answers(
    predict: Callable[[Any], Any],
    split: Any,
    preprocess: Any,
    change: Change | None = None,
    limit: int | None = None,
) -> Arrays:
    """What a classifier answers to the images of a split, and their labels (n,).

    Args:
        predict: From pixels (n, height, width, 3), uint8, to (n, classes).
        split: Of a source.
        preprocess: How an image becomes those pixels.
        change: Done to each decoded image, uint8 (height, width, 3), before that.
        limit: How many images to take at most, drawn from all; None for all.

    Raises:
        InputError: If an image is broken; the message has its name.
    """
    from keras_resnet18.evaluation.accuracy import broken_images_named

    found, labels = [], []
    with broken_images_named():
        images = decoded(split, limit)
        while batch := list(islice(images, BATCH)):
            changed = [image if change is None else change(image) for image, _ in batch]
            if len({image.shape for image in changed}) == 1:
                pixels = preprocess.resize_and_crop(np.stack(changed)).numpy()
            else:
                pixels = np.stack([preprocess.resize_and_crop(image) for image in changed])
            found.append(predict(pixels))
            labels += [int(label) for _, label in batch]
    return np.concatenate(found), np.array(labels)


def decoded(split: Any, limit: int | None) -> Iterator[tuple[np.ndarray[Any, Any], Any]]:
    """Images of any sizes with their labels, in the split's order."""
    import tensorflow as tf

    kept = np.zeros(split.size, bool)
    kept[np.random.default_rng(0).permutation(split.size)[:limit]] = True
    wanted = tf.constant(kept)
    elements = split.elements(None, 0).enumerate().filter(lambda number, _: wanted[number])
    images = elements.map(lambda _, element: split.fetch(element), num_parallel_calls=2)
    return iter(images.as_numpy_iterator())
