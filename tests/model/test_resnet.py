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
LAYER_NAMES = Path(__file__).with_name("layer_names.txt")
LAYER_NAMES_D = LAYER_NAMES.with_name("layer_names_d.txt")


def counts(model):
    return (
        sum(int(np.prod(v.shape)) for v in model.trainable_variables),
        sum(int(np.prod(v.shape)) for v in model.non_trainable_variables),
    )


def producers(tensor):
    """The layers whose outputs go into the layer that made `tensor`."""
    layer = tensor._keras_history.operation
    inputs = layer.input if isinstance(layer.input, list) else [layer.input]
    return [x._keras_history.operation for x in inputs]


def layers_of(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


def random_pixels(*shape):
    return np.random.RandomState(0).randint(0, 256, shape).astype("float32")


# The paper's network


def test_resnet18_has_the_known_number_of_parameters(resnet18, golden):
    assert counts(resnet18) == (11_689_512, 9_600)
    assert counts(resnet18) == (golden["count/trainable"][0], golden["count/statistics"][0])


def test_resnet34_has_the_known_number_of_parameters(golden):
    model = build_resnet34()
    assert counts(model) == (21_797_672, 17_024)
    assert counts(model) == (golden["count/trainable"][1], golden["count/statistics"][1])


def test_an_image_of_224_is_halved_to_112_56_56_28_14_7_1(resnet18):
    names = ["stem_conv", "stem_pool", *(f"stage{i}_block2_out" for i in range(1, 5))]
    shapes = [resnet18.get_layer(name).output.shape[1:] for name in names]
    assert shapes == [
        (112, 112, 64),
        (56, 56, 64),
        (56, 56, 64),
        (28, 28, 128),
        (14, 14, 256),
        (7, 7, 512),
    ]
    assert resnet18.get_layer("head_pool").output.shape == (None, 512)
    assert resnet18.output_shape == (None, 1000)


def test_exactly_three_blocks_project_their_shortcut(resnet18):
    one_by_one = [c.name for c in layers_of(resnet18, layers.Conv2D) if c.kernel_size == (1, 1)]
    assert one_by_one == [f"stage{i}_block1_shortcut_conv" for i in (2, 3, 4)]


def test_layer_names_are_those_that_users_rely_on(resnet18):
    names = [layer.name for layer in resnet18.layers]
    assert names == LAYER_NAMES.read_text().splitlines()


def test_layer_names_of_resnet_d_are_those_that_users_rely_on(resnet18d):
    names = [layer.name for layer in resnet18d.layers]
    assert names == LAYER_NAMES_D.read_text().splitlines()


def test_the_sum_comes_before_the_last_relu_of_every_block(resnet18):
    for stage in range(1, 5):
        for block in (1, 2):
            name = f"stage{stage}_block{block}"
            out = resnet18.get_layer(f"{name}_out")
            assert isinstance(out, layers.ReLU)
            (add,) = producers(out.output)
            assert isinstance(add, layers.Add) and add.name == f"{name}_add"
            shortcut, residual = producers(add.output)
            assert residual.name == f"{name}_bn2"
            projected = stage > 1 and block == 1
            assert isinstance(shortcut, layers.BatchNormalization) == projected
            assert projected == (shortcut.name == f"{name}_shortcut_bn")


def test_convolutions_and_batch_norms_have_the_papers_settings(resnet18):
    for convolution in layers_of(resnet18, layers.Conv2D):
        assert not convolution.use_bias
        assert convolution.strides == (1, 1) or convolution.padding == "valid"
    for batch_norm in layers_of(resnet18, layers.BatchNormalization):
        assert (batch_norm.momentum, batch_norm.epsilon) == (0.9, 1e-5)


def test_convolutions_start_at_the_variance_of_he_by_fan_out(resnet18):
    kernel = keras.ops.convert_to_numpy(resnet18.get_layer("stage3_block1_conv1").kernel)
    height, width, _, outputs = kernel.shape
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (height * width * outputs)), rtol=0.01)
    assert kernel.max() > 4 * kernel.std()  # not truncated


def test_the_dense_layer_starts_uniform_within_one_over_root_fan_in(resnet18):
    kernel = keras.ops.convert_to_numpy(resnet18.get_layer("predictions").kernel)
    assert 0.99 / np.sqrt(512) < abs(kernel).max() <= 1 / np.sqrt(512)


