"""TensorFlow Datasets as a source: record files, which are read sequentially."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_resnet18.data.files import is_plain
from keras_resnet18.data.splits import Order, Source, Split
from keras_resnet18.data.stored import StoredImage, decoded_image, encoded_image
from keras_resnet18.errors import InputError, listed, reason
from keras_resnet18.images import decode_image
from keras_resnet18.recipe import SPLITS, SplitName

# Encoded bytes in a block, within which examples are shuffled: all of MNIST or CIFAR, or a few
# thousand photos of a set that TFDS has shuffled once and for all.
_BLOCK_BYTES = 256 * 2**20


def open_tfds(spec: str) -> Source:
    """Opens a single-label image dataset of TensorFlow Datasets; downloads it if necessary.

    Its own labeled splits are used; a missing one is the last tenth of `train` that is left.

    Args:
        spec: `"tfds:NAME"` or `"tfds:NAME/CONFIG:VERSION"`, in the default data folder, which
            the environment variable TFDS_DATA_DIR moves.

    Raises:
        InputError: If the dataset is unknown, cannot be fetched, or is not one of labeled images.
    """
    builder = _prepared_builder(spec)
    image, label = _features(builder, spec)
    given = {name: _is_labelled(builder, name) for name in builder.info.splits}
    ranges = _split_ranges({name for name, labeled in given.items() if labeled}, spec)
    unlabeled = [name for name, labeled in given.items() if not labeled]
    height, width, _ = image.shape
    image_size = None if height is None or width is None else (height, width)
    return Source(
        name=spec,
        classes=tuple(label.names),
        splits={kind: _split(builder, ranges[kind], spec, image_size) for kind in SPLITS},
        image_size=image_size,
        notes=(f"not used, because there are no labels in it: {listed(unlabeled)}",)
        if unlabeled
        else (),
    ).with_notes_on(ranges)


def _prepared_builder(spec: str) -> Any:
    import tensorflow_datasets as tfds

    name = spec.removeprefix("tfds:")
    try:
        builder = tfds.builder(name, try_gcs=False)
    except Exception as error:  # TFDS raises ValueError, AssertionError and more for a bad name
        raise InputError(
            "tfds: needs a name from https://www.tensorflow.org/datasets/catalog. "
            f"Received: {name!r} ({reason(error)}). Check the spelling."
        ) from error
    try:
        builder.download_and_prepare()
    except Exception as error:  # the network, the disk, a manual download, a changed file
        raise InputError(
            f"{name!r} must be prepared in {str(builder.data_dir)!r} or be downloadable. "
            f"Received: {type(error).__name__} ({reason(error)}). Prepare it where there is "
            "a network and point TFDS_DATA_DIR to it."
        ) from error
    return builder


def _features(builder: Any, spec: str) -> tuple[Any, Any]:
    import tensorflow_datasets as tfds

    features = dict(builder.info.features or {})
    image, label = features.get("image"), features.get("label")
    if not isinstance(image, tfds.features.Image) or image.np_dtype != np.uint8:
        lacking = "a feature 'image' of uint8"
    elif not isinstance(label, tfds.features.ClassLabel):
        lacking = "a feature 'label' that names one class"
    else:
        return image, label
    raise InputError(
        f"a TFDS dataset must have {lacking}. Received: {spec!r} with {listed(features, 9)}. "
        "Choose another dataset, or use a folder of images."
    )


def _is_labelled(builder: Any, split: str) -> bool:
    """Whether a split has labels: test sets without them say −1."""
    import tensorflow_datasets as tfds

    label = tfds.decode.PartialDecoding({"label": True})
    first = builder.as_dataset(split=f"{split}[:1]", decoders=label)
    return all(int(example["label"]) >= 0 for example in first)


def _split_ranges(given: set[str], spec: str) -> dict[SplitName, str]:
    """Range of each split in TFDS' notation."""
    if "train" not in given:
        raise InputError(
            "a TFDS dataset must have a labeled split 'train'. "
            f"Received: {spec!r} with {listed(sorted(given))}. Choose another dataset."
        )
    validation = next((name for name in ("validation", "val") if name in given), None)
    test = "test" if "test" in given else None
    if validation and test:
        return {"train": "train", "validation": validation, "test": test}
    if validation or test:
        return {
            "train": "train[:90%]",
            "validation": validation or "train[90%:]",
            "test": test or "train[90%:]",
        }
    return {"train": "train[:80%]", "validation": "train[80%:90%]", "test": "train[90%:]"}


def _split(builder: Any, split_range: str, spec: str, image_size: tuple[int, int] | None) -> Split:
    import tensorflow_datasets as tfds

    info = builder.info.splits[split_range.split("[")[0]]
    size = builder.info.splits[split_range].num_examples
    per_block = max(1, min(size, _BLOCK_BYTES * info.num_examples // max(1, info.num_bytes)))
    stream = builder.as_dataset(
        split=split_range,
        decoders=tfds.decode.PartialDecoding(
            {"image": True, "label": True}, decoders={"image": tfds.decode.SkipDecoding()}
        ),
        # one file after the other, and nothing that the autotuner would hold on to
        read_config=tfds.ReadConfig(
            try_autocache=False,
            skip_prefetch=True,
            interleave_cycle_length=1,
            num_parallel_calls_for_decode=1,
            num_parallel_calls_for_interleave_files=1,
        ),
    )

    def elements(order: Order | None, start: Any) -> tf.data.Dataset:
        ordered = stream if order is None else _shuffled(stream, order, per_block)
        return ordered.skip(start)

    def decode(data: bytes) -> npt.NDArray[np.uint8]:
        return decode_image(data, name=f"an image of {spec}")

    def stored(example: dict[str, tf.Tensor]) -> tuple[StoredImage, tf.Tensor]:
        data = example["image"]
        if image_size is None:
            plain = tf.ensure_shape(tf.numpy_function(is_plain, [data], tf.bool), ())
            image = encoded_image(data, plain, decode, data)
        else:
            pixels = tf.numpy_function(decode, [data], tf.uint8)
            image = decoded_image(tf.ensure_shape(pixels, (*image_size, 3)))
        return image, example["label"]

    content = [f"{builder.info.full_name} {split_range}".encode()]
    return Split(size, elements, stored, content=lambda: content)


def _shuffled(stream: tf.data.Dataset, order: Order, per_block: int) -> tf.data.Dataset:
    """Shuffles within blocks; `Dataset.shuffle` would also depend on TensorFlow's global seed."""
    seed = tf.stack([tf.cast(order.seed, tf.int64), tf.cast(order.epoch, tf.int64)])

    def shuffle(number: tf.Tensor, block: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        size = tf.size(block["label"], tf.int64)
        block_seed = tf.random.experimental.stateless_fold_in(seed, number)
        rows = tf.random.experimental.index_shuffle(tf.range(size), block_seed, size - 1)
        return {key: tf.gather(values, rows) for key, values in block.items()}

    return stream.batch(per_block).enumerate().map(shuffle).unbatch()
