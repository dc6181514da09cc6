"""Checkpoints go into a model and out of it: all of them, or nothing.

Nothing here depends on the Keras backend.
"""

from __future__ import annotations

import keras
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from golden import numpy_weights as inputs
from golden.keras_weights import torch_weights
from weights.checkpoints import in_layout, same, values, with_counters

from keras_resnet18 import build_plain18, build_resnet18, build_resnet34
from keras_resnet18.errors import InputError
from keras_resnet18.weights.transfer import Transfer, load_weights, save_weights

BUILDERS = {18: build_resnet18, 34: build_resnet34}
LAYOUTS = ("torchvision", "timm", "transformers")


def build(builder=build_resnet18, **arguments):
    """A network for normalised images of any size, without a softmax."""
    return builder(**{"input_shape": (None, None, 3), "include_preprocessing": False} | arguments)


def logits_net(depth=18):
    return build(BUILDERS[depth], classes=inputs.CLASSES, classifier_activation=None)


@pytest.fixture(scope="module")
def resnet18():
    return logits_net()


# Full-size networks


@pytest.mark.parametrize(("depth", "layout"), [(18, "torchvision"), (34, "transformers")])
def test_a_checkpoint_gives_the_logits_that_it_gives_in_torch(depth, layout, checkpoint, golden):
    arrays = inputs.numpy_weights(inputs.resnet_shapes(depth, 10), inputs.WEIGHT_SEED)
    path = checkpoint(with_counters(in_layout(arrays, layout)))
    model = logits_net(depth)
    assert load_weights(model, path) == Transfer(layout, len(arrays))
    images = inputs.numpy_images(inputs.IMAGE_SHAPE, inputs.IMAGE_SEED)
    logits = keras.ops.convert_to_numpy(model(images, training=False))
    expected = golden[f"logits/{depth}"]
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_saved_has_the_layouts_tensors_bit_for_bit(
    layout, resnet18, arrays, checkpoint, tmp_path
):
    load_weights(resnet18, checkpoint(arrays))
    report = save_weights(resnet18, tmp_path / "new" / "saved.safetensors", layout)
    assert report == Transfer(layout, 122)
    saved = safetensors.numpy.load_file(tmp_path / "new" / "saved.safetensors")
    expected = with_counters(in_layout(arrays, layout))
    assert saved.keys() == expected.keys()
    for name, array in saved.items():
        if name.endswith("num_batches_tracked"):
            assert array.dtype == np.int64 and array.shape == () and array == 0
        else:
            assert array.dtype == np.float32 and np.array_equal(array, expected[name]), name


def test_every_tensor_of_a_checkpoint_reaches_its_variable(resnet18, arrays, checkpoint):
    load_weights(resnet18, checkpoint(in_layout(arrays, "transformers")))
    for name, array in torch_weights(resnet18, arrays).items():
        assert np.array_equal(array, arrays[name]), name


def test_a_deeper_checkpoint_is_refused(resnet18, checkpoint):
    arrays = inputs.numpy_weights(inputs.resnet_shapes(34, 10), 1)
    with pytest.raises(InputError, match=r"depth.*80 unexpected \(layer1\.2\.bn1\."):
        load_weights(resnet18, checkpoint(arrays))


def test_a_plain_network_refuses_shortcuts(arrays, checkpoint):
    model = build(build_plain18, classes=10)
    with pytest.raises(InputError, match=r"15 unexpected \(layer2\.0\.downsample\.0\.weight"):
        load_weights(model, checkpoint(arrays))


def test_features_leave_the_checkpoints_classifier_out(arrays, checkpoint, tmp_path):
    model = build(include_top=False)
    report = load_weights(model, checkpoint(arrays))
    assert report == Transfer("torchvision", 100, left_out=("fc.bias", "fc.weight"))
    # and their own checkpoint, which has none, loads again, though all its names begin alike
    save_weights(model, tmp_path / "features.safetensors", "transformers")
    assert load_weights(model, tmp_path / "features.safetensors").tensors == 100


def test_a_network_that_ends_early_takes_the_checkpoints_beginning(arrays, checkpoint):
    whole = build(classes=10)
    model = keras.Model(whole.input, whole.get_layer("stage2_block1_out").output)
    report = load_weights(model, checkpoint(arrays))
    assert report.left_out[0] == "layer2.1.conv1.weight"
    assert report.tensors + len(report.left_out) == len(arrays)
    assert np.array_equal(
        torch_weights(whole, ["layer2.0.downsample.0.weight"])["layer2.0.downsample.0.weight"],
        arrays["layer2.0.downsample.0.weight"],
    )


