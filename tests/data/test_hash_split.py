"""Images are dealt out by a hash of their names: a tenth each for validation and test."""

from __future__ import annotations

import random

import pytest

from keras_resnet18.data.splits import carve

WANTED = pytest.mark.parametrize(
    "wanted", [("validation", "test"), ("validation",), ("test",)], ids=" and ".join
)


def homes(keys, classes, wanted):
    dealt = carve(keys, classes, wanted, 0)
    return {keys[index]: kind for kind, indices in dealt.items() for index in indices}


def test_every_image_is_dealt_once_and_a_tenth_each_to_validation_and_test():
    dealt = carve([str(i) for i in range(5000)], ["a", "b"] * 2500, ("validation", "test"), 0)
    assert sorted(i for rows in dealt.values() for i in rows) == list(range(5000))
    assert 400 < len(dealt["validation"]) < 600 and 400 < len(dealt["test"]) < 600


@WANTED
def test_a_class_of_three_has_an_image_in_each_split(wanted):
    for number in range(300):
        keys = [f"{number}/{i}" for i in range(3)]
        assert set(homes(keys, "aaa", wanted).values()) == {"train", *wanted}


@WANTED
def test_in_growing_folders_no_training_image_leaves(wanted):
    order = ["test", "validation", "train"]
    draw = random.Random(0)
    returned = 0
    for number in range(400):
        keys = [f"{number}/{i}" for i in range(draw.randint(3, 12))]
        before = homes(keys, "a" * len(keys), wanted)
        lent = list(before.values()).count("train") == 1  # perhaps for want of another
        for step in range(4):
            keys += [f"{number}/{step}/{i}" for i in range(draw.randint(1, 8))]
            after = homes(keys, "a" * len(keys), wanted)
            for key, kind in before.items():
                assert lent or order.index(after[key]) >= order.index(kind)
                returned += after[key] != kind
            lent = lent and list(after.values()).count("train") == 1
            before = after
    assert returned > 50


def test_an_image_lent_to_training_is_the_only_one_that_may_leave_it():
    # the tenths of the hashes decide: find three images that all belong to test
    keys = [str(i) for i in range(3000)]
    assert not len(carve(keys, keys, ("test",), 0)["test"])  # classes of one image lend none
    tests = [k for k, kind in homes(keys, "a" * 3000, ("test",)).items() if kind == "test"][:3]
    assert sorted(homes(tests, "aaa", ("test",)).values()) == ["test", "test", "train"]
    many = homes([*tests, *keys[:20]], "a" * 23, ("test",))
    assert all(many[key] == "test" for key in tests)


@pytest.mark.parametrize(("images", "classes"), [(15, 2), (2, 300), (2, 2), (3, 2)])
def test_small_folders_are_never_refused_by_chance(images, classes):
    names = [str(c) for c in range(classes) for _ in range(images)]
    keys = [f"{name}/{i}" for i, name in enumerate(names)]
    for seed in range(30):
        dealt = carve(keys, names, ("validation", "test"), seed)
        assert len(dealt["validation"]) and len(dealt["test"])
        assert {names[i] for i in dealt["train"]} == set(names)
