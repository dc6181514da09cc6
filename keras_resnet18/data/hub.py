"""Datasets of the Hugging Face Hub as a source."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_resnet18.data.files import BEGIN, END, is_plain
from keras_resnet18.data.folder import SPLIT_NAMES
from keras_resnet18.data.splits import Source, Split, carve, indexed_split
from keras_resnet18.data.stored import StoredImage, decoded_image, encoded_image
from keras_resnet18.errors import InputError, listed, one_of, reason
from keras_resnet18.images import decode_image, image_size, read_bytes
from keras_resnet18.preprocess import FULL_RANGE
from keras_resnet18.recipe import SPLITS, SplitName, hub_name

_OPTIONS = ("config", "image", "label")
_COLUMNS = {"image": ["Image"], "label": ["ClassLabel", "Value"]}  # their types, the best first
_CLASSES = re.compile(r"(large_)?string|bool|u?int\d+")  # of a Value


def open_hub(spec: str, split_seed: int) -> Source:
    """Opens a dataset of labeled images on the Hub, and downloads it if it is not in the cache.

    Its own labeled splits are used; a missing one is carved out of `train` by a hash of the row's
    number. `Source.spec` names the commit, so that it opens the same images later.

    Args:
        spec: `"hf:OWNER/NAME"`, or `"hf:OWNER/NAME@REVISION?config=NAME&image=COLUMN&label=COLUMN"`
            with any of these parts. Columns are found by their types: an image; a class label, or
            else text or whole numbers. Of several, the one called `image` or `label` is taken.
        split_seed: Seed of the hash.

    Raises:
        InputError: If `datasets` is missing, the dataset cannot be fetched, or it does not hold
            labeled images.
    """
    options = dict(parse_qsl(spec.partition("?")[2], keep_blank_values=True))
    for name in options:
        one_of("an option after hf:OWNER/NAME?", name, _OPTIONS)
    dataset, commit = _downloaded(spec, options.get("config"))
    found = {SPLIT_NAMES.get(name.lower()): name for name in dataset}
    given: dict[SplitName, str] = {kind: found[kind] for kind in SPLITS if kind in found}
    if "train" not in given:
        raise InputError(
            "a dataset of the Hub needs a split 'train'. "
            f"Received: {spec!r} with {listed(dataset)}. Choose another dataset."
        )
    features = dataset["train"].features
    image, label = (_column(kind, features, options.get(kind), spec) for kind in _COLUMNS)

    import datasets

    table = datasets.concatenate_datasets([dataset[name] for name in given.values()]).data
    classes, labels = _labels(features[label], table.column(label).to_pylist())
    labels[table.column(image).is_null().to_numpy()] = -1
    split_of = np.repeat([*given], [dataset[name].num_rows for name in given.values()])
    rows = {kind: np.flatnonzero((split_of == kind) & (labels >= 0)) for kind in given}
    rows = {kind: of for kind, of in rows.items() if len(of) or kind == "train"}
    wanted = [kind for kind in SPLITS if kind not in rows]
    train = rows["train"]
    dealt = carve([str(row) for row in train], labels[train].tolist(), wanted, split_seed)
    rows |= {kind: train[of] for kind, of in dealt.items()}

    notes = []
    if unused := [name for name in dataset if name not in given.values()]:
        notes.append(f"splits that are not used: {listed(unused)}")
    if without := int((labels < 0).sum()):
        notes.append(f"ignored {without:,} rows without an image or a label")
    images = _Images(table.column(image), labels, spec)
    images = dataclasses.replace(images, size=images.common_size())
    pinned, query = f"hf:{hub_name(spec)[0]}@{commit}", spec.partition("?")[2]
    return Source(
        name=spec,
        classes=classes,
        splits={kind: images.split(rows[kind]) for kind in SPLITS},
        notes=tuple(notes),
        image_size=images.size,
        spec=f"{pinned}?{query}" if query else pinned,
        pool=lambda: images.split(np.flatnonzero(labels >= 0)),
    ).with_notes_on(
        {kind: repr(name) for kind, name in given.items()}
        | dict.fromkeys(wanted, f"about 10 % of {given['train']!r} by hash")
    )


def _downloaded(spec: str, config: str | None) -> tuple[Any, str]:
    """The `DatasetDict` and its commit, from the Hub or from the cache."""
    try:
        import datasets
    except ImportError:
        raise InputError(
            "a dataset of the Hub needs the package datasets: pip install 'keras-resnet18[hub]'. "
            f"Received: {spec!r}"
        ) from None
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    repository, commit = hub_name(spec)
    try:
        if commit is None or not re.fullmatch("[0-9a-f]{40}", commit):
            try:
                commit = HfApi().dataset_info(repository, revision=commit).sha
            except Exception as error:  # without a network, the cache has the newest that was used
                if commit is not None or isinstance(error, HfHubHTTPError):
                    raise
        # hf:// keeps it from opening a local folder of this name
        name = f"hf://datasets/{repository}"
        builder = datasets.load_dataset_builder(name, config, revision=commit)
        if commit not in (None, builder.hash):  # without a network it takes any commit in the cache
            raise ConnectionError(f"no network, and the cache has the commit {builder.hash}")
        builder.download_and_prepare()
        return builder.as_dataset(), str(builder.hash)
    except Exception as error:  # the network, the disk, a gated dataset, a damaged file
        raise InputError(
            "hf: needs a dataset that the Hugging Face Hub or its cache has; a gated one needs "
            f"`hf auth login`. Received: {spec!r} ({reason(error, lines=2)})"
        ) from error


def _column(kind: str, features: Any, named: str | None, spec: str) -> str:
    """Finds the column of images or of labels by its type."""
    types = {
        name: type(feature).__name__
        for name, feature in features.items()
        if type(feature).__name__ != "Value" or _CLASSES.fullmatch(feature.dtype)
    }
    fits: list[str] = []
    for wanted in _COLUMNS[kind]:
        fits = fits or [n for n, of in types.items() if of == wanted and named in (None, n)]
    fits = [kind] if kind in fits else fits
    if len(fits) != 1:
        raise InputError(
            "a dataset needs one column of images and one of labels (ClassLabel, text or whole "
            f"numbers), or a name: 'hf:OWNER/NAME?{kind}=COLUMN'. Received: {spec!r} with "
            f"{listed(fits, 9) or 'none'} for {kind}, of columns {listed(features, 20)}"
        )
    return fits[0]


def _labels(feature: Any, values: list[Any]) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """Class names, and the index of each value; -1 where there is no label."""
    names = getattr(feature, "names", None)
    kinds = range(len(names)) if names else sorted({*values} - {None})
    index_of = {value: index for index, value in enumerate(kinds)}
    labels = np.array([index_of.get(value, -1) for value in values], np.int64)
    return tuple(names or map(str, kinds)), labels


@dataclasses.dataclass(frozen=True)
class _Images:
    """Images in a column of an Arrow table, and their labels, -1 for none."""

    column: Any
    labels: npt.NDArray[np.int64]
    spec: str
    size: tuple[int, int] | None = None

    def read(self, row: Any) -> bytes | memoryview:
        """The image file in a row."""
        image = self.column[int(row)]
        if image["bytes"].is_valid:
            return memoryview(image["bytes"].as_buffer())
        return read_bytes(str(image["path"]))

    def common_size(self) -> tuple[int, int] | None:
        """(height, width) by the headers of all images; None if they differ."""
        sizes = (image_size(bytes(self.read(row))) for row in np.flatnonzero(self.labels >= 0))
        first = next(sizes, None)
        return first if all(size == first for size in sizes) else None

    def split(self, rows: npt.NDArray[np.int64], max_value: int = FULL_RANGE) -> Split:
        """Makes a split of some rows, with 16-bit images scaled by `max_value`."""

        def read(index: int) -> bytes:
            return bytes(self.read(rows[index]))

        def decode(index: int) -> npt.NDArray[np.uint8]:
            name = f"row {rows[index]} of {self.spec}"
            return decode_image(read(index), name=name, max_value=max_value)

        def image(index: tf.Tensor) -> StoredImage:
            if self.size is not None:
                pixels = tf.numpy_function(decode, [index], tf.uint8)
                return decoded_image(tf.ensure_shape(pixels, (*self.size, 3)))
            data = tf.ensure_shape(tf.numpy_function(read, [index], tf.string), ())
            plain = tf.ensure_shape(tf.numpy_function(is_plain, [data], tf.bool), ())
            return encoded_image(data, plain, decode, index)

        def content() -> Iterator[bytes]:
            for data in map(self.read, rows):
                yield b"%d " % len(data) + data[:BEGIN] + data[-END:]

        split = indexed_split(self.labels[rows], image, content=content)
        return dataclasses.replace(split, scaled=lambda value: self.split(rows, value))