def test_a_checkpoint_of_another_block_is_refused_with_the_first_differing_names(
    resnet18, checkpoint
):
    bottleneck = inputs.resnet_shapes(18, 10)
    bottleneck["layer1.0.conv1.weight"] = (64, 64, 1, 1)
    bottleneck["layer1.0.conv3.weight"] = (256, 64, 1, 1)
    before = values(resnet18)
    with pytest.raises(InputError) as error:
        load_weights(resnet18, checkpoint({n: np.ones(s, "f") for n, s in bottleneck.items()}))
    assert "1 unexpected (layer1.0.conv3.weight)" in str(error.value)
    assert "layer1.0.conv1.weight (64, 64, 1, 1) for (64, 64, 3, 3)" in str(error.value)
    assert same(values(resnet18), before)


# ResNet-D, which only timm has


@pytest.fixture(scope="module")
def resnet18d():
    return build(variant="d", classes=10)


@pytest.fixture(scope="module")
def arrays_d():
    return inputs.numpy_weights(inputs.resnet_shapes(18, 10, deep=True), inputs.WEIGHT_SEED)


def test_a_d_checkpoint_comes_back_bit_for_bit(resnet18d, arrays_d, checkpoint, tmp_path):
    assert load_weights(resnet18d, checkpoint(arrays_d)) == Transfer("timm", len(arrays_d))
    for name, array in torch_weights(resnet18d, arrays_d).items():
        assert np.array_equal(array, arrays_d[name]), name
    report = save_weights(resnet18d, tmp_path / "saved.safetensors", "timm")
    assert report == Transfer("timm", 134)
    saved = safetensors.numpy.load_file(tmp_path / "saved.safetensors")
    assert saved.keys() == with_counters(arrays_d).keys()
    assert all(np.array_equal(saved[name], array) for name, array in arrays_d.items())


def test_a_d_checkpoint_and_the_papers_network_refuse_each_other(
    resnet18, resnet18d, arrays, arrays_d, checkpoint
):
    before = values(resnet18), values(resnet18d)
    with pytest.raises(InputError) as error:
        load_weights(resnet18, checkpoint(arrays_d))
    assert "depth, stem and variant" in str(error.value)
    assert "missing (conv1.weight, layer2.0.downsample." in str(error.value)
    assert "unexpected (conv1.0.weight, conv1.1." in str(error.value)
    for layout in ("torchvision", "transformers"):
        with pytest.raises(InputError, match=r"missing \(conv1\.0\.weight, conv1\.1\.weight"):
            load_weights(resnet18d, checkpoint(in_layout(arrays, layout)))
    assert same(values(resnet18), before[0]) and same(values(resnet18d), before[1])


@pytest.mark.parametrize("layout", ["torchvision", "transformers"])
def test_a_library_without_resnet_d_is_no_layout_for_it(resnet18d, tmp_path, layout):
    with pytest.raises(InputError, match=rf"save with layout='timm'.*layout='{layout}'"):
        save_weights(resnet18d, tmp_path / "new.safetensors", layout)
    assert not any(tmp_path.iterdir())


def test_a_d_network_without_stem_and_head_takes_what_lies_between(arrays_d, checkpoint):
    whole = build(variant="d", include_top=False, input_shape=(64, 64, 3))
    after_stage1 = whole.get_layer("stage1_block2_out").output
    model = keras.Model(after_stage1, whole.get_layer("stage2_block1_out").output)
    report = load_weights(model, checkpoint(arrays_d))
    assert (report.layout, report.tensors) == ("timm", 15)
    assert report.left_out[0] == "conv1.0.weight"
    name = "layer2.0.downsample.1.weight"
    assert np.array_equal(torch_weights(whole, [name])[name], arrays_d[name])


@pytest.mark.parametrize("channels", [1, 4])
def test_a_deep_stem_adapts_to_other_channels(arrays_d, checkpoint, channels):
    model = build(variant="d", input_shape=(None, None, channels), include_top=False)
    load_weights(model, checkpoint(arrays_d))
    kernel = torch_weights(model, ["conv1.0.weight"])["conv1.0.weight"]
    rgb = arrays_d["conv1.0.weight"]
    for channel in range(channels):
        expected = rgb.sum(axis=1) if channels == 1 else rgb[:, channel % 3] * (3 / channels)
        np.testing.assert_allclose(kernel[:, channel], expected, rtol=1e-6, atol=1e-7)


# Where the network's size does not matter


