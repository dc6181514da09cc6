"""Checkpoints as people own them: with more in them, with other heads, damaged, averaged."""

from __future__ import annotations

import numpy as np
import pytest
from golden import numpy_weights as inputs
from weights.checkpoints import in_layout, same, values

from keras_resnet18 import build_resnet18, load_weights
from keras_resnet18.errors import InputError


@pytest.fixture(scope="module")
def arrays():
    return inputs.numpy_weights(inputs.resnet_shapes(18, 10), inputs.WEIGHT_SEED)


@pytest.fixture(scope="module")
def model():
    return build_resnet18(input_shape=(32, 32, 3), classes=10)


def prefixed(arrays, prefix):
    return {f"{prefix}{name}": array for name, array in arrays.items()}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("layer1.0.conv1.weight", np.nan, "NaN in layer1.0.conv1.weight"),
        ("bn1.bias", np.inf, "infinity in bn1.bias"),
        ("fc.bias", -np.inf, "infinity in fc.bias"),
        ("layer4.1.bn2.running_var", -1e-3, "a negative variance in layer4.1.bn2.running_var"),
    ],
)
def test_values_that_no_training_leaves_are_refused(model, arrays, checkpoint, name, value, said):
    damaged = arrays[name].copy()
    damaged.flat[0] = value
    before = values(model)
    with pytest.raises(InputError, match=said):
        load_weights(model, checkpoint({**arrays, name: damaged}))
    assert same(values(model), before)


def test_a_head_behind_a_dropout_is_the_head(model, arrays, checkpoint):
    renamed = {name.replace("fc.", "fc.1."): array for name, array in arrays.items()}
    assert load_weights(model, checkpoint(renamed)).tensors == len(arrays)


def test_a_head_of_two_layers_is_refused_and_the_body_can_be_had(model, arrays, checkpoint):
    body = {name: array for name, array in arrays.items() if not name.startswith("fc.")}
    head = {f"fc.{i}.{part}": np.ones((10, 10), "f") for i in (0, 2) for part in ("weight", "bias")}
    path = checkpoint({**body, **head})
    with pytest.raises(InputError, match="head='skip'"):
        load_weights(model, path)
    report = load_weights(model, path, head="skip")
    assert report.tensors == len(body) and report.kept == ("predictions",)
    assert {*head} <= {*report.left_out}


OTHERS = {
    "a loss": {"criterion.weight": np.ones(10, "f")},
    "a count of averages": {"n_averaged": np.array(7, np.int64)},
    "a metric": {"val_acc.total": np.array(3, np.int64), "val_acc.correct": np.array(2, "f")},
}


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "_orig_mod.module."])
@pytest.mark.parametrize("others", OTHERS.values(), ids=OTHERS)
def test_what_lies_beside_the_network_is_left_out_and_said(
    model, arrays, checkpoint, prefix, others
):
    report = load_weights(model, checkpoint({**prefixed(arrays, prefix), **others}), head="skip")
    assert report.tensors == len(arrays)
    assert {*others} <= {*report.left_out} and "left out" in str(report)


def test_of_raw_and_averaged_weights_the_raw_ones_are_taken_and_the_others_named(
    model, arrays, checkpoint
):
    averaged = {f"ema.module.{name}": 2 * array for name, array in arrays.items()}
    report = load_weights(model, checkpoint({**prefixed(arrays, "model."), **averaged}))
    kernel = model.get_layer("stem_conv").kernel.numpy().transpose(3, 2, 0, 1)
    assert np.array_equal(kernel, arrays["conv1.weight"])
    assert {*averaged} <= {*report.left_out}


def test_a_transformers_model_without_a_classifier_gives_its_body(model, arrays, checkpoint):
    body = {name: array for name, array in arrays.items() if not name.startswith("fc.")}
    headless = {
        name.removeprefix("resnet."): array
        for name, array in in_layout(body, "transformers").items()
    }
    report = load_weights(model, checkpoint(headless), head="skip")
    assert (report.layout, report.tensors) == ("transformers", len(body))
    assert "predictions kept as it was" in str(report)


def test_a_folder_is_built_with(arrays, checkpoint, tmp_path):
    checkpoint(arrays).rename(tmp_path / "model.safetensors")
    model = build_resnet18(input_shape=(32, 32, 3), classes=10, weights=str(tmp_path))
    kernel = model.get_layer("stem_conv").kernel.numpy().transpose(3, 2, 0, 1)
    assert np.array_equal(kernel, arrays["conv1.weight"])
