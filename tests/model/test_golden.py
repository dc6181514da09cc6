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


def seeded_network(network: inputs.Network) -> keras.Model:
    """The golden network: logits for normalized images of any size."""
    model = BUILDERS[network.depth](
        input_shape=(None, None, network.channels),
        classes=inputs.CLASSES,
        classifier_activation=None,
        include_preprocessing=False,
        variant="d" if network.deep else None,
    )
    shapes = inputs.resnet_shapes(
        network.depth, inputs.CLASSES, network.channels, deep=network.deep
    )
    set_torch_weights(model, inputs.numpy_weights(shapes, inputs.WEIGHT_SEED))
    return model


@pytest.fixture(scope="module")
def resnet18():
    return seeded_network(inputs.Network())


def test_stages_and_logits_of_resnet18_equal_torchs(resnet18, golden):
    images = inputs.numpy_images(inputs.IMAGE_SHAPE, inputs.IMAGE_SEED)
    assert_stages_equal_torchs(resnet18, 18, images, golden, "stage", "logits/18")


@pytest.mark.parametrize("name", inputs.NETWORKS)
def test_stages_and_logits_of_every_other_network_equal_torchs(golden, name):
    network = inputs.NETWORKS[name]
    image = inputs.numpy_images((1, *inputs.SMALL_SIZE, network.channels), inputs.IMAGE_SEED)
    model = seeded_network(network)
    key, logits = f"stage/{name}", f"logits/{name}_small"
    assert_stages_equal_torchs(model, network.depth, image, golden, key, logits)


def assert_stages_equal_torchs(model, depth, images, golden, key, logits_key):
    # torch's stages are the stem, and the last block of each stage
    blocks = enumerate(inputs.BLOCKS[depth], start=1)
    names = ["stem_pool", *(f"stage{s}_block{b}_out" for s, b in blocks)]
    outputs = [model.get_layer(name).output for name in names]
    computed = keras.Model(model.input, [*outputs, model.output])(images, training=False)
    *maps, logits = (keras.ops.convert_to_numpy(x) for x in computed)
    for name, values, shape, probe in zip(
        golden["stage/names"], maps, golden[f"{key}/shape"], golden[f"{key}/probe"], strict=True
    ):
        assert values.shape == tuple(shape), name
        error = inputs.activation_probe(name, values) - probe
        assert np.abs(error).max() <= 1e-4 * np.abs(values).max(), name
    assert np.abs(logits - golden[logits_key]).max() <= 1e-4 * np.abs(logits).max()


def test_three_steps_have_torchs_losses_and_the_first_moves_every_weight_alike(resnet18, golden):
    resnet18.compile(
        keras.optimizers.SGD(inputs.LEARNING_RATE, momentum=inputs.MOMENTUM),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,  # compiling takes longer than three steps
    )
    images = inputs.numpy_images(inputs.TRAIN_SHAPE, inputs.IMAGE_SEED)
    labels = inputs.numpy_labels(inputs.TRAIN_SHAPE[0], inputs.CLASSES, inputs.LABEL_SEED)
    before, losses = torch_weights(resnet18, golden["train/names"]), []
    for step in range(3):
        resnet18.reset_metrics()
        losses.append(float(resnet18.train_on_batch(images, labels)))
        if step == 0:
            after = torch_weights(resnet18, golden["train/names"])
    set_torch_weights(resnet18, before)  # other tests look at the model, too
    np.testing.assert_allclose(losses, golden["train/losses"], rtol=1e-4, atol=1e-5)
    for name, expected in zip(golden["train/names"], golden["train/update"], strict=True):
        update = after[name].astype(np.float64) - before[name]
        error = np.abs(inputs.tensor_probe(name, update) - expected) / expected[1]
        assert error[0] < 1e-3, f"sum of the update of {name}"
        assert error[1:].max() < 5e-4, f"update of {name}"
