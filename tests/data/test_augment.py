from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_resnet18.data.augment import augment
from keras_resnet18.data.stored import decoded_image
from keras_resnet18.preprocess import Preprocess

OFF: dict[str, Any] = {
    "resized_crop": None,
    "shift": 0,
    "flip": False,
    "erase": 0.0,
    "jitter": 0.0,
}
ALL: dict[str, Any] = {
    "resized_crop": (0.3, 1.0),
    "shift": 2,
    "flip": True,
    "erase": 0.5,
    "jitter": 0.4,
}
COLOUR = (124, 116, 104)

y, x = np.mgrid[:24, :32]
RAMP = np.stack([y * 10, x * 7, np.full_like(y, 60)], -1).astype(np.uint8)


def varied(image: np.ndarray, seed: Any, size: tuple[int, int], fit: str, **options: Any) -> Any:
    stored = decoded_image(tf.constant(image))
    return augment(stored, seed, preprocess=Preprocess(size, fit=fit), **(OFF | options))


def variations(
    image: np.ndarray, count: int, size: tuple[int, int], fit: str = "crop", **options: Any
) -> np.ndarray:
    def one(seed: tf.Tensor) -> tf.Tensor:
        return varied(image, seed, size, fit, **options)

    seeds = tf.data.Dataset.range(count).map(lambda i: tf.stack([tf.constant(5, tf.int64), i]))
    return np.stack(list(seeds.map(one).as_numpy_iterator()))