def test_all_faults_are_one_error_and_nothing_is_loaded(small_model, small_arrays, checkpoint):
    model, arrays = small_model(), small_arrays()
    before = values(model)
    for name in ("bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"):
        del arrays[name]
    arrays["layer1.0.conv2.weight"] = arrays["layer1.0.conv2.weight"][:32]
    arrays["layer1.0.aux.weight"] = np.zeros(3, "f")
    path = checkpoint(arrays)
    with pytest.raises(InputError) as error:
        load_weights(model, path)
    assert str(error.value) == (
        "a checkpoint must have the tensors of 'small': build the network that it was made with, "
        f"of the same depth, stem and variant. Received: {path} with "
        "4 missing (bn1.weight, bn1.bias, bn1.running_mean, …), "
        "1 unexpected (layer1.0.aux.weight), "
        "1 of another shape (layer1.0.conv2.weight (32, 64, 3, 3) for (64, 64, 3, 3))"
    )
    assert same(values(model), before)


def test_another_number_of_classes_is_refused_unless_the_head_is_skipped(
    small_model, small_arrays, checkpoint
):
    model, path = small_model(classes=5), checkpoint(small_arrays(classes=1000))
    before = values(model)
    with pytest.raises(InputError, match=r"head='skip'.*2 of another shape .*1000"):
        load_weights(model, path)
    assert same(values(model), before)

    report = load_weights(model, path, head="skip")
    assert report == Transfer("torchvision", 15, ("fc.bias", "fc.weight"), ("predictions",))
    assert str(report) == (
        "15 tensors in torchvision's layout; 2 left out (fc.bias, fc.weight); "
        "predictions kept as it was"
    )
    assert same(values(model)[-2:], before[-2:])
    assert not same(values(model)[:1], before[:1])


def test_a_checkpoint_without_a_classifier_needs_the_head_skipped(
    small_model, small_arrays, checkpoint
):
    arrays = small_arrays()
    del arrays["fc.weight"], arrays["fc.bias"]
    model, path = small_model(), checkpoint(arrays)
    with pytest.raises(InputError, match=r"head='skip'.*2 missing \(fc\.weight, fc\.bias\)"):
        load_weights(model, path)
    assert load_weights(model, path, head="skip").kept == ("predictions",)


def test_a_head_that_fits_is_not_skipped(small_model, small_arrays, checkpoint):
    report = load_weights(small_model(), checkpoint(small_arrays()), head="skip")
    assert report == Transfer("torchvision", 17)


@pytest.mark.parametrize("head", ["ignore", None, True])
def test_head_is_strict_or_skip(small_model, head):
    with pytest.raises(InputError, match=r"strict.*skip.*Received: head="):
        load_weights(small_model(), "any.safetensors", head=head)


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_the_stem_adapts_to_other_channels(small_model, small_arrays, checkpoint, channels):
    arrays = small_arrays()
    model = small_model(channels=channels)
    load_weights(model, checkpoint(arrays))
    kernel = torch_weights(model, ["conv1.weight"])["conv1.weight"]
    rgb = arrays["conv1.weight"]
    for channel in range(channels):
        expected = rgb.sum(axis=1) if channels == 1 else rgb[:, channel % 3] * (3 / channels)
        np.testing.assert_allclose(kernel[:, channel], expected, rtol=1e-6, atol=1e-7)


def test_a_grey_image_gives_one_channel_the_answers_of_three(small_model, small_arrays, checkpoint):
    path = checkpoint(small_arrays())
    colour, grey = small_model(), small_model(channels=1)
    load_weights(colour, path)
    load_weights(grey, path)
    image = inputs.numpy_images((1, 32, 32, 1), 3)
    expected = keras.ops.convert_to_numpy(colour(image.repeat(3, axis=-1), training=False))
    got = keras.ops.convert_to_numpy(grey(image, training=False))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_four_channels_do_not_become_three(small_model, small_arrays, checkpoint):
    with pytest.raises(InputError, match=r"conv1\.weight \(64, 4, 7, 7\) for \(64, 3, 7, 7\)"):
        load_weights(small_model(), checkpoint(small_arrays(channels=4)))


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model.", "_orig_mod."])
@pytest.mark.parametrize("layout", ["torchvision", "transformers"])
def test_a_prefix_of_all_names_is_understood(small_model, small_arrays, checkpoint, prefix, layout):
    arrays = in_layout(small_arrays(), layout)
    path = checkpoint({prefix + name: array for name, array in arrays.items()})
    assert load_weights(small_model(), path) == Transfer(layout, 17)


def test_a_transformers_model_without_a_head_is_understood(small_model, small_arrays, checkpoint):
    # ResNetModel.save_pretrained leaves off what ResNetForImageClassification puts before
    named = in_layout(small_arrays(), "transformers")
    body = {n.removeprefix("resnet."): a for n, a in named.items() if n.startswith("resnet.")}
    report = load_weights(small_model(), checkpoint(body), head="skip")
    assert report == Transfer("transformers", 15, kept=("predictions",))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_precisions_are_converted(small_model, small_arrays, checkpoint, dtype):
    arrays = {name: array.astype(dtype) for name, array in small_arrays().items()}
    model = small_model()
    load_weights(model, checkpoint(arrays))
    for name, array in torch_weights(model, arrays).items():
        assert array.dtype == np.float32
        assert np.array_equal(array, arrays[name].astype(np.float32)), name


