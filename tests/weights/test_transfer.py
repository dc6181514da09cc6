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

LAYOUTS = ("torchvision", "timm", "transformers")


def build(builder=build_resnet18, **arguments):
    """A network for normalized images of any size."""
    return builder(**{"input_shape": (None, None, 3), "include_preprocessing": False} | arguments)


def logits_net(builder=build_resnet18):
    return build(builder, classes=inputs.CLASSES, classifier_activation=None)


def arrays_of(depth=18, *, deep=False):
    """The golden tensors of a network, under torchvision's names."""
    shapes = inputs.resnet_shapes(depth, inputs.CLASSES, deep=deep)
    return inputs.numpy_weights(shapes, inputs.WEIGHT_SEED)


def without_head(arrays):
    return {name: array for name, array in arrays.items() if not name.startswith("fc.")}


def assert_refused(model, path, message, **arguments):
    """The checkpoint is refused in one line, and the model does not change."""
    before = values(model)
    with pytest.raises(InputError, match=message) as error:
        load_weights(model, path, **arguments)
    assert "\n" not in str(error.value)
    assert same(values(model), before)


@pytest.fixture(scope="module")
def resnet18():
    return logits_net()


@pytest.fixture(scope="module")
def resnet18d():
    return build(variant="d", classes=inputs.CLASSES)


# Full-size networks


@pytest.mark.parametrize(
    ("builder", "depth", "layout"),
    [(build_resnet18, 18, "torchvision"), (build_resnet34, 34, "transformers")],
)
def test_a_checkpoint_gives_torchs_logits(builder, depth, layout, checkpoint, golden):
    arrays, model = arrays_of(depth), logits_net(builder)
    path = checkpoint(with_counters(in_layout(arrays, layout)))
    assert load_weights(model, path) == Transfer(layout, len(arrays))
    images = inputs.numpy_images(inputs.IMAGE_SHAPE, inputs.IMAGE_SEED)
    logits = keras.ops.convert_to_numpy(model(images, training=False))
    expected = golden[f"logits/{depth}"]
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_saved_file_has_the_layouts_tensors(layout, resnet18, arrays, checkpoint, tmp_path):
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


def test_a_d_checkpoint_comes_back_bit_for_bit(resnet18d, checkpoint, tmp_path):
    arrays = arrays_of(deep=True)
    assert load_weights(resnet18d, checkpoint(arrays)) == Transfer("timm", len(arrays))
    for name, array in torch_weights(resnet18d, arrays).items():
        assert np.array_equal(array, arrays[name]), name
    report = save_weights(resnet18d, tmp_path / "saved.safetensors", "timm")
    assert report == Transfer("timm", 134)
    saved = safetensors.numpy.load_file(tmp_path / "saved.safetensors")
    assert saved.keys() == with_counters(arrays).keys()
    assert all(np.array_equal(saved[name], array) for name, array in arrays.items())


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"depth": 34}, r"depth.*80 unexpected \(layer1\.2\.bn1\."),
        (
            {"deep": True},
            r"missing \(conv1\.weight, layer2.*unexpected \(conv1\.0\.weight",
        ),
    ],
)
def test_another_networks_checkpoint_is_refused(resnet18, checkpoint, network, message):
    assert_refused(resnet18, checkpoint(arrays_of(**network)), message)


def test_plain_and_d_networks_refuse_the_papers_checkpoint(resnet18d, arrays, checkpoint):
    plain = build(build_plain18, classes=10)
    assert_refused(plain, checkpoint(arrays), r"15 unexpected \(layer2\.0\.downsample\.0\.weight")
    for layout in ("torchvision", "transformers"):
        path = checkpoint(in_layout(arrays, layout))
        assert_refused(resnet18d, path, r"missing \(conv1\.0\.weight, conv1\.1\.weight")


def test_features_leave_the_checkpoints_classifier_out(arrays, checkpoint, tmp_path):
    model = build(include_top=False)
    report = load_weights(model, checkpoint(arrays))
    assert report == Transfer("torchvision", 100, left_out=("fc.bias", "fc.weight"))
    # and their own checkpoint, which has none, loads again, though all its names begin alike
    save_weights(model, tmp_path / "features.safetensors", "transformers")
    assert load_weights(model, tmp_path / "features.safetensors").tensors == 100


