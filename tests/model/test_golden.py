"""The network computes what an independent one, written in torch, computes.

Nothing here depends on the Keras backend; test_portability.py runs this file on JAX as well.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
from golden import numpy_weights as inputs
from golden.keras_weights import set_torch_weights, torch_weights

from keras_resnet18 import build_resnet18, build_resnet34

BUILDERS = {18: build_resnet18, 34: build_resnet34}

# the layers that give the maps of torch's stages: the stem, and the last block of each stage
STAGE_LAYERS = {
    depth: ["stem_pool", *(f"stage{s}_block{b}_out" for s, b in enumerate(blocks, start=1))]
    for depth, blocks in inputs.BLOCKS.items()
}


def seeded_network(network: inputs.Network) -> keras.Model:
    """The golden network: logits for normalised images of any size."""
    model = BUILDERS[network.depth](
        input_shape=(None, None, network.channels),
        classes=inputs.CLASSES,
        classifier_activation=None,
        include_preprocessing=False,
        variant="d" if network.deep else None,
        output_stride=network.output_stride,
    )
    shapes = inputs.resnet_shapes(
        network.depth, inputs.CLASSES, network.channels, deep=network.deep
    )
    set_torch_weights(model, inputs.numpy_weights(shapes, inputs.WEIGHT_SEED))
    return model


@pytest.fixture(scope="module")
def resnet18():
    return seeded_network(inputs.Network())


def predict(model, images):
    return keras.ops.convert_to_numpy(model(images, training=False))


def assert_close_to_the_largest(values, golden):
    assert np.abs(values - golden).max() <= 1e-4 * np.abs(golden).max()


def test_inputs_are_those_of_the_golden_run(golden):
    shapes = (inputs.IMAGE_SHAPE, inputs.ODD_IMAGE_SHAPE, inputs.TRAIN_SHAPE)
    for shape, probe in zip(shapes, golden["inputs/probe"], strict=True):
        images = inputs.numpy_images(shape, inputs.IMAGE_SEED)
        np.testing.assert_allclose(inputs.activation_probe("images", images), probe, rtol=1e-9)


@pytest.mark.parametrize(
    ("shape", "key"),
    [(inputs.IMAGE_SHAPE, "logits/18"), (inputs.ODD_IMAGE_SHAPE, "logits/18_odd")],
    ids=["224x224", "197x230"],
)
def test_logits_of_resnet18_equal_torchs(resnet18, golden, shape, key):
    logits = predict(resnet18, inputs.numpy_images(shape, inputs.IMAGE_SEED))
    assert_close_to_the_largest(logits, golden[key])


def test_logits_of_resnet34_equal_torchs(golden):
    resnet34 = seeded_network(inputs.Network(depth=34))
    logits = predict(resnet34, inputs.numpy_images(inputs.IMAGE_SHAPE, inputs.IMAGE_SEED))
    assert_close_to_the_largest(logits, golden["logits/34"])


def test_every_stage_gives_torchs_feature_map(resnet18, golden):
    images = inputs.numpy_images(inputs.IMAGE_SHAPE, inputs.IMAGE_SEED)
    *maps, _ = stages_and_logits(resnet18, 18, images)
    assert_stages_equal_torchs(maps, golden, "stage")


@pytest.mark.parametrize("name", inputs.NETWORKS)
def test_stages_and_logits_of_every_other_network_equal_torchs(golden, name):
    network = inputs.NETWORKS[name]
    image = inputs.numpy_images((1, *inputs.SMALL_SIZE, network.channels), inputs.IMAGE_SEED)
    *maps, logits = stages_and_logits(seeded_network(network), network.depth, image)
    assert_stages_equal_torchs(maps, golden, f"stage/{name}")
    assert_close_to_the_largest(logits, golden[f"logits/{name}_small"])


def stages_and_logits(model, depth, images):
    layers = [model.get_layer(name) for name in STAGE_LAYERS[depth]]
    outputs = keras.Model(model.input, [*(layer.output for layer in layers), model.output])
    return [keras.ops.convert_to_numpy(x) for x in outputs(images, training=False)]


def assert_stages_equal_torchs(maps, golden, key):
    for name, values, shape, probe in zip(
        golden["stage/names"], maps, golden[f"{key}/shape"], golden[f"{key}/probe"], strict=True
    ):
        assert values.shape == tuple(shape), name
        error = inputs.activation_probe(name, values) - probe
        assert np.abs(error).max() <= 1e-4 * np.abs(values).max(), name


@pytest.fixture(scope="module")
def training(resnet18):
    """Three losses of `train_on_batch`, and the weights before and after the first step."""
    model = resnet18
    model.compile(
        keras.optimizers.SGD(inputs.LEARNING_RATE, momentum=inputs.MOMENTUM),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    images = inputs.numpy_images(inputs.TRAIN_SHAPE, inputs.IMAGE_SEED)
    labels = inputs.numpy_labels(inputs.TRAIN_SHAPE[0], inputs.CLASSES, inputs.LABEL_SEED)
    names = list(inputs.resnet_shapes(18, inputs.CLASSES))
    before, losses = torch_weights(model, names), []
    for step in range(3):
        model.reset_metrics()
        losses.append(float(model.train_on_batch(images, labels)))
        if step == 0:
            after = torch_weights(model, names)
    set_torch_weights(model, before)  # other tests look at the model, too
    return losses, before, after


def test_losses_of_three_steps_with_momentum_equal_torchs(training, golden):
    losses, _, _ = training
    np.testing.assert_allclose(losses, golden["train/losses"], rtol=1e-4, atol=1e-5)


def test_one_step_moves_every_weight_as_in_torch(training, golden):
    _, before, after = training
    rows = dict(zip(golden["train/names"], golden["train/update"], strict=True))
    assert list(rows) == list(before)
    for name, expected in rows.items():
        if name.endswith("running_var"):  # torch's is another quantity: the next test's
            continue
        update = after[name].astype(np.float64) - before[name]
        error = np.abs(inputs.tensor_probe(name, update) - expected) / expected[1]
        assert error[0] < 1e-3, f"sum of the update of {name}"
        assert error[1:].max() < 5e-4, f"update of {name}"


def test_one_step_moves_the_running_variances_by_the_batchs_own(training, golden):
    # Keras takes the batch variance over n, torch the one over n - 1: 3 % apart in the last stage.
    _, before, after = training
    for layer, expected in zip(golden["train/bn_names"], golden["train/biased_var"], strict=True):
        name = f"{layer}.running_var"
        got = inputs.tensor_probe(name, after[name])
        assert not np.allclose(got, inputs.tensor_probe(name, before[name]), rtol=1e-3)
        np.testing.assert_allclose(got, expected, rtol=1e-5, err_msg=name)