def test_a_half_precision_network_is_saved_in_float32_bit_for_bit(
    small_model, small_arrays, checkpoint, tmp_path, set_dtype_policy
):
    set_dtype_policy("bfloat16")
    model, arrays = small_model(), small_arrays()
    load_weights(model, checkpoint(arrays))
    before = values(model)
    save_weights(model, tmp_path / "half.safetensors")
    saved = safetensors.numpy.load_file(tmp_path / "half.safetensors")
    assert all(saved[name].dtype == np.float32 for name in arrays)
    load_weights(model, tmp_path / "half.safetensors")
    assert same(values(model), before)


def test_layers_are_found_in_models_within_the_model(small_model, small_arrays, checkpoint):
    inner, arrays = small_model(), small_arrays()
    outer = keras.Sequential([keras.layers.Rescaling(2.0), inner, keras.layers.Dense(3)])
    outer.build((None, 32, 32, 3))
    load_weights(outer, checkpoint(arrays))
    assert np.array_equal(torch_weights(inner, ["fc.weight"])["fc.weight"], arrays["fc.weight"])


def test_a_layer_without_weights_is_no_head(small_model, small_arrays, checkpoint):
    softmax = keras.layers.Softmax(name="predictions")
    outer = keras.Sequential([keras.Input((32, 32, 3)), small_model(), softmax])
    assert load_weights(outer, checkpoint(small_arrays())).tensors == 17


def test_saving_says_what_has_no_place(small_model, tmp_path):
    layers = [small_model(), keras.layers.Dense(3, name="mine")]
    model = keras.Sequential(layers, name="outer")
    model.build((None, 32, 32, 3))
    report = save_weights(model, tmp_path / "saved.safetensors")
    assert report == Transfer("torchvision", 20, left_out=("outer/mine/kernel", "outer/mine/bias"))


def test_two_networks_in_one_model_are_refused(small_model, small_arrays, checkpoint):
    image = keras.Input((32, 32, 3))
    one, two = small_model(), keras.models.clone_model(small_model())
    two.name = "other"
    pair = keras.Model(image, one(image) + two(image), name="pair")
    with pytest.raises(InputError, match=r"by itself.*'pair' with two layers 'stem_conv'"):
        load_weights(pair, checkpoint(small_arrays()))


def test_a_network_used_twice_is_one_network(small_model, small_arrays, checkpoint):
    image, net = keras.Input((32, 32, 3)), small_model()
    twins = keras.Model(image, net(image) + net(image * 2.0))
    assert load_weights(twins, checkpoint(small_arrays())).tensors == 17


def test_a_model_without_variables_is_refused(small_arrays, checkpoint):
    model = keras.Sequential([keras.layers.Conv2D(64, 7, name="stem_conv")], name="unbuilt")
    with pytest.raises(InputError, match="'unbuilt', whose layer 'stem_conv' is not built"):
        load_weights(model, checkpoint(small_arrays()))


def test_a_model_of_other_layers_is_refused(small_arrays, checkpoint, tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="other")
    with pytest.raises(InputError, match=r"layers with our names.*'other' with none"):
        load_weights(model, checkpoint(small_arrays()))
    with pytest.raises(InputError, match="'other' with none"):
        save_weights(model, tmp_path / "new.safetensors")


@pytest.mark.parametrize("layout", ["keras", "Torchvision", None])
def test_the_layout_to_save_in_is_one_of_three(small_model, tmp_path, layout):
    with pytest.raises(InputError, match=r"torchvision, timm, transformers\. Received: layout="):
        save_weights(small_model(), tmp_path / "new.safetensors", layout)
    assert not any(tmp_path.iterdir())


def test_a_checkpoint_of_another_family_is_refused_by_its_first_names(small_model, checkpoint):
    vit = ("cls_token", "pos_embed", "blocks.0.norm1.weight", "patch_embed.proj.weight")
    path = checkpoint({name: np.zeros(2, "f") for name in vit})
    with pytest.raises(InputError) as error:
        load_weights(small_model(), path)
    assert str(error.value) == (
        "a checkpoint must have torchvision's, timm's or transformers' names, such as "
        f"layer1.0.conv1.weight. Received: {path} with 4 tensors (blocks.0.norm1.weight, "
        "cls_token, patch_embed.proj.weight, …)"
    )


def test_an_empty_checkpoint_is_refused(small_model, checkpoint):
    with pytest.raises(InputError, match=r"with 0 tensors \(\)"):
        load_weights(small_model(), checkpoint({}))