def test_plain_twins_have_the_same_convolutions_and_no_shortcut(resnet18):
    plain = build_plain18()
    assert not layers_of(plain, layers.Add)
    shortcuts = [layer for layer in resnet18.layers if "_shortcut_" in layer.name]
    projections = sum(layer.count_params() for layer in shortcuts)
    assert projections > 0
    assert plain.count_params() == resnet18.count_params() - projections
    names = [layer.name for layer in resnet18.layers if not layer.name.endswith("_add")]
    assert [layer.name for layer in plain.layers] == [n for n in names if "_shortcut_" not in n]


def test_a_plain_34_is_as_deep_as_a_resnet34_and_has_no_shortcut():
    plain = build_plain34(input_shape=(8, 8, 3), stem="small_stride2", classes=2)
    assert (len(layers_of(plain, layers.Conv2D)), layers_of(plain, layers.Add)) == (33, [])
    assert plain.name == "plain34" and not plain.compiled


# ResNet-D


def test_resnet_d_has_the_known_number_of_parameters(resnet18d):
    assert counts(resnet18d) == (11_708_744, 9_728)


def test_a_d_shortcut_averages_before_it_projects(resnet18d):
    for stage in (2, 3, 4):
        name = f"stage{stage}_block1"
        pool = resnet18d.get_layer(f"{name}_shortcut_pool")
        projection = resnet18d.get_layer(f"{name}_shortcut_conv")
        assert producers(projection.output) == [pool] and projection.strides == (1, 1)
        assert (pool.pool_size, pool.strides) == ((2, 2), (2, 2))


def test_a_plain_network_of_variant_d_has_the_deep_stem_and_no_shortcut(resnet18d):
    plain = build_plain18(variant="d")
    names = [layer.name for layer in resnet18d.layers if not layer.name.endswith("_add")]
    assert [layer.name for layer in plain.layers] == [n for n in names if "_shortcut_" not in n]


# Maps that stay large


@pytest.fixture(scope="module", params=[None, "d"])
def features(request):
    """Features of odd-sized images, with BatchNorms that are no identities."""
    kwargs = {
        "variant": request.param,
        "input_shape": (None, None, 3),
        "include_top": False,
        "include_preprocessing": False,
    }
    model = build_resnet18(**kwargs)
    random = np.random.RandomState(0)
    for layer in layers_of(model, layers.BatchNormalization):
        for variable in layer.weights:
            variable.assign(random.uniform(0.5, 1.0, variable.shape))
    image = random.normal(size=(1, 67, 54, 3)).astype("float32")
    return kwargs, model, image, keras.ops.convert_to_numpy(model(image))


@pytest.mark.parametrize("output_stride", [16, 8])
def test_a_larger_map_has_the_values_of_the_small_one_and_some_between(features, output_stride):
    kwargs, model, image, small = features
    dense = build_resnet18(**kwargs, output_stride=output_stride)
    dense.set_weights(model.get_weights())
    large = keras.ops.convert_to_numpy(dense(image))
    # the image's 67×54, divided and rounded up
    assert small.shape == (1, 3, 2, 512)
    assert large.shape == (1, *{16: (5, 4), 8: (9, 7)}[output_stride], 512)
    every = 32 // output_stride
    error = np.abs(large[:, ::every, ::every] - small).max()
    assert error <= 1e-5 * np.abs(small).max()


@pytest.mark.parametrize(
    ("stem", "output_stride", "side"),
    [("imagenet", 16, 4), ("small", 8, 8), ("small", 32, 8), ("small_stride2", 8, 8)],
)
def test_an_output_stride_is_the_most_that_a_stem_is_brought_to(stem, output_stride, side):
    model = build_plain18(
        input_shape=(64, 64, 3), stem=stem, output_stride=output_stride, include_top=False
    )
    assert model.output_shape == (None, side, side, 512)


def test_every_layer_of_a_network_with_holes_is_keras_own():
    model = build_resnet18(input_shape=(64, 64, 3), variant="d", output_stride=8, classes=2)
    assert model.output_shape == (None, 2)
    assert {type(layer).__module__.partition(".")[0] for layer in model.layers} == {"keras"}


def test_a_block_of_ones_own_has_a_stride_or_a_dilation():
    x = keras.Input((9, 9, 3))
    out = conv_block(x, 8, stride=1, dilations=(2, 4), pool=True, name="b")
    assert out.shape == (None, 9, 9, 8)
    with pytest.raises(ValueError, match=r"or a dilation.*stride=2, dilations=\(2, 2\)"):
        conv_block(x, 8, dilations=(2, 2), name="b")