@pytest.mark.parametrize("deep", [False, True])
def test_a_part_of_a_network_takes_what_belongs_to_it(deep, checkpoint):
    whole, arrays = build(variant="d" if deep else None, include_top=False), arrays_of(deep=deep)
    after_stage1 = whole.get_layer("stage1_block2_out").output
    model = keras.Model(after_stage1, whole.get_layer("stage2_block1_out").output)
    report = load_weights(model, checkpoint(arrays))
    assert (report.layout, report.tensors) == ("timm" if deep else "torchvision", 15)
    assert report.tensors + len(report.left_out) == len(arrays)
    name = f"layer2.0.downsample.{1 if deep else 0}.weight"
    assert np.array_equal(torch_weights(whole, [name])[name], arrays[name])


# Where the network's size does not matter: heads


def test_all_faults_are_one_error(small_model, small_arrays, checkpoint):
    arrays = small_arrays()
    for name in ("bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"):
        del arrays[name]
    arrays["layer1.0.conv2.weight"] = arrays["layer1.0.conv2.weight"][:32]
    arrays["layer1.0.aux.weight"] = np.zeros(3, "f")
    assert_refused(
        small_model(),
        checkpoint(arrays),
        r"^a checkpoint must have the tensors of 'small': build the network that it was made with, "
        r"of the same depth, stem and variant\. Received: .*model\.safetensors with "
        r"4 missing \(bn1\.weight, bn1\.bias, bn1\.running_mean, …\), "
        r"1 unexpected \(layer1\.0\.aux\.weight\), "
        r"1 of another shape \(layer1\.0\.conv2\.weight \(32, 64, 3, 3\) for \(64, 64, 3, 3\)\)$",
    )


def test_other_classes_need_the_head_skipped(small_model, small_arrays, checkpoint):
    model, path = small_model(classes=5), checkpoint(small_arrays(classes=1000))
    assert_refused(model, path, r"head='skip'.*2 of another shape .*1000")
    before = values(model)
    report = load_weights(model, path, head="skip")
    assert report == Transfer("torchvision", 15, ("fc.bias", "fc.weight"), ("predictions",))
    assert str(report) == (
        "15 tensors in torchvision's layout; 2 left out (fc.bias, fc.weight); "
        "predictions kept as it was"
    )
    assert same(values(model)[-2:], before[-2:])
    assert not same(values(model)[:1], before[:1])


def test_a_checkpoint_without_a_head_needs_it_skipped(small_model, small_arrays, checkpoint):
    model, path = small_model(), checkpoint(without_head(small_arrays()))
    assert_refused(model, path, r"head='skip'.*2 missing \(fc\.weight, fc\.bias\)")
    assert load_weights(model, path, head="skip").kept == ("predictions",)


def test_a_fitting_head_is_not_skipped_even_behind_a_dropout(small_model, small_arrays, checkpoint):
    renamed = {name.replace("fc.", "fc.1."): array for name, array in small_arrays().items()}
    for arrays in (small_arrays(), renamed):
        report = load_weights(small_model(), checkpoint(arrays), head="skip")
        assert report == Transfer("torchvision", 17)


# What checkpoints hold


