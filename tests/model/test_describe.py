"""describe() gives the paper's table for the very model that it is given."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet18 import build_plain18, build_resnet18, build_resnet34, describe
from keras_resnet18.errors import InputError


@pytest.fixture(scope="module")
def small():
    return build_resnet18(input_shape=(64, 64, 3), classes=10, stem="small", dropout=0.1)


def test_rows_of_resnet18_are_the_papers_table(resnet18):
    rows = describe(resnet18).rows
    assert [(row.block, row.stage) for row in rows] == [
        ("A", "stem"),
        ("B", "stage1"),
        ("C", "stage2"),
        ("D", "stage3"),
        ("E", "stage4"),
        ("", "head"),
    ]
    assert [row.output_shape for row in rows] == [
        (56, 56, 64),
        (56, 56, 64),
        (28, 28, 128),
        (14, 14, 256),
        (7, 7, 512),
        (1000,),
    ]
    assert [row.layers for row in rows] == [
        "7×7, 64 /2; 3×3 max pool /2",
        "[3×3, 64; 3×3, 64] ×2",
        "[3×3, 128 /2; 3×3, 128] ×2, the first with a 1×1 shortcut",
        "[3×3, 256 /2; 3×3, 256] ×2, the first with a 1×1 shortcut",
        "[3×3, 512 /2; 3×3, 512] ×2, the first with a 1×1 shortcut",
        "average pool; 1000-d softmax",
    ]
    # 11: seven pixels, and two steps of the 3×3 pool, two pixels each
    assert [row.receptive_field for row in rows] == [11, 43, 99, 211, 435, None]


def test_multiply_adds_of_resnet18_at_224_are_the_known_1_8_billion(resnet18):
    assert describe(resnet18).multiply_adds == 1_814_073_344


def test_multiply_adds_grow_with_the_image(small):
    half = build_resnet18(input_shape=(32, 32, 3), classes=10, stem="small")
    convolutions = [sum(row.multiply_adds for row in describe(m).rows[:-1]) for m in (half, small)]
    assert convolutions[1] == 4 * convolutions[0]


def test_parameters_add_up_to_the_models(resnet18, small):
    for model in (resnet18, small):
        assert describe(model).parameters == model.count_params()


def test_the_text_has_a_line_for_each_row_and_the_total(resnet18):
    header, *body, total = str(describe(resnet18)).splitlines()
    assert header.split() == [
        "block",
        "stage",
        "layers",
        "output",
        "parameters",
        "multiply-adds",
        "sees",
    ]
    assert [line.split()[:2] for line in body[:5]] == [
        [letter, stage]
        for letter, stage in zip(
            "ABCDE", ["stem", "stage1", "stage2", "stage3", "stage4"], strict=True
        )
    ]
    assert "56×56×64" in body[1]
    assert body[4].endswith("435 px")
    assert body[5].split()[0] == "head" and body[5].endswith("all")
    assert total.split() == ["resnet18", "11,699,112", "1,814,073,344"]


def test_an_image_of_any_size_leaves_sizes_and_multiply_adds_open():
    description = describe(build_resnet18(input_shape=(None, None, 3), classes=10))
    stage4, head = description.rows[-2:]
    assert stage4.output_shape == (None, None, 512)
    assert stage4.multiply_adds is None and description.multiply_adds is None
    assert head.multiply_adds == 5120 and stage4.receptive_field == 435
    lines = str(description).splitlines()
    assert "?×?×512" in lines[5] and lines[-1].endswith("?")


def test_depth_34_and_plain_networks_have_their_own_tables():
    deep, plain = describe(build_resnet34(classes=10)), describe(build_plain18(classes=10))
    assert [row.layers.split("] ")[1][:2] for row in deep.rows[1:5]] == ["×3", "×4", "×6", "×3"]
    assert [row.receptive_field for row in deep.rows] == [11, 59, 179, 547, 899, None]
    assert (deep.name, plain.name) == ("resnet34", "plain18")
    assert plain.rows[2].layers == "[3×3, 128 /2; 3×3, 128] ×2"


def test_stems_and_feature_heads_are_told_apart(small):
    features = build_resnet18(
        input_shape=(32, 32, 3), include_top=False, pooling="max", stem="small_stride2"
    )
    assert describe(small).rows[0].layers == "3×3, 64"
    stem, *_, head = describe(features).rows
    assert (stem.layers, head.layers) == ("3×3, 64 /2", "max pool")
    assert head.output_shape == (512,)


def test_resnet_d_has_a_deep_stem_and_shortcuts_that_average(resnet18d):
    rows = describe(resnet18d).rows
    assert rows[0].layers == "3×3, 32 /2; 3×3, 32; 3×3, 64; 3×3 max pool /2"
    assert rows[1].layers == "[3×3, 64; 3×3, 64] ×2"
    assert rows[2].layers == (
        "[3×3, 128 /2; 3×3, 128] ×2, the first with a 2×2 average pool and 1×1 shortcut"
    )
    # the stem's 3×3 see 3, 7 and 11 pixels
    assert [row.receptive_field for row in rows] == [15, 47, 103, 215, 439, None]
    assert describe(resnet18d).parameters == resnet18d.count_params()


@pytest.mark.parametrize("variant", [None, "d"])
def test_with_holes_a_value_sees_as_much_on_a_larger_map(variant):
    model = build_resnet18(variant=variant, output_stride=8, classes=10)
    pool = "2×2 average pool and " if variant == "d" else ""
    rows = describe(model).rows
    assert [row.output_shape[0] for row in rows[:5]] == [56, 56, 28, 28, 28]
    assert [row.layers for row in rows[3:5]] == [
        f"[3×3, 256; 3×3, 256] ×2, dilation 1, then 2, the first with a {pool}1×1 shortcut",
        f"[3×3, 512; 3×3, 512] ×2, dilation 2, then 4, the first with a {pool}1×1 shortcut",
    ]
    whole = [15, 47, 103, 215, 439] if variant == "d" else [11, 43, 99, 211, 435]
    assert [row.receptive_field for row in rows[:5]] == whole


def test_without_a_head_there_is_no_row_for_it():
    model = build_resnet18(input_shape=(64, 64, 3), include_top=False)
    assert [row.stage for row in describe(model).rows][-1] == "stage4"


def test_the_receptive_field_is_what_one_value_depends_on(small):
    # The small stem sees 3 pixels, and stage 1's four convolutions two more each.
    stage1 = keras.Model(small.input, small.get_layer("stage1_block2_out").output)
    image = tf.Variable(np.random.RandomState(0).uniform(0, 255, (1, 64, 64, 3)).astype("float32"))
    with tf.GradientTape() as tape:
        middle = tf.reduce_sum(stage1(image)[0, 32, 32])
    touched = np.abs(tape.gradient(middle, image)[0]).max(axis=-1) > 0
    rows, columns = touched.any(axis=1).nonzero()[0], touched.any(axis=0).nonzero()[0]
    assert describe(small).rows[1].receptive_field == 11
    assert len(rows) == len(columns) == 11


def test_a_foreign_model_is_refused_by_name():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="d")], name="other")
    with pytest.raises(InputError, match="Received: a model named 'other' with the layers d"):
        describe(model)
