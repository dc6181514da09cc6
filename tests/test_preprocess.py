"""What happens to a photo before the network, and what its answers are called."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import re
import resource
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_image

from keras_resnet18 import Preprocess, decode_predictions, preprocess_input
from keras_resnet18.errors import InputError
from keras_resnet18.images import resize_and_crop
from keras_resnet18.preprocess import IMAGENET_MEAN, IMAGENET_STD, imagenet_classes


@pytest.fixture(scope="module")
def photo():
    """A real photograph, uint8 (427, 640, 3)."""
    return load_sample_image("china.jpg")


def crop(spec, image, *, size_known=True):
    """`spec.resize_and_crop`, inside a compiled function if the size is not to be known."""
    if size_known:
        return spec.resize_and_crop(image).numpy()
    signature = [tf.TensorSpec((None, None, image.shape[-1]), tf.uint8)]
    return tf.function(spec.resize_and_crop, input_signature=signature)(image).numpy()


def pillow_crop(image, cover, size, filter_):
    """Resize(cover), CenterCrop(size) as torchvision does it on a Pillow image."""
    height, width = image.shape[:2]
    short = min(height, width)
    new_height, new_width = cover * height // short, cover * width // short
    resized = Image.fromarray(image).resize((new_width, new_height), filter_)
    top, left = round((new_height - size) / 2), round((new_width - size) / 2)
    return np.asarray(resized)[top : top + size, left : left + size]


# The spec


def test_a_spec_survives_json_and_is_checked_again():
    numbers = np.array([160, 192]).tolist(), np.float32(0.5)
    spec = Preprocess(*numbers, "bicubic", (0.5, 0.5, 0.5), [np.float64(0.25), 0.5, 1], "pad", 4095)
    read = Preprocess(**json.loads(json.dumps(dataclasses.asdict(spec))))
    assert read == spec and hash(read) == hash(spec)


@pytest.mark.parametrize(
    ("values", "allowed"),
    [
        ({"size": (10**9, 224)}, "from 1 to 16,384"),
        ({"crop_ratio": 0}, "from 0.1 to 1"),
        ({"interpolation": "lanczos"}, "bilinear, bicubic"),
        ({"fit": "stretch"}, "crop, pad, squash"),
        ({"max_value": 65536}, "from 1 to 65,535"),
        ({"mean": (123.7, 116.3, 103.5)}, "from 0 to 1"),
        ({"std": (0.5, 0.5, 0)}, "from 0.001 to 1"),
        ({"std": (1, math.nan, 1)}, "three numbers"),
    ],
    ids=str,
)
def test_a_bad_value_is_named_with_what_is_allowed(values, allowed):
    with pytest.raises(InputError, match="Received: ") as error:
        Preprocess(**values)
    assert allowed in str(error.value) and f"Received: {next(iter(values))}=" in str(error.value)


# Normalization


def test_preprocess_input_does_what_a_network_with_preprocessing_does_itself(resnet18):
    pixels = np.random.RandomState(0).randint(0, 256, (2, 5, 4, 3)).astype("uint8")
    inside = resnet18.get_layer("normalization")(pixels)
    outside = preprocess_input(pixels)
    assert outside.dtype == "float32"
    np.testing.assert_allclose(outside, inside, atol=1e-6)
    formula = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(outside, formula, atol=1e-5)


def test_preprocess_input_uses_the_mean_and_std_of_the_spec_it_is_given():
    half = Preprocess(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    np.testing.assert_allclose(preprocess_input([[0, 127.5, 255]], half), [[-1, 0, 1]], atol=1e-6)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_than_three_are_normalized_by_the_mean_over_the_three(channels):
    pixels = np.full((2, 8, 8, channels), 100)
    expected = (100 / 255 - np.mean(IMAGENET_MEAN)) / np.mean(IMAGENET_STD)
    np.testing.assert_allclose(preprocess_input(pixels), np.full(pixels.shape, expected), rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 8, 8, 0), ()])
def test_preprocess_input_needs_channels_last(shape):
    with pytest.raises(InputError, match="1 to 4 channels"):
        preprocess_input(np.zeros(shape))


# Resizing and cropping

SHAPES = [(427, 640), (640, 427), (30, 900), (900, 30), (3, 5), (1, 1), (224, 224)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_image_comes_to_the_size_alike_whether_its_own_is_known_or_not(photo, shape):
    image = np.resize(photo, (*shape, 3))
    spec = Preprocess(size=(96, 64))
    known, unknown = crop(spec, image), crop(spec, image, size_known=False)
    assert known.shape == (96, 64, 3) and known.dtype == np.uint8
    np.testing.assert_array_equal(known, unknown)


@pytest.mark.parametrize("size_known", [True, False], ids=["size known", "size not known"])
def test_a_batch_of_one_size_comes_out_as_its_images_one_by_one(photo, size_known):
    images = np.stack([photo[:200, :300], photo[-200:, -300:], photo[100:300, 100:400]])
    spec = Preprocess(size=(96, 64))
    shape = images.shape if size_known else (None, None, None, 3)
    signature = [tf.TensorSpec(shape, tf.uint8)]
    batch = tf.function(spec.resize_and_crop, input_signature=signature)(images)
    assert batch.shape == (3, 96, 64, 3)
    np.testing.assert_array_equal(batch, [crop(spec, image) for image in images])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_an_image_of_the_size_stays_as_it_is_where_nothing_is_cropped(photo, interpolation):
    spec = Preprocess(size=(427, 640), crop_ratio=1.0, interpolation=interpolation)
    np.testing.assert_array_equal(crop(spec, photo, size_known=False), photo)


@pytest.mark.parametrize("margin", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("size_known", [True, False], ids=["size known", "size not known"])
def test_the_crop_begins_where_torchvisions_does(margin, size_known):
    # The image needs no resizing; every column says where it was.
    columns = np.tile(np.arange(32 + margin, dtype=np.uint8), (32, 1))[..., np.newaxis]
    spec = Preprocess(size=(32, 32), crop_ratio=1.0)
    begin = round(margin / 2)  # half to even, in Python and in torchvision
    for image in (columns, columns.transpose(1, 0, 2)):
        assert (np.unique(crop(spec, image, size_known=size_known)) == begin + np.arange(32)).all()


@pytest.mark.parametrize(
    ("interpolation", "filter_", "mean", "most"),
    [
        ("bilinear", Image.Resampling.BILINEAR, 0.2, 1),
        # Pillow cuts what overshoots black or white once for each axis, TensorFlow once in all
        ("bicubic", Image.Resampling.BICUBIC, 0.25, 8),
    ],
)
@pytest.mark.parametrize(("ratio", "cover"), [(0.875, 256), (0.95, 235), (1.0, 224)])
@pytest.mark.parametrize("shape", ["landscape", "upright", "panorama"])
def test_photos_are_resized_as_by_pillow(
    photo, shape, ratio, cover, interpolation, filter_, mean, most
):
    image = {
        "landscape": photo,
        "upright": photo.transpose(1, 0, 2),
        "panorama": photo[100:260],  # 160 by 640: enlarged where the others are reduced
    }[shape]
    image = np.ascontiguousarray(image)
    ours = crop(Preprocess(crop_ratio=ratio, interpolation=interpolation), image)
    theirs = pillow_crop(image, cover, 224, filter_)
    difference = np.abs(ours.astype(int) - theirs)
    assert difference.mean() <= mean
    assert difference.max() <= most


def test_pad_shows_the_whole_image_between_black_bars(photo):
    spec = Preprocess(crop_ratio=1.0, fit="pad")
    for image, begin, end in (
        (photo, 38, 187),  # 427 by 640: 149 by 224
        (photo[:, :100].transpose(1, 0, 2), 86, 138),  # 100 by 427: 52 by 224
    ):
        for turn in (image, image.transpose(1, 0, 2)):
            ours = crop(spec, turn)
            ours = ours if turn is image else ours.transpose(1, 0, 2)
            assert not ours[:begin].any() and not ours[end:].any()
            shown = Image.fromarray(image).resize((224, end - begin), Image.Resampling.BILINEAR)
            assert np.abs(ours[begin:end].astype(int) - np.asarray(shown)).max() <= 1


def test_squash_shows_the_whole_image_and_gives_up_its_proportions(photo):
    ours = crop(Preprocess(size=(96, 64), crop_ratio=1.0, fit="squash"), photo)
    theirs = Image.fromarray(photo).resize((64, 96), Image.Resampling.BILINEAR)
    assert np.abs(ours.astype(int) - np.asarray(theirs)).max() <= 1


@pytest.mark.parametrize("shape", [(30_000, 1), (1, 65_535)])
@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_an_extreme_shape_takes_no_extreme_memory(shape, fit):
    # resized as a whole, 30,000 by 1 would be 7.7 million by 256
    image = np.full((*shape, 3), 9, np.uint8)
    with resource_limit(gigabytes=2):
        for known in (True, False):
            assert crop(Preprocess(fit=fit), image, size_known=known).max() == 9
        assert resize_and_crop(image, Preprocess(fit=fit)).max() == 9


@contextlib.contextmanager
def resource_limit(gigabytes):
    """Lets this process ask for so much more memory than it has, and no more."""
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (in_use + gigabytes * 2**30, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_pixels_are_the_same_with_and_without_tensorflow(photo, fit, interpolation):
    for shape in SHAPES:
        image = np.resize(photo, (*shape, 3))
        for size, ratio in (((96, 64), 0.875), ((224, 224), 1.0)):
            spec = Preprocess(size, ratio, interpolation, fit=fit)
            ours, theirs = resize_and_crop(image, spec), crop(spec, image)
            assert ours.shape == theirs.shape and ours.dtype == np.uint8
            assert np.abs(ours.astype(int) - theirs).max() <= 1


# Names


def test_a_thousand_classes_have_a_thousand_names_and_synsets():
    synsets, names = zip(*imagenet_classes(), strict=True)
    assert len(set(synsets)) == len(set(names)) == 1000
    assert all(len(s) == 9 and s[0] == "n" and s[1:].isdigit() for s in synsets)
    assert list(synsets) == sorted(synsets)  # the order of every published checkpoint
    assert imagenet_classes()[281] == ("n02123045", "tabby")
    for one, other, word in ((134, 517, "crane"), (638, 639, "maillot")):  # of one word
        assert word in names[one] and word in names[other]


def test_predictions_are_named_best_first():
    scores = np.zeros((2, 1000), "float32")
    scores[0, [517, 134, 1]] = 0.5, 0.3, 0.2
    scores[1, 999] = 1
    first, second = decode_predictions(scores, top=3)
    assert [synset for synset, _, _ in first] == ["n03126707", "n02012849", "n01443537"]
    assert [score for *_, score in first] == pytest.approx([0.5, 0.3, 0.2])
    assert second[0] == (*imagenet_classes()[999], 1.0)
    assert [row[0] for row in second[1:]] == [imagenet_classes()[i][0] for i in (0, 1)]  # ties
    for shape in ((1000,), (2, 10), (1, 1, 1000)):
        with pytest.raises(InputError, match=re.escape(f"Received: shape={shape}")):
            decode_predictions(np.zeros(shape))
    for top in (0, 1001, 2.5):
        with pytest.raises(InputError, match=f"from 1 to 1000. Received: top={top}"):
            decode_predictions(scores, top=top)


@pytest.mark.parametrize(
    ("spec", "sizes", "expected"),
    [
        (Preprocess((224, 224)), [(300, 400)], 1 - 0.75 * 0.875**2),
        (Preprocess((224, 224), crop_ratio=1.0), [(300, 400), (300, 300)], 0.125),
        (Preprocess((224, 224), fit="pad"), [(300, 900)], 1 - 0.875),
        (Preprocess((224, 224), fit="squash"), [(300, 900)], 1 - 0.875**2),
        (Preprocess((224, 224)), [], 0.0),
    ],
)
def test_a_crop_knows_how_much_of_images_it_never_shows(spec, sizes, expected):
    assert spec.fraction_unseen(sizes) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_what_is_said_to_be_unseen_does_not_arrive(fit):
    """Of an image that is bright in one point, nothing arrives where the point is not seen."""
    spec = Preprocess((64, 64), crop_ratio=0.5, fit=fit)
    points = np.zeros((16 * 24, 16, 24, 3), np.uint8)
    points.reshape(16 * 24, -1, 3)[range(16 * 24), range(16 * 24)] = 255
    arrived = spec.resize_and_crop(points).numpy().max((1, 2, 3)) > 127
    assert 1 - arrived.mean() == pytest.approx(spec.fraction_unseen([(16, 24)]), abs=0.03)
