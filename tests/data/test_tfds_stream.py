"""A dataset of TFDS is read in blocks, shuffled within them, and never twice in an epoch."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import file_utils

from keras_resnet18 import check
from keras_resnet18.data import tfds as tfds_stream
from keras_resnet18.data.sources import open_source
from keras_resnet18.data.splits import Order
from keras_resnet18.errors import InputError
from keras_resnet18.images import broken_image
from keras_resnet18.recipe import SPLITS

# For each configuration of the dataset its splits, and the greys of their images
SPLITS_OF = {
    "all": {"train": (0, 100), "validation": (100, 110), "test": (110, 125)},
    "train": {"train": (0, 100)},
    "train_test": {"train": (0, 100), "test": (110, 125)},
    "test": {"test": (110, 125)},
    "no_label": {"train": (0, 100)},
    "any_size": {"train": (0, 100)},
    "blind": {"train": (0, 100), "validation": (100, 110), "test": (110, 125)},
    "leaking": {"train": (0, 100), "test": (97, 110)},
}


class TinyGreys(tfds.core.GeneratorBasedBuilder):
    """Images of one grey each, odd or even."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in SPLITS_OF]  # noqa: RUF012

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(6, 5, 3)),
            "label": tfds.features.ClassLabel(names=["even", "odd"]),
        }
        if self.builder_config.name == "no_label":
            del features["label"]
        if self.builder_config.name == "any_size":
            features["image"] = tfds.features.Image(encoding_format="png")
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        splits = SPLITS_OF[self.builder_config.name]
        return {split: self._generate_examples(*greys, split) for split, greys in splits.items()}

    def _generate_examples(self, start, stop, split):
        config = self.builder_config.name
        for grey in range(start, stop):
            label = -1 if (config, split) == ("blind", "test") else grey % 2
            image = np.full((6, 5, 3), grey, np.uint8)
            yield grey, {"image": image} | ({} if config == "no_label" else {"label": label})


@pytest.fixture(scope="module", autouse=True)
def prepared(tmp_path_factory):
    """Writes the record files once, where TFDS finds them by name."""
    folder = tmp_path_factory.mktemp("tfds")
    for config in TinyGreys.BUILDER_CONFIGS:
        TinyGreys(config=config.name, data_dir=folder).download_and_prepare()
    file_utils.add_data_dir(folder)
    yield
    file_utils.clear_registered_data_dirs()


def opened(config):
    return open_source(f"tfds:tiny_greys/{config}")


def greys(split, order=None, start=0):
    examples = split.elements(order, start).map(split.fetch).as_numpy_iterator()
    result = []
    for image, label in examples:
        assert image.shape == (6, 5, 3) and label == image[0, 0, 0] % 2
        result.append(int(image[0, 0, 0]))
    return result


@pytest.mark.parametrize(
    ("config", "sizes", "train"),
    [
        ("all", [100, 10, 15], "train: train (100 images)"),
        ("train", [80, 10, 10], "train: train[:80%] (80 images)"),
        ("train_test", [90, 10, 15], "train: train[:90%] (90 images)"),
    ],
)
def test_given_splits_are_used_and_missing_ones_carved(config, sizes, train):
    source = opened(config)
    assert [source.splits[kind].size for kind in SPLITS] == sizes
    assert source.split_notes[0].startswith(train)
    seen = [grey for kind in SPLITS for grey in greys(source.splits[kind])]
    assert len(set(seen)) == len(seen) == sum(sizes)
    assert source.classes == ("even", "odd") and source.image_size == (6, 5)
    assert source.splits["train"].labels is None and source.splits["train"].names is None


def test_a_test_set_without_labels_is_not_used():
    source = opened("blind")
    assert [split.size for split in source.splits.values()] == [90, 10, 10]
    assert "not used, because there are no labels in it: 'test'" in source.notes
    assert "test: train[90%:] (10 images)" in source.split_notes[0]


def test_check_counts_the_classes_of_a_stream_and_finds_its_copies():
    found = check("tfds:tiny_greys/leaking")
    assert found.counts["test"] == {"even": 6, "odd": 7} and found.n == 113
    (leak,) = (finding for finding in found.findings if finding.kind == "in two splits")
    assert len(leak.images) == 6 and leak.spoils


@pytest.mark.parametrize("per_block", [1000, 32])
def test_every_epoch_is_another_permutation_and_can_begin_anywhere(monkeypatch, per_block):
    info = tfds.builder("tiny_greys/all").info.splits["train"]
    block_bytes = per_block * info.num_bytes // info.num_examples
    monkeypatch.setattr(tfds_stream, "_BLOCK_BYTES", block_bytes + 1)
    split = opened("all").splits["train"]
    first, next_epoch, other_seed = (
        greys(split, Order(seed, epoch)) for seed, epoch in ((1, 0), (1, 1), (2, 0))
    )
    tf.random.set_seed(1)  # which TensorFlow's own random numbers depend on
    assert greys(split, Order(1, 0)) == first
    assert len({tuple(order) for order in (first, next_epoch, other_seed, greys(split))}) == 4
    assert sorted(first) == sorted(next_epoch) == sorted(other_seed) == list(range(100))
    assert greys(split, Order(1, 0), 37) == first[37:]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no_such_set", "needs a name.*'no_such_set'.*not found.*spelling"),
        ("tiny_greys/all:9.9.9", "needs a name.*9.9.9"),
        ("tiny_greys/no_label", "feature 'label'.*Received: 'tfds:.*no_label' with 'image'"),
        ("tiny_greys/test", "split 'train'.*with 'test'"),
    ],
)
def test_an_unusable_dataset_is_an_input_error_of_one_line(spec, message):
    with pytest.raises(InputError, match=message) as caught:
        open_source(f"tfds:{spec}")
    assert "\n" not in str(caught.value)


def test_a_failed_download_says_what_to_do(monkeypatch):
    def no_network(self, **_):
        raise ConnectionError("Name or service not known\nand 30 more lines")

    monkeypatch.setattr(TinyGreys, "download_and_prepare", no_network)
    with pytest.raises(InputError, match=r"Received: ConnectionError .*TFDS_DATA_DIR") as caught:
        opened("all")
    assert "\n" not in str(caught.value)


def test_a_broken_record_names_its_dataset():
    split = opened("all").splits["train"]
    broken = {"image": tf.constant(b"no image"), "label": tf.constant(0, tf.int64)}
    with pytest.raises(tf.errors.OpError) as caught:
        next(iter(tf.data.Dataset.from_tensors(broken).map(split.fetch)))
    assert "'an image of tfds:tiny_greys/all'" in str(broken_image(caught.value))
