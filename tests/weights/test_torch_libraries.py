"""The same answers as torch, timm and transformers give, from their files and with ours.

KERAS_BACKEND=torch python -m pytest -m torch tests/weights
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
from golden import numpy_weights as inputs
from weights.checkpoints import in_layout

from keras_resnet18 import build_resnet18, build_resnet34
from keras_resnet18.weights.transfer import Transfer, load_weights, save_weights

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
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


def randomised(module):
    """The module with every number away from the 0 or 1 that it began with."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.ndim == 1:  # BatchNorm's vectors, of which the scales must be positive
                low = -0.2 if name.endswith(("bias", "mean")) else 0.5
                tensor.uniform_(low, low + 0.5, generator=generator)
    return module


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
    theirs = randomised(timm.create_model(name, num_classes=10))
    safetensors_torch.save_model(theirs, str(tmp_path / "timm.safetensors"))
    model = logits_net(builder=builder, variant=variant)
    load_weights(model, tmp_path / "timm.safetensors")
    assert_close_to_the_largest(keras_logits(model), torch_logits(theirs))


@pytest.mark.parametrize(
    ("name", "variant", "layout"),
    [
        ("resnet18", None, "timm"),
        ("resnet18", None, "torchvision"),
        ("resnet18d", "d", "timm"),
    ],
)
def test_a_file_saved_here_loads_in_timm_strictly(name, variant, layout, tmp_path):
    model = logits_net(variant=variant)
    save_weights(model, tmp_path / "ours.safetensors", layout)
    path = str(tmp_path / "ours.safetensors")
    theirs = timm.create_model(name, num_classes=10, checkpoint_path=path)
    theirs.load_state_dict(safetensors_torch.load_file(path), strict=True)
    assert_close_to_the_largest(keras_logits(model), torch_logits(theirs))


# transformers


@pytest.fixture
def hf_resnet18():
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
    assert load_weights(resnet18, tmp_path) == Transfer("transformers", 102)
    assert_close_to_the_largest(keras_logits(resnet18), torch_logits(hf_resnet18))


def test_transformers_loads_our_file_strictly(hf_resnet18, resnet18, arrays, checkpoint, tmp_path):
    load_weights(resnet18, checkpoint(in_layout(arrays, "transformers")))
    hf_resnet18.config.save_pretrained(tmp_path)
    save_weights(resnet18, tmp_path / "model.safetensors", "transformers")
    state = safetensors_torch.load_file(tmp_path / "model.safetensors")
    hf_resnet18.load_state_dict(state, strict=True)
    assert_close_to_the_largest(torch_logits(hf_resnet18), keras_logits(resnet18))

    theirs, info = type(hf_resnet18).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert_close_to_the_largest(torch_logits(theirs), keras_logits(resnet18))
