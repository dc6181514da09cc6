"""The same answers as torch, timm and transformers give, from their files and with ours.

They need the extra `interop`, and any Keras backend:

    KERAS_BACKEND=torch python -m pytest -m torch tests/weights
"""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path

import keras
import numpy as np
import pytest
from golden import numpy_weights as inputs
from weights.checkpoints import in_layout, same, values, with_counters

from keras_resnet18 import build_resnet18, build_resnet34
from keras_resnet18.errors import InputError
from keras_resnet18.weights.transfer import Transfer, load_weights, save_weights

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")
pytestmark = pytest.mark.torch

SIZE = 96
IMAGES = inputs.numpy_images((2, SIZE, SIZE, 3), inputs.IMAGE_SEED)


def logits_net(channels=3, builder=build_resnet18, **arguments):
    return builder(
        input_shape=(SIZE, SIZE, channels),
        classes=10,
        classifier_activation=None,
        include_preprocessing=False,
        **arguments,
    )


@pytest.fixture(scope="module")
def resnet18():
    return logits_net()


def keras_logits(model, images=IMAGES):
    return keras.ops.convert_to_numpy(model(images, training=False))


def torch_logits(model, images=IMAGES):
    with torch.no_grad():
        output = model.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    return getattr(output, "logits", output).numpy()


def assert_close_to_the_largest(got, expected):
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()


def as_tensors(arrays):
    # clone: torch will not write what numpy lent
    return {name: torch.from_numpy(np.asarray(a)).clone() for name, a in arrays.items()}


