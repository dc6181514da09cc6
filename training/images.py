"""What the programs share: the images of a split as arrays, and a classifier's answers to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet18.errors import InputError

Arrays = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
Change = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]

BATCH = 250


def arrays(split: Any) -> Arrays:
    """Images (n, height, width, 3), uint8 of one size, and labels (n,) of a source's split."""
    batches = split.elements(None, 0).map(split.fetch).batch(1024).as_numpy_iterator()
    images, labels = zip(*batches, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def read_classes(folder: Path, classes: Sequence[str]) -> Arrays:
    """The images of some classes, as `arrays` gives them, from folder/class/image files.

    Raises:
        InputError: If a class has no folder or no image, an image is broken, or sizes differ.
    """
    from keras_resnet18 import read_image

    paths = []
    for name in classes:
        of_class = folder / name
        paths.append(sorted(of_class.iterdir()) if of_class.is_dir() else [])
        if not paths[-1]:
            raise InputError(f"images are read from class folders. Missing or empty: {of_class}")
    images = [read_image(path) for of_class in paths for path in of_class]
    if len(shapes := {image.shape for image in images}) > 1:
        raise InputError(f"the images must be of one size. Received in {folder}: {sorted(shapes)}")
    return np.stack(images), np.repeat(np.arange(len(classes)), [len(files) for files in paths])


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
    from keras_resnet18.classify.accuracy import broken_images_named

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
