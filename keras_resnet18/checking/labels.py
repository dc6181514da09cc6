"""Labels that other images contradict, and near copies."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from keras_resnet18.checking.findings import Finding, Place, places, same_content
from keras_resnet18.classify.accuracy import broken_images_named, in_words, interval
from keras_resnet18.classify.page import page, picture_url
from keras_resnet18.data.folder import composed
from keras_resnet18.data.folds import fold_numbers, groups_of
from keras_resnet18.data.pipeline import eval_batches
from keras_resnet18.data.progress import watched
from keras_resnet18.data.splits import Source, Split
from keras_resnet18.errors import InputError, path_of
from keras_resnet18.files import check_destination, staged
from keras_resnet18.machine import fastest_jit
from keras_resnet18.model.resnet import build_resnet18
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.recipe import SPLITS
from keras_resnet18.run import Run, load_run
from keras_resnet18.weights.catalogue import find_weights
from keras_resnet18.weights.checkpoints import is_name
from keras_resnet18.weights.transfer import load_weights

TABLE, PAGE = "labels.csv", "labels.html"

_FOLDS = 5
_C = 0.01  # inverse of the regression's penalty: 512 features know a small class by heart
_BATCH_SIZE = 64
_BLOCK = 256  # images compared with all others at once

# Side of the thumbnails that are compared, and the correlation of two that look the same. Six pairs
# of 3,670 photos reach it, all of them the same picture, and 99.7 % of the photos beside a copy of
# 90 % of the size, mirrored or not (training/label_errors.py).
_SIDE, _SAME = 16, 0.995
_BLANK = 28  # length of a thumbnail that differs from its mean color by a level

_SHOWN_LABELS, _SHOWN_PAIRS = 120, 40  # on the page


# A network up to its pooled features, and its preprocessing
Extractor = tuple[keras.Model, Preprocess]


@dataclasses.dataclass(frozen=True)
class Label:
    """Label of an image, and the class that other images suggest.

    Attributes:
        image: Path relative to the source's folder, or split and number.
        split: Split of the image.
        label: Class of the image.
        suggested: The most probable class.
        probability: Probability of `label`, 0 to 1.
        group: The image's group in a manifest, or empty.
    """

    image: str
    split: str
    label: str
    suggested: str
    probability: float
    group: str = ""


@dataclasses.dataclass(frozen=True)
class LabelCheck:
    """Labels and near copies of a source.

    Attributes:
        labels: All images, the least probable label first. Probabilities are of a logistic
            regression on features, fitted to the images of other folds.
        accuracy: Fraction of the labels that are the most probable class, 0 to 1.
        interval: 95 % confidence interval of the accuracy (Wilson 1927).
        near_copies: Pairs of images of different classes or splits that look the same, though
            their pixels differ.
        are_files: Whether the images are files, which a manifest can name.
    """

    labels: tuple[Label, ...]
    accuracy: float
    interval: tuple[float, float]
    near_copies: tuple[tuple[Place, Place], ...]
    are_files: bool

    @property
    def contradicted(self) -> list[Label]:
        """Images whose label is not the most probable class, the least probable label first."""
        return [one for one in self.labels if one.suggested != one.label]


def open_extractor(features: Run | str | os.PathLike[str]) -> Extractor:
    """Opens the network of a run, a checkpoint of ResNet-18 or published weights."""
    expected = "features to be a run, or the path of one, a checkpoint or the name of weights"
    name = os.fspath(path_of(features.path if isinstance(features, Run) else features, expected))
    try:
        if isinstance(features, Run) or (is_name(name) and Path(name).is_dir()):
            run = features if isinstance(features, Run) else load_run(name)
            pooled = run.model.get_layer("head_pool").output
            return keras.Model(run.model.inputs, pooled), run.preprocess
        published = find_weights(name) if is_name(name) else None
        network = build_resnet18(
            include_top=False,
            pooling="avg",
            weights=name if published else None,
            variant="d" if published and published.network.endswith("d") else None,
        )
        if published:
            return network, published.preprocess
        load_weights(network, name)
        return network, Preprocess()
    except InputError as error:
        raise InputError(f"expected {expected}. {error}") from None


def check_labels(
    source: Source, extractor: Extractor, digests: Mapping[str, str], console: Console
) -> LabelCheck:
    """Ranks labels by their probability, and looks for near copies.

    Args:
        source: Images with names and known labels.
        extractor: Computes the features.
        digests: Digest of each image by name; images of one digest are copies, in one fold.
        console: Shows progress.

    Raises:
        InputError: If there are too few images, or too few of a class.
    """
    source = source.scaled(extractor[1].max_value)
    splits = [source.splits[kind] for kind in SPLITS]
    where, labels = list(places(source)), np.concatenate([split.labels for split in splits])
    names = [place.name for place in where]
    keys = [key for split in splits for key in split.keys or split.names or ()]
    copies = ([place.name for place in group] for group in same_content(source, digests))
    folds = fold_numbers(source, labels, groups_of(names, keys, copies), _FOLDS, seed=0)
    features, thumbnails = _features(splits, extractor, console)
    probabilities = np.zeros((len(labels), len(source.classes)))
    with watched(console, "folds", _FOLDS) as advance:
        for fold in range(_FOLDS):
            known, asked = folds != fold, folds == fold
            regression = make_pipeline(StandardScaler(), LogisticRegression(C=_C, max_iter=1000))
            regression.fit(features[known], labels[known])
            probabilities[asked] = regression.predict_proba(features[asked])
            advance(1)
    suggested = probabilities.argmax(1)
    own = probabilities[np.arange(len(labels)), labels]
    right = int((suggested == labels).sum())
    rows = tuple(
        Label(
            image=where[row].name,
            split=where[row].split,
            label=where[row].class_name,
            suggested=source.classes[suggested[row]],
            probability=float(own[row]),
            # of other sources the key is the name, or the end of it
            group="" if composed(names[row]).endswith(keys[row]) else keys[row],
        )
        for row in own.argsort(kind="stable")
    )
    return LabelCheck(
        rows,
        accuracy=right / len(labels),
        interval=interval(right, len(labels)),
        near_copies=tuple(near_copies(thumbnails, where, digests)),
        are_files=source.folder is not None,
    )


def _features(
    splits: Collection[Split], extractor: Extractor, console: Console
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Features (n, channels) of all images, and thumbnails (n, 16, 16, 3)."""
    network, preprocess = extractor
    network.compile(jit_compile=fastest_jit())

    def seen(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return preprocess.resize_and_crop(image), thumbnail(image)

    features, thumbnails = [], []
    total = sum(split.size for split in splits)
    with watched(console, "features", total) as advance, broken_images_named():
        for split in splits:
            for (images, small), _ in eval_batches(split, seen, batch_size=_BATCH_SIZE):
                features.append(network.predict_on_batch(images.numpy()).astype(np.float32))
                thumbnails.append(small.numpy())
                advance(len(thumbnails[-1]))
    return np.concatenate(features), np.concatenate(thumbnails)


def thumbnail(image: tf.Tensor) -> tf.Tensor:
    """Shrinks a whole image, (height, width, 3), to 16 by 16 pixels: float32, 0 to 255."""
    return tf.image.resize(image, (_SIDE, _SIDE), "area")


def near_copies(
    thumbnails: npt.NDArray[np.float32], where: Sequence[Place], digests: Mapping[str, str]
) -> Iterator[tuple[Place, Place]]:
    """Yields pairs of images of two classes or splits that look the same, mirrored or not.

    An image is paired with the one that it is most like, if their thumbnails, shape
    (n, 16, 16, 3), correlate. Images of one digest are copies, not near copies.
    """
    straight, mirrored = _standardized(thumbnails), _standardized(thumbnails[:, :, ::-1])
    of_place = np.unique([f"{one.split}/{one.class_name}" for one in where], return_inverse=True)[1]
    content = np.array([digests.get(one.name, one.name) for one in where])
    found = set()
    for start in range(0, len(where), _BLOCK):
        rows = slice(start, start + _BLOCK)
        alike = np.maximum(straight[rows] @ straight.T, straight[rows] @ mirrored.T)
        alike[of_place[rows, np.newaxis] == of_place] = 0
        alike[content[rows, np.newaxis] == content] = 0
        nearest = alike.argmax(1)
        for row in np.flatnonzero(alike.max(1) >= _SAME):
            found.add(tuple(sorted((start + int(row), int(nearest[row])))))
    for first, second in sorted(found):
        yield where[first], where[second]


def _standardized(thumbnails: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Thumbnails as vectors whose products are correlations; of a blank image, zeros."""
    centered = thumbnails - thumbnails.mean((1, 2), keepdims=True)
    vectors = centered.reshape(len(thumbnails), -1)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    standardized: npt.NDArray[np.float32] = vectors / length.clip(_BLANK) * (length > _BLANK)
    return standardized


def on_labels(found: LabelCheck) -> Iterator[Finding]:
    """Yields findings on contradicted labels and near copies."""
    known = in_words(found.accuracy, found.interval, len(found.labels))
    text = (
        f"labels confirmed by other images: {known}; if the features are weak, images that are "
        "hard for them are among the others"
    )
    yield Finding("labels confirmed", False, text)
    if wrong := found.contradicted:
        said = [f"{one.image} ({one.label}, looks like {one.suggested})" for one in wrong[:3]]
        text = f"labels contradicted by other images: {len(wrong):,}, such as {', '.join(said)}"
        yield Finding("labels contradicted", False, text, tuple(one.image for one in wrong))
    for kind, in_kind in (("in two classes", True), ("in two splits", False)):
        pairs = [p for p in found.near_copies if (p[0].class_name != p[1].class_name) == in_kind]
        if pairs:
            text = f"almost the same image {kind}: {len(pairs):,} pairs, such as "
            text += " and ".join(map(str, pairs[0]))
            names = tuple(place.name for pair in pairs for place in pair)
            yield Finding(f"almost the same {kind}", False, text, names)


def check_free(out: Path) -> None:
    """Raises InputError if `out` has a page or a table already, which may hold corrections."""
    taken = any((out / name).exists() for name in (TABLE, PAGE))
    what = f"a folder without {TABLE} and {PAGE}"
    check_destination(out, lambda folder: folder.is_dir() and not taken, what)


def write_labels(found: LabelCheck, source: Source, out: Path) -> None:
    """Writes `labels.html`, a page to look at, and `labels.csv`, a manifest to correct."""
    shown, pairs = found.contradicted[:_SHOWN_LABELS], found.near_copies[:_SHOWN_PAIRS]
    names = {one.image for one in shown} | {place.name for pair in pairs for place in pair}
    contents = {
        "name": source.name,
        "found": found,
        "shown": shown,
        "pairs": pairs,
        "pictures": dict(_pictures(source, names)),
        "table": TABLE,
    }
    with staged(out / PAGE) as new:
        html = page(Path(__file__).parent / PAGE, contents)
        new.write_text(html, encoding="utf-8")
    grouped = any(one.group for one in found.labels)
    with (
        staged(out / TABLE) as new,
        new.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        first = "image" if source.folder is None else "path"
        writer.writerow([first, "label", "suggested", "probability", "split", *["group"] * grouped])
        for one in found.labels:
            path = one.image if source.folder is None else _relative(source.folder / one.image, out)
            figures = one.label, one.suggested, f"{one.probability:.5f}", one.split
            writer.writerow([path, *figures, *[one.group] * grouped])


def _relative(path: Path, folder: Path) -> str:
    """A path relative to a folder; absolute if it is on another drive of Windows."""
    real = Path(os.path.realpath(path.parent)) / path.name
    try:
        return Path(os.path.relpath(real, os.path.realpath(folder))).as_posix()
    except ValueError:
        return real.as_posix()


def _pictures(source: Source, names: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yields names of images and their pictures as data URLs."""
    for split in source.splits.values():
        of_split = split.names or ()
        for row, image in split.some([i for i, name in enumerate(of_split) if name in names]):
            yield of_split[row], picture_url(image)
