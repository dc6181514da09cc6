"""Mixed images are mixed in the same proportions as their labels."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_resnet18.data.augment import mix
from keras_resnet18.recipe import Augment

# One image of each level, and each of a class of its own.
LEVELS = np.array([0, 50, 100, 250])
IMAGES = np.broadcast_to(LEVELS[:, None, None, None], (4, 20, 24, 3)).astype(np.uint8)
LABELS = np.arange(4)


def batches(count: int, **alphas: float):
    alphas = {"mixup": 0.0, "cutmix": 0.0, **alphas}

    def one(seed: tf.Tensor):
        return mix(
            tf.constant(IMAGES), tf.constant(LABELS), seed, classes=4, settings=Augment(**alphas)
        )

    seeds = tf.data.Dataset.range(count).map(lambda i: tf.stack([tf.constant(5, tf.int64), i]))
    return [tuple(x.numpy() for x in batch) for batch in seeds.map(one)]


@pytest.mark.parametrize("alphas", [{"mixup": 0.3}, {"cutmix": 1.0}, {"mixup": 0.3, "cutmix": 1.0}])
def test_labels_have_the_proportions_of_the_images(alphas):
    for images, targets in batches(40, **alphas):
        assert images.dtype == np.uint8 and images.shape == IMAGES.shape
        assert targets.shape == (4, 4)
        np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-6)
        np.testing.assert_allclose(images.mean((1, 2, 3)), targets @ LEVELS, atol=0.51)
        # the image at the mirrored place is the only other one
        assert (np.where(np.eye(4) + np.eye(4)[::-1] > 0, 0, targets) == 0).all()


def test_mixup_is_one_mean_everywhere_and_cutmix_one_rectangle():
    for images, _ in batches(20, mixup=1.0):
        assert (images == images[:, :1, :1]).all()
    for images, _ in batches(20, cutmix=1.0):
        for own, image in zip(IMAGES, images, strict=True):
            changed = (image != own).all(-1)
            rows, columns = changed.any(1), changed.any(0)
            np.testing.assert_array_equal(changed, rows[:, None] & columns)
            for line in (rows, columns):
                assert abs(np.diff(np.pad(line.astype(int), 1))).sum() in (0, 2)  # in one piece


def test_with_both_half_of_the_batches_are_of_each_kind():
    made = batches(200, mixup=1, cutmix=1)
    is_mixup = [(images == images[:, :1, :1]).all() for images, _ in made]
    assert 70 <= sum(is_mixup) <= 130  # 4 standard deviations


def test_the_fraction_is_betas():
    for alpha, deviation in ((0.2, 0.4226), (1.0, 0.2887), (5.0, 0.1508)):
        fractions = np.concatenate(
            [np.diagonal(targets)[:2] for _, targets in batches(1500, mixup=alpha)]
        )
        assert fractions.mean() == pytest.approx(0.5, abs=0.035)
        assert fractions.std() == pytest.approx(deviation, rel=0.06)


def test_an_alpha_whose_draws_are_too_small_for_float32_gives_no_nan():
    for images, targets in batches(50, mixup=1e-6):
        assert set(np.unique(targets)) <= {0.0, 0.5, 1.0}
        np.testing.assert_allclose(images.mean((1, 2, 3)), targets @ LEVELS, atol=0.51)