@pytest.mark.parametrize("build", ALL_BUILDERS, ids=lambda build: build.__name__)
def test_every_builder_has_the_arguments_that_help_documents(build):
    described = inspect.getdoc(build_resnet18)
    assert build is build_resnet18 or "`build_resnet18`" in inspect.getdoc(build)
    assert inspect.signature(build) == inspect.signature(build_resnet18)
    for argument in inspect.signature(build).parameters:
        assert f"{argument}:" in described


# Blocks for networks of one's own


def test_an_identity_block_keeps_the_shape_and_adds_no_projection():
    image = keras.Input((9, 9, 4))
    block = keras.Model(image, identity_block(image, 4, name="b"))
    assert block.output_shape == (None, 9, 9, 4)
    assert [layer.name for layer in layers_of(block, layers.Conv2D)] == ["b_conv1", "b_conv2"]


def test_an_identity_block_whose_convolutions_are_zero_is_a_relu():
    image = keras.Input((5, 5, 4))
    block = keras.Model(image, identity_block(image, 4, name="b"))
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


def test_three_by_three_features_come_from_images_of_any_size():
    model = build_resnet18(
        input_shape=(None, None, 3), include_top=False, pooling=(3, 3), stem="small_stride2"
    )
    assert model.output_shape == (None, 3, 3, 512)
    for height, width in ((40, 64), (96, 33)):
        assert model(random_pixels(1, height, width, 3)).shape == (1, 3, 3, 512)


def test_pooled_features_are_the_mean_the_maximum_or_the_map_of_the_last_stage():
    kwargs = {"input_shape": (48, 64, 3), "stem": "small_stride2", "include_top": False}
    whole = build_resnet18(**kwargs)
    pixels = random_pixels(2, 48, 64, 3)
    features = keras.ops.convert_to_numpy(whole(pixels))
    assert features.shape == (2, 3, 4, 512)
    for pooling, expected in (
        ("avg", features.mean((1, 2))),
        ("max", features.max((1, 2))),
        ((3, 2), (features[:, :, ::2] + features[:, :, 1::2]) / 2),
    ):
        model = build_resnet18(**kwargs, pooling=pooling)
        model.set_weights(whole.get_weights())
        np.testing.assert_allclose(model(pixels), expected, atol=1e-5, err_msg=str(pooling))


@pytest.mark.parametrize("channels", [1, 4])
def test_other_numbers_of_channels_work_without_the_preprocessing(channels):
    model = build_resnet18(
        input_shape=(32, 32, channels), include_preprocessing=False, classes=2, stem="small_stride2"
    )
    assert model.get_layer("stem_conv").kernel.shape == (3, 3, channels, 64)
    assert "normalization" not in [layer.name for layer in model.layers]


@pytest.mark.parametrize("channels", [1, 4])
def test_other_numbers_of_channels_are_normalised_as_preprocess_input_does(channels):
    model = build_resnet18(include_top=False, input_shape=(None, None, channels))
    pixels = random_pixels(1, 32, 32, channels)
    normalized = model.get_layer("normalization")(pixels)
    np.testing.assert_allclose(normalized, preprocess_input(pixels), rtol=1e-6)
    assert model.output_shape == (None, None, None, 512)


def test_dropout_stands_before_the_dense_layer_only_if_asked_for(resnet18):
    model = build_resnet18(input_shape=(32, 32, 3), classes=2, dropout=0.25)
    (dropout,) = layers_of(model, layers.Dropout)
    assert dropout.rate == 0.25
    assert producers(model.get_layer("predictions").output) == [dropout]
    assert not layers_of(resnet18, layers.Dropout)