def randomised(module):
    """The module with every number away from the 0 or 1 that it began with."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.ndim == 1:  # BatchNorm's vectors, of which the scales must be positive
                low = -0.2 if name.endswith(("bias", "mean")) else 0.5
                tensor.uniform_(low, low + 0.5, generator=generator)
    return module


# Files that torch.save writes


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".pt", ".pth.tar", ".ckpt"])
def test_a_torch_file_is_read_as_the_same_tensors(small_model, small_arrays, tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    torch.save(as_tensors(with_counters(small_arrays())), path)
    model = small_model()
    assert load_weights(model, path) == Transfer("torchvision", 17)
    save_weights(model, tmp_path / "again.safetensors")
    again = safetensors_torch.load_file(tmp_path / "again.safetensors")
    assert all(torch.equal(again[n], t) for n, t in as_tensors(small_arrays()).items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 90, "optimizer": {"lr": 0.1}},
        lambda state: {"model": state, "args": argparse.Namespace(lr=0.1)},  # torchvision's scripts
        lambda state: {"model_state_dict": state},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {"state_dict": {f"module.{name}": t for name, t in state.items()}},
    ],
)
def test_a_training_scripts_file_is_understood(small_model, small_arrays, tmp_path, wrap):
    torch.save(wrap(as_tensors(small_arrays())), tmp_path / "model.pth")
    assert load_weights(small_model(), tmp_path / "model.pth").tensors == 17


def test_bfloat16_tensors_of_torch_are_converted(small_model, small_arrays, tmp_path):
    half = {name: tensor.bfloat16() for name, tensor in as_tensors(small_arrays()).items()}
    torch.save(half, tmp_path / "model.pth")
    safetensors_torch.save_file(half, tmp_path / "model.safetensors")
    one, two = small_model(), small_model()
    load_weights(one, tmp_path / "model.pth")
    load_weights(two, tmp_path / "model.safetensors")
    assert same(values(one), values(two))


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def torch_save(content, path):
    torch.save(content, path)


def pickle_dump(content, path):
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("save", [torch_save, pickle_dump])
def test_a_hostile_pickle_is_refused_and_not_executed(small_model, small_arrays, tmp_path, save):
    path, trace = tmp_path / "model.pth", tmp_path / "was here"
    save({"state_dict": as_tensors(small_arrays()), "epoch": Hostile(trace)}, path)
    with pytest.raises(InputError, match=r"no code.*Received: .*model\.pth \(UnpicklingError\)"):
        load_weights(small_model(), path)
    assert not trace.exists()
    # it would have been executed by a careless reader
    with path.open("rb") as file:
        torch.load(file, weights_only=False) if save is torch_save else pickle.load(file)
    assert trace.exists()


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", b"PK\x03\x04 no archive"])
def test_a_damaged_torch_file_is_refused(small_model, tmp_path, content):
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(InputError, match="a torch file must hold tensors") as error:
        load_weights(small_model(), tmp_path / "model.pth")
    assert "\n" not in str(error.value)


def test_a_truncated_torch_file_is_refused(small_model, small_arrays, tmp_path):
    path = tmp_path / "model.pth"
    torch.save(as_tensors(small_arrays()), path)
    path.write_bytes(path.read_bytes()[:10_000])
    with pytest.raises(InputError, match="a torch file must hold tensors"):
        load_weights(small_model(), path)


@pytest.mark.parametrize(
    ("content", "received"),
    [
        ({"net": {"conv1.weight": torch.zeros(1)}, "acc": 95.0}, "the entries net, acc"),
        (torch.zeros(3), "a Tensor"),
        ([1, 2], "a list"),
    ],
)
def test_a_file_without_a_state_dict_is_refused(small_model, tmp_path, content, received):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(InputError, match=rf"state_dict, model.*Received: .* with {received}"):
        load_weights(small_model(), tmp_path / "model.pth")


def test_integer_weights_are_refused(small_model, tmp_path):
    torch.save({"conv1.weight": torch.zeros(2, dtype=torch.int8)}, tmp_path / "model.pth")
    with pytest.raises(InputError, match=r"with conv1\.weight of torch\.int8"):
        load_weights(small_model(), tmp_path / "model.pth")


# timm


@pytest.mark.parametrize(
    ("name", "builder", "variant"),
    [
        ("resnet18", build_resnet18, None),
        ("resnet34", build_resnet34, None),
        ("resnet18d", build_resnet18, "d"),
        ("resnet34d", build_resnet34, "d"),
    ],
)
def test_timms_file_gives_timms_logits(name, builder, variant, tmp_path):
    timm = pytest.importorskip("timm")
    theirs = randomised(timm.create_model(name, num_classes=10))
    safetensors_torch.save_model(theirs, str(tmp_path / "timm.safetensors"))
    model = logits_net(builder=builder, variant=variant)
    load_weights(model, tmp_path / "timm.safetensors")
    assert_close_to_the_largest(keras_logits(model), torch_logits(theirs))


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_other_channels_give_timms_logits(channels, tmp_path):
    timm = pytest.importorskip("timm")
    from timm.models import adapt_input_conv

    theirs = randomised(timm.create_model("resnet18", num_classes=10))
    state = theirs.state_dict()
    torch.save(state, tmp_path / "rgb.pth")
    adapted = timm.create_model("resnet18", num_classes=10, in_chans=channels)
    kernel = adapt_input_conv(channels, state["conv1.weight"].clone())
    adapted.load_state_dict({**state, "conv1.weight": kernel})
    model = logits_net(channels)
    load_weights(model, tmp_path / "rgb.pth")
    np.testing.assert_array_equal(values(model)[0], kernel.numpy().transpose(2, 3, 1, 0))
    images = inputs.numpy_images((1, SIZE, SIZE, channels), 9)
    assert_close_to_the_largest(keras_logits(model, images), torch_logits(adapted, images))


@pytest.mark.parametrize("layout", ["timm", "torchvision"])
def test_a_file_saved_here_loads_in_timm_strictly(layout, resnet18, arrays, checkpoint, tmp_path):
    timm = pytest.importorskip("timm")
    load_weights(resnet18, checkpoint(arrays))
    save_weights(resnet18, tmp_path / "ours.safetensors", layout)
    theirs = timm.create_model("resnet18", num_classes=10)
    state = safetensors_torch.load_file(tmp_path / "ours.safetensors")
    theirs.load_state_dict(state, strict=True)
    assert_close_to_the_largest(keras_logits(resnet18), torch_logits(theirs))
    from_path = timm.create_model(
        "resnet18", num_classes=10, checkpoint_path=str(tmp_path / "ours.safetensors")
    )
    assert torch.equal(from_path.fc.weight, theirs.fc.weight)


def test_a_d_network_saved_here_loads_in_timm_strictly(tmp_path):
    timm = pytest.importorskip("timm")
    model = logits_net(variant="d")
    save_weights(model, tmp_path / "ours.safetensors", "timm")
    theirs = timm.create_model("resnet18d", num_classes=10)
    state = safetensors_torch.load_file(tmp_path / "ours.safetensors")
    theirs.load_state_dict(state, strict=True)
    assert_close_to_the_largest(keras_logits(model), torch_logits(theirs))


def test_features_saved_here_load_in_timm_strictly(arrays, checkpoint, tmp_path):
    timm = pytest.importorskip("timm")
    model = build_resnet18(input_shape=(SIZE, SIZE, 3), include_top=False, pooling="avg")
    load_weights(model, checkpoint(arrays))
    save_weights(model, tmp_path / "features.safetensors", "timm")
    theirs = timm.create_model("resnet18", num_classes=0)
    state = safetensors_torch.load_file(tmp_path / "features.safetensors")
    theirs.load_state_dict(state, strict=True)


def test_other_networks_of_timm_are_refused(resnet18, tmp_path):
    timm = pytest.importorskip("timm")
    refusals = {
        "resnet50": r"unexpected \(layer1\.0\.bn3.* shape \(layer1\.0\.conv1\.weight \(64, 64, 1",
        "resnet18d": r"missing \(conv1\.weight, .*unexpected \(conv1\.0\.weight",
        "vit_tiny_patch16_224": r"names, such as layer1\.0\.conv1\.weight.*blocks\.0\.attn",
    }
    before = values(resnet18)
    for name, refusal in refusals.items():
        theirs = timm.create_model(name, num_classes=10)
        safetensors_torch.save_model(theirs, str(tmp_path / f"{name}.safetensors"))
        with pytest.raises(InputError, match=refusal):
            load_weights(resnet18, tmp_path / f"{name}.safetensors")
    assert same(values(resnet18), before)


# transformers


@pytest.fixture
def hf_resnet18():
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=64,
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        num_labels=10,
    )
    return randomised(transformers.ResNetForImageClassification(config))


def test_the_folder_that_transformers_saves_gives_its_logits(hf_resnet18, resnet18, tmp_path):
    hf_resnet18.save_pretrained(tmp_path)
    report = load_weights(resnet18, tmp_path / "model.safetensors")
    assert report == Transfer("transformers", 102)
    assert_close_to_the_largest(keras_logits(resnet18), torch_logits(hf_resnet18))


def test_transformers_body_alone_loads(hf_resnet18, tmp_path):
    hf_resnet18.resnet.save_pretrained(tmp_path)
    model = logits_net()
    report = load_weights(model, tmp_path / "model.safetensors", head="skip")
    assert report == Transfer("transformers", 100, kept=("predictions",))


def test_a_file_saved_here_loads_in_transformers_strictly(
    hf_resnet18, resnet18, arrays, checkpoint, tmp_path
):
    load_weights(resnet18, checkpoint(in_layout(arrays, "transformers")))
    hf_resnet18.config.save_pretrained(tmp_path)
    save_weights(resnet18, tmp_path / "model.safetensors", "transformers")
    state = safetensors_torch.load_file(tmp_path / "model.safetensors")
    hf_resnet18.load_state_dict(state, strict=True)
    assert_close_to_the_largest(torch_logits(hf_resnet18), keras_logits(resnet18))

    theirs, info = type(hf_resnet18).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert_close_to_the_largest(torch_logits(theirs), keras_logits(resnet18))