def test_the_same_seed_gives_the_same_image_and_another_seed_another() -> None:
    first, again = (variations(RAMP, 8, (16, 16), **ALL) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert len({image.tobytes() for image in first}) >= 6  # some are black


def test_eager_and_graph_agree() -> None:
    in_graph = variations(RAMP, 3, (16, 16), **ALL)
    eager = [varied(RAMP, (5, i), (16, 16), "crop", **ALL) for i in range(3)]
    np.testing.assert_array_equal(in_graph, np.stack(eager))


@pytest.mark.parametrize("options", [OFF, ALL])
@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_the_result_has_the_size_and_dtype_asked_for_whatever_comes_in(
    options: Any, fit: str
) -> None:
    for height, width in [(1, 1), (3, 90), (90, 3), (24, 32), (200, 150)]:
        image = np.zeros((height, width, 3), np.uint8)
        result = varied(image, tf.constant((1, 2)), (20, 28), fit, **options)
        assert result.shape == (20, 28, 3)
        assert result.dtype == tf.uint8


def test_all_off_is_the_plain_resize_of_evaluation() -> None:
    for fit in ("crop", "pad", "squash"):
        expected = Preprocess((16, 16), 1.0, fit=fit).resize_and_crop(tf.constant(RAMP))
        np.testing.assert_array_equal(variations(RAMP, 1, (16, 16), fit)[0], expected)
    np.testing.assert_array_equal(variations(RAMP, 1, (24, 32))[0], RAMP)


def test_flip_mirrors_half_of_the_images() -> None:
    results = variations(RAMP, 400, (24, 32), flip=True)
    flipped = (results == RAMP[:, ::-1]).all((1, 2, 3))
    kept = (results == RAMP).all((1, 2, 3))
    assert (flipped | kept).all()
    assert 160 <= flipped.sum() <= 240  # 4 standard deviations


def test_shift_moves_by_up_to_so_many_pixels_each_way_with_black_behind() -> None:
    dot = np.zeros((9, 9, 3), np.uint8)
    dot[4, 4] = 200
    results = variations(dot, 300, (9, 9), shift=2)
    places = {tuple(np.argwhere(image[..., 0] == 200)[0] - 4) for image in results}
    assert places == {(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)}
    white = variations(np.full((9, 9, 3), 255, np.uint8), 50, (9, 9), shift=2)
    assert set(np.unique(white)) == {0, 255}


def test_jitter_scales_brightness_contrast_and_saturation_within_its_limits() -> None:
    grey = np.full((8, 8, 3), 100, np.uint8)
    levels = variations(grey, 300, (8, 8), jitter=0.3)
    assert (levels == levels[:, :1, :1, :1]).all()  # grey has neither contrast nor saturation
    assert 70 <= levels.min() < 74 and 126 < levels.max() <= 130
    results = variations(RAMP, 300, (24, 32), jitter=0.3).astype(float)
    contrast = results.std((1, 2)).mean(-1) / results.mean((1, 2, 3))
    own = RAMP.std((0, 1)).mean() / RAMP.mean()
    assert 0.6 < (contrast / own).min() < 0.8 and 1.2 < (contrast / own).max() < 1.6
    assert variations(RAMP, 1, (24, 32), jitter=0.0)[0].tobytes() == RAMP.tobytes()


def test_erase_covers_the_stated_fraction_of_images_and_area() -> None:
    black = np.zeros((40, 40, 3), np.uint8)
    results = variations(black, 400, (40, 40), erase=0.25)
    covered = (results == COLOUR).all(-1)
    areas = covered.mean((1, 2))
    erased = areas > 0
    assert 65 <= erased.sum() <= 135  # 4 standard deviations
    assert (results[~covered] == 0).all()
    assert 0.015 < areas[erased].min() < 0.06 and 0.25 < areas[erased].max() < 0.35
    for mask in covered[erased]:  # one full rectangle
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


def test_resized_crop_keeps_to_the_areas_and_aspects() -> None:
    # red and green hold a pixel's place, so the ends of a result tell its window
    y, x = np.mgrid[:120, :120]
    places = np.stack([y * 2, x * 2, 0 * y], -1).astype(np.uint8)
    results = variations(places, 200, (60, 60), resized_crop=(0.25, 0.5)).astype(float)
    heights = (results[:, -1, 0, 0] - results[:, 0, 0, 0]) / 2 * 60 / 59
    widths = (results[:, 0, -1, 1] - results[:, 0, 0, 1]) / 2 * 60 / 59
    areas, aspects = heights * widths / 120**2, widths / heights
    assert 0.22 < areas.min() < 0.28 and 0.47 < areas.max() < 0.53
    assert 0.72 < aspects.min() < 0.8 and 1.25 < aspects.max() < 1.4
    assert np.ptp(results[:, 0, 0, 0]) > 60 and np.ptp(results[:, 0, 0, 1]) > 60


def test_resized_crop_of_a_strip_that_no_window_fits_takes_its_middle() -> None:
    strip = np.repeat(np.arange(0, 240, 2, dtype=np.uint8)[:, np.newaxis], 6, 1)
    image = np.stack([strip] * 3, -1)  # 120 by 6: the largest window is 6 / (3 / 4) = 8 high
    result = variations(image, 1, (8, 8), resized_crop=(1.0, 1.0))[0]
    np.testing.assert_array_equal(result[:, 0], image[56:64, 0])


def test_resized_crop_keeps_the_proportions_of_a_size_that_is_not_square() -> None:
    y, x = np.mgrid[:120, :120]
    places = np.stack([y * 2, x * 2, 0 * y], -1).astype(np.uint8)
    results = variations(places, 200, (40, 80), resized_crop=(0.1, 0.3)).astype(float)
    heights = (results[:, -1, 0, 0] - results[:, 0, 0, 0]) / 2 * 40 / 39
    widths = (results[:, 0, -1, 1] - results[:, 0, 0, 1]) / 2 * 80 / 79
    assert 1.4 < (widths / heights).min() < 1.6 and 2.4 < (widths / heights).max() < 2.8


def test_resized_crop_of_a_squashed_image_has_the_proportions_of_the_image() -> None:
    y, x = np.mgrid[:60, :120]
    places = np.stack([y * 4, x * 2, 0 * y], -1).astype(np.uint8)
    results = variations(places, 200, (40, 40), "squash", resized_crop=(0.3, 0.5)).astype(float)
    heights = (results[:, -1, 0, 0] - results[:, 0, 0, 0]) / 4 * 40 / 39
    widths = (results[:, 0, -1, 1] - results[:, 0, 0, 1]) / 2 * 40 / 39
    assert 1.4 < (widths / heights).min() < 1.6 and 2.4 < (widths / heights).max() < 2.8


def test_resized_crop_of_a_padded_image_may_hold_bars_but_never_bars_alone() -> None:
    white = np.full((30, 120, 3), 255, np.uint8)
    results = variations(white, 200, (40, 40), "pad", resized_crop=(0.1, 1.0))
    seen = results.max((2, 3)) > 0  # rows with a bit of the image
    assert (results.min((1, 2, 3)) == 0).mean() > 0.5
    assert seen.any(1).all() and seen.mean(1).min() < 0.4
    whole = variations(white, 1, (40, 40), "pad", resized_crop=(1.0, 1.0))[0]
    assert (whole[:15] == 0).all() and (whole[15:25] == 255).all() and (whole[25:] == 0).all()


def test_turning_one_kind_on_leaves_the_others_as_they_were() -> None:
    flipped = variations(RAMP, 30, (24, 32), flip=True)
    both = variations(RAMP, 30, (24, 32), flip=True, erase=1.0)
    covered = (both == COLOUR).all(-1)
    np.testing.assert_array_equal(both[~covered], flipped[~covered])