@pytest.mark.parametrize("channels", [1, 4])
def test_the_stem_adapts_to_other_channels(small_model, small_arrays, checkpoint, channels):
    arrays = small_arrays()
    model = small_model(channels=channels)
    load_weights(model, checkpoint(arrays))
    kernel = torch_weights(model, ["conv1.weight"])["conv1.weight"]
    rgb = arrays["conv1.weight"]
    for channel in range(channels):
        expected = rgb.sum(axis=1) if channels == 1 else rgb[:, channel % 3] * (3 / channels)
        np.testing.assert_allclose(kernel[:, channel], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("prefix", ["", "module.", "module.model."])
@pytest.mark.parametrize("layout", ["torchvision", "transformers"])
def test_a_prefix_is_understood(small_model, small_arrays, checkpoint, prefix, layout):
    arrays = in_layout(small_arrays(), layout)
    network = {prefix + name: array for name, array in arrays.items()}
    assert load_weights(small_model(), checkpoint(network)) == Transfer(layout, 17)
    beside = {
        "criterion.weight": np.ones(10, "f"),
        "n_averaged": np.array(7, np.int64),
        "val_acc.correct": np.array(2, "f"),
    }
    report = load_weights(small_model(), checkpoint(network | beside))
    assert report.tensors == 17 and {*report.left_out} == {*beside}


def test_of_raw_and_averaged_weights_the_raw_ones_are_taken(small_model, small_arrays, checkpoint):
    arrays, model = small_arrays(), small_model()
    averaged = {f"ema.module.{name}": 2 * array for name, array in arrays.items()}
    raw = {f"model.{name}": array for name, array in arrays.items()}
    report = load_weights(model, checkpoint(averaged | raw))
    assert np.array_equal(torch_weights(model, ["fc.weight"])["fc.weight"], arrays["fc.weight"])
    assert {*averaged} == {*report.left_out}


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


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("layer1.0.conv1.weight", np.nan, "NaN in layer1.0.conv1.weight"),
        ("fc.bias", -np.inf, "infinity in fc.bias"),
        ("bn1.running_var", -1e-3, "a negative variance in bn1.running_var"),
    ],
)
def test_a_value_of_no_training_is_refused(
    small_model, small_arrays, checkpoint, name, value, message
):
    arrays = small_arrays()
    arrays[name].flat[0] = value
    assert_refused(small_model(), checkpoint(arrays), message)


def test_a_checkpoint_of_another_family_is_refused(small_model, small_arrays, checkpoint):
    vit = ("cls_token", "pos_embed", "blocks.0.norm1.weight")
    for arrays, message in (
        (small_arrays(channels=4), r"conv1\.weight \(64, 4, 7, 7\) for \(64, 3, 7, 7\)"),
        (dict.fromkeys(vit, np.zeros(2, "f")), "with 3 tensors .*cls_token, pos_embed"),
        ({}, r"with 0 tensors \(\)"),
    ):
        assert_refused(small_model(), checkpoint(arrays), message)


# Which models


def test_layers_are_found_in_models_within_the_model(small_model, small_arrays, checkpoint):
    softmax = keras.layers.Softmax(name="predictions")  # has no weights: not a head
    inner, image = small_model(), keras.Input((32, 32, 3))
    outer = keras.Model(image, softmax(inner(image) + inner(image * 2.0)))
    arrays = small_arrays()
    assert load_weights(outer, checkpoint(arrays)).tensors == 17
    assert np.array_equal(torch_weights(inner, ["fc.weight"])["fc.weight"], arrays["fc.weight"])


def test_saving_says_what_has_no_place(small_model, tmp_path):
    layers = [small_model(), keras.layers.Dense(3, name="mine")]
    model = keras.Sequential(layers, name="outer")
    model.build((None, 32, 32, 3))
    report = save_weights(model, tmp_path / "saved.safetensors")
    assert report == Transfer("torchvision", 20, left_out=("outer/mine/kernel", "outer/mine/bias"))


def test_models_without_exactly_one_network_are_refused(small_model, small_arrays, checkpoint):
    image = keras.Input((32, 32, 3))
    one, two = small_model(), keras.models.clone_model(small_model())
    two.name = "other"
    pair = keras.Model(image, one(image) + two(image), name="pair")
    foreign = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="foreign")
    unbuilt = keras.Sequential([keras.layers.Conv2D(64, 7, name="stem_conv")], name="unbuilt")
    for model, message in (
        (pair, r"by itself.*'pair' with two layers 'predictions'"),
        (foreign, r"built layers with our names.*'foreign' with none"),
        (unbuilt, r"built layers with our names.*'unbuilt' with none"),
    ):
        for transfer in (load_weights, save_weights):
            with pytest.raises(InputError, match=message):
                transfer(model, checkpoint(small_arrays()))


def test_arguments_are_checked_before_anything_is_written(resnet18d, small_model, tmp_path):
    path = tmp_path / "new.safetensors"
    with pytest.raises(InputError, match=r"strict, skip\. Received: head='ignore'"):
        load_weights(small_model(), path, head="ignore")
    for layout in ("Keras", None):
        with pytest.raises(InputError, match=r"torchvision, timm, transformers\. Received: layout"):
            save_weights(small_model(), path, layout)
    for layout in ("torchvision", "transformers"):
        with pytest.raises(InputError, match=rf"save with layout='timm'.*layout='{layout}'"):
            save_weights(resnet18d, path, layout)
    assert not path.exists()
