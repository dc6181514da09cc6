"""The builders build the paper's networks, and refuse what cannot be one."""

from __future__ import annotations

import inspect
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from keras_resnet18 import (
    build_plain18,
    build_plain34,
    build_resnet18,
    build_resnet34,
    conv_block,
    identity_block,
    preprocess_input,
)

ALL_BUILDERS = [build_resnet18, build_resnet34, build_plain18, build_plain34]
LAYER_NAMES = Path(__file__).with_name("layer_names.txt").read_text().splitlines()
SMALL = {"input_shape": (32, 32, 3), "stem": "small_stride2"}


def names_of(model):
    return [layer.name for layer in model.layers]


def layers_of(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


def random_pixels(*shape):
    return np.random.RandomState(0).randint(0, 256, shape).astype("float32")


# The networks; test_golden.py compares what they compute with torch


@pytest.mark.parametrize(
    ("build", "variant", "trainable", "statistics"),
    [
        (build_resnet18, None, 11_689_512, 9_600),
        (build_resnet34, None, 21_797_672, 17_024),
        (build_resnet18, "d", 11_708_744, 9_728),
    ],
)
def test_networks_have_the_known_numbers_of_parameters(build, variant, trainable, statistics):
    model = build(variant=variant)
    for variables, known in (
        (model.trainable_variables, trainable),
        (model.non_trainable_variables, statistics),
    ):
        assert sum(int(np.prod(v.shape)) for v in variables) == known


def test_layer_names_are_those_that_users_rely_on(resnet18):
    assert names_of(resnet18) == LAYER_NAMES


def test_layer_names_of_resnet_d_are_those_that_users_rely_on(resnet18d):
    stem = [f"stem_{part}{number}" for number in (1, 2, 3) for part in ("conv", "bn", "relu")]
    rest = LAYER_NAMES[LAYER_NAMES.index("stem_pool_pad") :]
    for block in ("stage2_block1", "stage3_block1", "stage4_block1"):
        rest.insert(rest.index(f"{block}_relu1"), f"{block}_shortcut_pool")
    assert names_of(resnet18d) == ["image", "normalization", "stem_conv1_pad", *stem, *rest]


@pytest.mark.parametrize("variant", [None, "d"])
def test_a_plain_network_is_the_residual_one_without_shortcuts(resnet18, resnet18d, variant):
    plain = build_plain18(variant=variant)
    names = names_of(resnet18d if variant else resnet18)
    assert names_of(plain) == [n for n in names if not ("_shortcut_" in n or n.endswith("_add"))]


def test_kernels_start_as_he_et_al_and_torch_draw_them(resnet18):
    kernel = keras.ops.convert_to_numpy(resnet18.get_layer("stage3_block1_conv1").kernel)
    height, width, _, outputs = kernel.shape
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (height * width * outputs)), rtol=0.01)
    assert kernel.max() > 4 * kernel.std()  # not truncated
    dense = keras.ops.convert_to_numpy(resnet18.get_layer("predictions").kernel)
    assert 0.99 / np.sqrt(512) < abs(dense).max() <= 1 / np.sqrt(512)


@pytest.mark.parametrize("build", ALL_BUILDERS, ids=lambda build: build.__name__)
def test_every_builder_has_the_arguments_that_help_documents(build):
    described = inspect.getdoc(build_resnet18)
    assert build is build_resnet18 or "`build_resnet18`" in inspect.getdoc(build)
    assert inspect.signature(build) == inspect.signature(build_resnet18)
    for argument in inspect.signature(build).parameters:
        assert f"{argument}:" in described


# Blocks for networks of one's own


def test_an_identity_block_whose_convolutions_are_zero_is_a_relu():
    image = keras.Input((5, 5, 4))
    block = keras.Model(image, identity_block(image, 4, name="b"))
    assert [layer.name for layer in layers_of(block, layers.Conv2D)] == ["b_conv1", "b_conv2"]
    for convolution in layers_of(block, layers.Conv2D):
        convolution.kernel.assign(np.zeros(convolution.kernel.shape))
    x = np.random.RandomState(0).normal(size=(2, 5, 5, 4)).astype("float32")
    np.testing.assert_array_equal(block(x), np.maximum(x, 0))


def test_an_identity_block_cannot_change_the_number_of_channels():
    with pytest.raises(ValueError, match=r"filters must be 3 here .* Received: filters=64"):
        identity_block(keras.Input((9, 9, 3)), 64, name="b")


@pytest.mark.parametrize(("stride", "side"), [(1, 9), (2, 5), (3, 3)])
def test_a_conv_block_divides_the_side_by_its_stride_and_rounds_up(stride, side):
    out = conv_block(keras.Input((9, 9, 3)), 8, stride=stride, name="b")
    assert out.shape == (None, side, side, 8)


# Arguments


@pytest.mark.parametrize(
    ("stem", "smallest", "stage1_side"),
    [("imagenet", 32, 8), ("small", 8, 8), ("small_stride2", 8, 4)],
)
def test_each_stem_takes_its_smallest_image_and_keeps_its_part_of_it(stem, smallest, stage1_side):
    model = build_resnet18(input_shape=(smallest, smallest, 3), stem=stem, include_top=False)
    assert model.get_layer("stage1_block1_conv1").input.shape == (None, *[stage1_side] * 2, 64)
    assert model(random_pixels(1, smallest, smallest, 3)).shape == (1, 1, 1, 512)
    with pytest.raises(ValueError, match=f"at least {smallest} pixels a side"):
        build_resnet18(input_shape=(smallest, smallest - 1, 3), stem=stem)