def test_probabilities_sum_to_one_and_are_the_softmax_of_the_logits():
    kwargs = {"input_shape": (32, 32, 3), "classes": 7, "stem": "small_stride2"}
    logits = build_resnet18(**kwargs, classifier_activation=None)
    probabilities = build_resnet18(**kwargs)
    probabilities.set_weights(logits.get_weights())
    pixels = random_pixels(3, 32, 32, 3)
    got = keras.ops.convert_to_numpy(probabilities(pixels))
    np.testing.assert_allclose(got.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(got, keras.ops.softmax(logits(pixels)), atol=1e-6)


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
    kwargs = {"input_shape": (32, 32, 3), "classes": 3}
    first = build_resnet18(**kwargs)
    first.save_weights(tmp_path / "first.weights.h5")
    second = build_resnet18(**kwargs, weights=tmp_path / "first.weights.h5")
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


BAD = [
    ({"classes": 0}, "positive whole number", "classes=0"),
    ({"classes": 2.5}, "positive whole number", "classes=2.5"),
    ({"classes": True}, "positive whole number", "classes=True"),
    ({"input_shape": (20, 20, 3)}, "at least 32 pixels", "(20, 20, 3)"),
    ({"input_shape": (7, 7, 3), "stem": "small"}, "at least 8 pixels", "(7, 7, 3)"),
    ({"input_shape": (None, 20, 3)}, "at least 32 pixels", "(None, 20, 3)"),
    ({"input_shape": (224, 224)}, "(height, width, channels)", "(224, 224)"),
    ({"input_shape": (224, 224, None)}, "(height, width, channels)", "(224, 224, None)"),
    ({"input_shape": (224, 224, 0)}, "(height, width, channels)", "(224, 224, 0)"),
    (
        {"input_shape": (224, 224, -3), "include_preprocessing": False},
        "(height, width, channels)",
        "(224, 224, -3)",
    ),
    ({"input_shape": (224.0, 224, 3)}, "(height, width, channels)", "(224.0, 224, 3)"),
    ({"input_shape": 224}, "(height, width, channels)", "input_shape=224"),
    ({"stem": "cifar"}, "imagenet, small, small_stride2", "stem='cifar'"),
    ({"stem": ["small"]}, "imagenet, small, small_stride2", "stem=['small']"),
    ({"variant": "b"}, "None (the paper's network) or 'd'", "variant='b'"),
    ({"variant": ["d"]}, "None (the paper's network) or 'd'", "variant=['d']"),
    ({"variant": "d", "stem": "small"}, "leave stem at 'imagenet'", "stem='small', variant='d'"),
    ({"output_stride": 4}, "8, 16 or 32", "output_stride=4"),
    ({"output_stride": 16.0}, "8, 16 or 32", "output_stride=16.0"),
    ({"output_stride": "8"}, "8, 16 or 32", "output_stride='8'"),
    ({"pooling": "avg"}, "include_top=False", "pooling='avg'"),
    ({"pooling": "mean", "include_top": False}, "'avg', 'max' or an output size", "'mean'"),
    ({"pooling": (3, 0), "include_top": False}, "'avg', 'max' or an output size", "(3, 0)"),
    ({"classifier_activation": None, "include_top": False}, "include_top=True", "activation=None"),
    ({"classes": 10, "include_top": False}, "include_top=True", "classes=10"),
    ({"dropout": 0.5, "include_top": False}, "include_top=True", "dropout=0.5"),
    ({"classifier_activation": "sofmax"}, "'softmax', None (logits)", "'sofmax'"),
    ({"dropout": 1}, "from 0 up to below 1", "dropout=1"),
    ({"dropout": -0.1}, "from 0 up to below 1", "dropout=-0.1"),
    ({"dropout": "half"}, "from 0 up to below 1", "dropout='half'"),
    ({"weights": "imagnet"}, "did you mean imagenet?", "weights='imagnet'"),
    ({"weights": "missing.weights.h5"}, "existing", "weights='missing.weights.h5'"),
    ({"weights": 5}, ".weights.h5", "weights=5"),
    ({"input_tensor": np.zeros((1, 64, 64, 3))}, "keras.Input()", "input_tensor=ndarray"),
]


@pytest.mark.parametrize(
    ("arguments", "allowed", "received"), BAD, ids=[f"{b[2]} {','.join(b[0])}" for b in BAD]
)
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
    model = build_resnet18(input_shape=(32, 32, 3), classes=4, stem="small_stride2")
    assert {layer.compute_dtype for layer in layers_of(model, layers.Conv2D)} == {policy[6:]}
    assert {v.dtype for v in model.variables if "seed" not in v.path} == {"float32"}
    for name in ("normalization", "head_pool", "predictions"):
        assert model.get_layer(name).compute_dtype == "float32"
    probabilities = model(random_pixels(2, 32, 32, 3), training=True)  # statistics move
    assert keras.backend.standardize_dtype(probabilities.dtype) == "float32"
    np.testing.assert_allclose(keras.ops.sum(probabilities, axis=1), 1, atol=1e-6)
    batch_norm = model.get_layer("stage4_block2_bn2")
    assert keras.backend.standardize_dtype(batch_norm.moving_variance.value.dtype) == "float32"
    assert np.isfinite(batch_norm.moving_mean).all() and np.any(batch_norm.moving_mean)


@pytest.mark.parametrize("pooling", ["avg", "max", 3])
def test_pooled_features_are_float32_under_mixed_precision(set_dtype_policy, pooling):
    set_dtype_policy("mixed_float16")
    model = build_resnet18(input_shape=(32, 32, 3), include_top=False, pooling=pooling)
    assert model.output.dtype == "float32"
