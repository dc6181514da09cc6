"""describe() gives the paper's table for the very model that it is given."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet18 import build_plain18, build_resnet18, build_resnet34, describe
from keras_resnet18.errors import InputError

# The stem sees 11 pixels: the seven of its convolution, and two steps of the 3×3 pool, two each.
RESNET18 = """
block|stage|layers|output|parameters|multiply-adds|sees
A|stem|7×7, 64 /2; 3×3 max pool /2|56×56×64|9,664|118,013,952|11 px
B|stage1|[3×3, 64; 3×3, 64] ×2|56×56×64|148,480|462,422,016|43 px
C|stage2|[3×3, 128 /2; 3×3, 128] ×2, the first with a 1×1|28×28×128|526,848|411,041,792|99 px
D|stage3|[3×3, 256 /2; 3×3, 256] ×2, the first with a 1×1|14×14×256|2,102,272|411,041,792|211 px
E|stage4|[3×3, 512 /2; 3×3, 512] ×2, the first with a 1×1|7×7×512|8,398,848|411,041,792|435 px
|head|average pool; 1000-d softmax|1000|513,000|512,000|all
|resnet18|11,699,112|1,814,073,344
""".strip()


@pytest.fixture(scope="module")
def small():
    return build_resnet18(input_shape=(64, 64, 3), classes=10, stem="small", dropout=0.1)


def test_the_text_for_resnet18_is_the_papers_table(resnet18):
    text = str(describe(resnet18)).replace(" shortcut", "")
    assert re.sub(r"  +", "|", text) == RESNET18


def test_resnet_d_has_a_deep_stem_and_shortcuts_that_average(resnet18d):
    rows = describe(resnet18d).rows
    assert rows[0].layers == "3×3, 32 /2; 3×3, 32; 3×3, 64; 3×3 max pool /2"
    assert rows[2].layers == (
        "[3×3, 128 /2; 3×3, 128] ×2, the first with a 2×2 average pool and 1×1 shortcut"
    )
    # the stem's 3×3 see 3, 7 and 11 pixels
    assert [row.receptive_field for row in rows] == [15, 47, 103, 215, 439, None]


def test_totals_are_those_of_the_model_and_of_its_image(small):
    half = build_resnet18(input_shape=(32, 32, 3), classes=10, stem="small")
    assert describe(small).parameters == small.count_params()
    convolutions = [sum(row.multiply_adds for row in describe(m).rows[:-1]) for m in (half, small)]
    assert convolutions[1] == 4 * convolutions[0]


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
    assert plain.rows[2].layers == "[3×3, 128 /2; 3×3, 128] ×2"


def test_stems_and_feature_heads_are_told_apart(small):
    arguments = {"input_shape": (32, 32, 3), "include_top": False, "stem": "small_stride2"}
    stem, *_, head = describe(build_resnet18(**arguments, pooling="max")).rows
    assert (stem.layers, head.layers, head.output_shape) == ("3×3, 64 /2", "max pool", (512,))
    assert describe(small).rows[0].layers == "3×3, 64"
    assert describe(build_resnet18(**arguments)).rows[-1].stage == "stage4"


def test_the_receptive_field_is_what_one_value_depends_on(small):
    # The small stem sees 3 pixels, and stage 1's four convolutions two more each.
    stage1 = keras.Model(small.input, small.get_layer("stage1_block2_out").output)
    image = tf.Variable(np.random.RandomState(0).uniform(0, 255, (1, 64, 64, 3)).astype("float32"))
    with tf.GradientTape() as tape:
        middle = tf.reduce_sum(stage1(image)[0, 32, 32])
    touched = np.abs(tape.gradient(middle, image)[0]).max(axis=-1) > 0
    rows, columns = touched.any(axis=1).nonzero()[0], touched.any(axis=0).nonzero()[0]
    assert describe(small).rows[1].receptive_field == len(rows) == len(columns) == 11


def test_a_foreign_model_is_refused_by_name():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="d")], name="other")
    with pytest.raises(InputError, match="Received: a model named 'other' with the layers d"):
        describe(model)