def test_pooled_features_are_the_mean_the_maximum_or_the_map_of_the_last_stage():
    arguments = SMALL | {"input_shape": (None, None, 3), "include_top": False}
    whole = build_resnet18(**arguments)
    pixels = random_pixels(2, 48, 64, 3)
    features = keras.ops.convert_to_numpy(whole(pixels))
    assert features.shape == (2, 3, 4, 512)
    for pooling, expected in (
        ("avg", features.mean((1, 2))),
        ("max", features.max((1, 2))),
        ((3, 2), (features[:, :, ::2] + features[:, :, 1::2]) / 2),
    ):
        model = build_resnet18(**arguments, pooling=pooling)
        model.set_weights(whole.get_weights())
        np.testing.assert_allclose(model(pixels), expected, atol=1e-5, err_msg=str(pooling))


@pytest.mark.parametrize("channels", [1, 4])
def test_other_numbers_of_channels_are_normalized_as_preprocess_input_does(channels):
    arguments = SMALL | {"input_shape": (None, None, channels), "include_top": False}
    model, bare = (build_resnet18(**arguments, include_preprocessing=x) for x in (True, False))
    pixels = random_pixels(1, 32, 32, channels)
    normalized = model.get_layer("normalization")(pixels)
    np.testing.assert_allclose(normalized, preprocess_input(pixels), rtol=1e-6)
    assert bare.get_layer("stem_conv").kernel.shape == (3, 3, channels, 64)
    assert "normalization" not in names_of(bare)


def test_dropout_stands_before_the_dense_layer():
    model = build_resnet18(**SMALL, classes=2, dropout=0.25)
    (dropout,) = layers_of(model, layers.Dropout)
    assert dropout.rate == 0.25
    assert names_of(model)[-3:] == ["head_pool", "head_dropout", "predictions"]


def test_an_input_tensor_of_the_users_is_where_the_network_begins():
    image = keras.Input((40, 40, 3), name="photo")
    flipped = keras.ops.flip(image, axis=2)
    model = build_resnet18(input_tensor=flipped, classes=2, stem="small_stride2")
    assert [x.name for x in model.inputs] == ["photo"]
    assert model.output_shape == (None, 2)
    pixels = random_pixels(2, 40, 40, 3)
    unflipped = keras.Model(flipped, model.output)
    np.testing.assert_allclose(model(pixels), unflipped(pixels[:, :, ::-1]), atol=1e-6)


def test_weights_that_were_saved_are_the_weights_that_are_built_with(tmp_path):
    first = build_resnet18(**SMALL, classes=3)
    first.save_weights(tmp_path / "first.weights.h5")
    second = build_resnet18(**SMALL, classes=3, weights=tmp_path / "first.weights.h5")
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


BAD = [
    ({"classes": 0}, "positive whole number", "classes=0"),
    ({"input_shape": (None, 20, 3)}, "at least 32 pixels", "(None, 20, 3)"),
    ({"input_shape": (224, 224)}, "(height, width, channels)", "(224, 224)"),
    ({"input_shape": (224, 224, 0)}, "(height, width, channels)", "(224, 224, 0)"),
    ({"stem": "cifar"}, "imagenet, small, small_stride2", "stem='cifar'"),
    ({"variant": "b"}, "variant must be one of d", "variant='b'"),
    ({"variant": "d", "stem": "small"}, "imagenet for variant d", "stem='small'"),
    ({"pooling": "avg"}, "include_top=False", "pooling='avg'"),
    ({"pooling": "mean", "include_top": False}, "'avg', 'max' or an output size", "'mean'"),
    ({"classifier_activation": None, "include_top": False}, "include_top=True", "activation=None"),
    ({"dropout": 0.5, "include_top": False}, "include_top=True", "dropout=0.5"),
    ({"classifier_activation": "sofmax"}, "'softmax', None (logits)", "'sofmax'"),
    ({"dropout": 1}, "from 0 up to below 1", "dropout=1"),
    ({"weights": "imagnet"}, "did you mean imagenet?", "weights='imagnet'"),
    ({"weights": "missing.weights.h5"}, "existing file", "weights='missing.weights.h5'"),
    ({"input_tensor": np.zeros((1, 64, 64, 3))}, "keras.Input()", "input_tensor=ndarray"),
]


@pytest.mark.parametrize(("arguments", "allowed", "received"), BAD)
def test_a_bad_argument_is_named_with_what_is_allowed(arguments, allowed, received):
    with pytest.raises(ValueError) as error:
        build_resnet18(**arguments)
    expected, _, got = str(error.value).partition("Received: ")
    assert allowed in expected and received in got
    assert "\n" not in str(error.value)


def test_channels_first_is_refused_with_the_line_that_changes_it():
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match=r"set_image_data_format\('channels_last'\)"):
            build_resnet18(input_shape=(3, 224, 224))
    finally:
        keras.config.set_image_data_format(before)


# Precision


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_keeps_weights_statistics_and_ends_in_float32(set_dtype_policy, policy):
    set_dtype_policy(policy)
    model = build_resnet18(**SMALL, classes=4)
    assert {layer.compute_dtype for layer in layers_of(model, layers.Conv2D)} == {policy[6:]}
    assert {v.dtype for v in model.variables if "seed" not in v.path} == {"float32"}
    for name in ("normalization", "head_pool", "predictions"):
        assert model.get_layer(name).compute_dtype == "float32"
    probabilities = model(random_pixels(2, 32, 32, 3))
    np.testing.assert_allclose(keras.ops.sum(probabilities, axis=1), 1, atol=1e-6)


def test_pooled_features_are_float32_under_mixed_precision(set_dtype_policy):
    set_dtype_policy("mixed_float16")
    for pooling in ("avg", "max", 3):
        model = build_resnet18(**SMALL, include_top=False, pooling=pooling)
        assert model.output.dtype == "float32"
