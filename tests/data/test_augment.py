"""Each random variation stays within its limits, and is a function of the seed alone."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_resnet18.data.augment import augment
from keras_resnet18.data.stored import decoded_image
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.recipe import Augment

ALL = {"resized_crop": (0.3, 1.0), "shift": 2, "flip": True, "erase": 0.5, "jitter": 0.4}
COLOR = (124, 116, 104)

y, x = np.mgrid[:24, :32]
RAMP = np.stack([y * 10, x * 7, np.full_like(y, 60)], -1).astype(np.uint8)


def varied(image, seed, size, fit, **options):
    stored = decoded_image(tf.constant(image))
    return augment(stored, seed, preprocess=Preprocess(size, fit=fit), settings=Augment(**options))


def variations(image, count, size, fit="crop", **options):
    def one(seed):
        return varied(image, seed, size, fit, **options)

    seeds = tf.data.Dataset.range(count).map(lambda i: tf.stack([tf.constant(5, tf.int64), i]))
    return np.stack(list(seeds.map(one).as_numpy_iterator()))


def test_the_same_seed_gives_the_same_image_in_any_mode_and_another_seed_another():
    first = variations(RAMP, 8, (16, 16), **ALL)
    eager = [varied(RAMP, (5, i), (16, 16), "crop", **ALL) for i in range(8)]
    np.testing.assert_array_equal(first, np.stack(eager))
    assert len({image.tobytes() for image in first}) >= 7


@pytest.mark.parametrize("options", [{}, ALL])
@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_the_result_has_the_size_and_dtype_asked_for_whatever_comes_in(options, fit):
    for height, width in [(1, 1), (3, 90), (90, 3), (24, 32), (200, 150)]:
        image = np.zeros((height, width, 3), np.uint8)
        result = varied(image, tf.constant((1, 2)), (20, 28), fit, **options)
        assert result.shape == (20, 28, 3)
        assert result.dtype == tf.uint8


def test_all_off_is_the_plain_resize_of_evaluation():
    for fit in ("crop", "pad", "squash"):
        expected = Preprocess((16, 16), 1.0, fit=fit).resize_and_crop(tf.constant(RAMP))
        np.testing.assert_array_equal(variations(RAMP, 1, (16, 16), fit)[0], expected)
    np.testing.assert_array_equal(variations(RAMP, 1, (24, 32))[0], RAMP)


def test_flip_mirrors_half_of_the_images():
    results = variations(RAMP, 400, (24, 32), flip=True)
    flipped = (results == RAMP[:, ::-1]).all((1, 2, 3))
    kept = (results == RAMP).all((1, 2, 3))
    assert (flipped | kept).all()
    assert 160 <= flipped.sum() <= 240  # 4 standard deviations


def test_shift_moves_by_up_to_so_many_pixels_each_way_with_black_behind():
    dot = np.zeros((9, 9, 3), np.uint8)
    dot[4, 4] = 200
    results = variations(dot, 300, (9, 9), shift=2)
    places = {tuple(np.argwhere(image[..., 0] == 200)[0] - 4) for image in results}
    assert places == {(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)}
    white = variations(np.full((9, 9, 3), 255, np.uint8), 50, (9, 9), shift=2)
    assert set(np.unique(white)) == {0, 255}


def test_jitter_scales_brightness_contrast_and_saturation_within_its_limits():
    grey = np.full((8, 8, 3), 100, np.uint8)
    levels = variations(grey, 300, (8, 8), jitter=0.3)
    assert (levels == levels[:, :1, :1, :1]).all()  # grey has neither contrast nor saturation
    assert 70 <= levels.min() < 74 and 126 < levels.max() <= 130
    results = variations(RAMP, 300, (24, 32), jitter=0.3).astype(float)
    contrast = results.std((1, 2)).mean(-1) / results.mean((1, 2, 3))
    own = RAMP.std((0, 1)).mean() / RAMP.mean()
    assert 0.6 < (contrast / own).min() < 0.8 and 1.2 < (contrast / own).max() < 1.6


def test_erase_covers_the_stated_fraction_of_images_and_area():
    black = np.zeros((40, 40, 3), np.uint8)
    results = variations(black, 400, (40, 40), erase=0.25)
    covered = (results == COLOR).all(-1)
    areas = covered.mean((1, 2))
    erased = areas > 0
    assert 65 <= erased.sum() <= 135  # 4 standard deviations
    assert (results[~covered] == 0).all()
    assert 0.015 < areas[erased].min() < 0.06 and 0.25 < areas[erased].max() < 0.35
    for mask in covered[erased]:  # one full rectangle
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


@pytest.mark.parametrize(
    ("image_size", "size", "fit", "areas", "aspects"),
    [
        ((120, 120), (60, 60), "crop", (0.25, 0.5), (3 / 4, 4 / 3)),
        ((120, 120), (40, 80), "crop", (0.1, 0.3), (3 / 2, 8 / 3)),  # those of the size, varied
        ((60, 120), (40, 40), "squash", (0.3, 0.5), (3 / 2, 8 / 3)),  # those of the image
    ],
)
def test_resized_crop_keeps_to_the_areas_and_proportions(image_size, size, fit, areas, aspects):
    # red and green hold a pixel's place, so the ends of a result tell its window
    y, x = np.mgrid[: image_size[0], : image_size[1]]
    steps = [240 // side for side in image_size]
    places = np.stack([y * steps[0], x * steps[1], 0 * y], -1).astype(np.uint8)
    results = variations(places, 200, size, fit, resized_crop=areas).astype(float)
    tops, lefts = results[:, 0, 0, 0], results[:, 0, 0, 1]
    heights = (results[:, -1, 0, 0] - tops) / steps[0] * size[0] / (size[0] - 1)
    widths = (results[:, 0, -1, 1] - lefts) / steps[1] * size[1] / (size[1] - 1)
    for found, (low, high) in (
        (heights * widths / np.prod(image_size), areas),
        (widths / heights, aspects),
    ):
        assert 0.9 * low < found.min() < 1.12 * low and 0.9 * high < found.max() < 1.1 * high
    assert np.ptp(tops) > 60 and np.ptp(lefts) > 60


def test_resized_crop_of_a_strip_that_no_window_fits_takes_its_middle():
    strip = np.repeat(np.arange(0, 240, 2, dtype=np.uint8)[:, np.newaxis], 6, 1)
    image = np.stack([strip] * 3, -1)  # 120 by 6: the largest window is 6 / (3 / 4) = 8 high
    result = variations(image, 1, (8, 8), resized_crop=(1.0, 1.0))[0]
    np.testing.assert_array_equal(result[:, 0], image[56:64, 0])


def test_resized_crop_of_a_padded_image_may_hold_bars_but_never_bars_alone():
    white = np.full((30, 120, 3), 255, np.uint8)
    results = variations(white, 200, (40, 40), "pad", resized_crop=(0.1, 1.0))
    seen = results.max((2, 3)) > 0  # rows with a bit of the image
    assert (results.min((1, 2, 3)) == 0).mean() > 0.5
    assert seen.any(1).all() and seen.mean(1).min() < 0.4
    whole = variations(white, 1, (40, 40), "pad", resized_crop=(1.0, 1.0))[0]
    assert (whole[:15] == 0).all() and (whole[15:25] == 255).all() and (whole[25:] == 0).all()


def test_turning_one_kind_on_leaves_the_others_as_they_were():
    flipped = variations(RAMP, 30, (24, 32), flip=True)
    both = variations(RAMP, 30, (24, 32), flip=True, erase=1.0)
    covered = (both == COLOR).all(-1)
    np.testing.assert_array_equal(both[~covered], flipped[~covered])
