"""Small things that tests make: a folder of images, a network with little in it."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# The last one is in a script that many terminals and the plots' font do not know.
CLASSES = ("ant", "bee", "蝉")


def draw_images(folder: Path, counts: Mapping[str, int], *, side: int = 16) -> Path:
    """Writes PNGs `folder/class/0.png`, …: noise with a bright third, another for each class."""
    random = np.random.default_rng(sorted(counts.values()))
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = random.integers(0, 100, (side, side, 3), np.uint8)
            third = CLASSES.index(name) * side // 3
            pixels[third : third + side // 3] += 120
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def build_tiny(
    *, input_shape: tuple[int, ...], classes: int, stem: str, dropout: float, **others: object
) -> Any:
    """One convolution with what is around it in a ResNet, under its names, traced in no time."""
    import keras
    from keras import layers

    image = keras.Input(input_shape)
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = layers.Conv2D(8, 3, use_bias=False, name="stem_conv")(x)
    x = layers.BatchNormalization(momentum=0.9, name="stem_bn")(x)
    x = layers.Flatten(name="head_pool")(x)
    x = layers.Dropout(dropout, name="head_dropout")(x) if dropout else x
    x = layers.Dense(classes, activation="softmax", dtype="float32", name="predictions")(x)
    return keras.Model(image, x)


def narrow_resnet18(patch: Any) -> None:
    """Lets `build_resnet18` build two stages of one block each, of the same kinds of layers."""
    from keras_resnet18.model import resnet

    patch.setitem(resnet.STAGES, 18, ((64, 1), (64, 1)))


def as_unfinished(path: Path) -> Path:
    """Takes from a finished run what a training writes last."""
    for last in ("metrics.json", "curves.png", "confusion_matrix.png", "report.html"):
        (path / last).unlink()
    return path


def train_quickly(patch: Any) -> None:
    """Lets `train` build a tiny network and draw nothing, for tests of all that is around it."""
    from keras_resnet18.fit import network, train as trainer

    patch.setitem(network.BUILDERS, "resnet18", build_tiny)
    patch.setattr(trainer, "plot_curves", lambda rows, best, path, **_: path.touch())
    patch.setattr(trainer, "plot_confusion", lambda *_: _[-1].touch())
    patch.setattr(trainer, "write_report", lambda run, *_: run.report_file)


def color_digits(digits: tuple[Any, Any], count: int) -> tuple[Any, Any]:
    """Some digits, each number in a color of its own: swapped channels change the class."""
    grey, labels = digits[0][:count], digits[1][:count]
    inks = np.array([colorsys.hsv_to_rgb(number / 10, 1, 1) for number in range(10)])
    return np.rint(grey * inks[labels][:, np.newaxis, np.newaxis]).astype(np.uint8), labels


def build_color_network(kernel_size: int = 3) -> Any:
    """A small random network for images of 32×32 in ten classes, with a stem as a ResNet has."""
    import keras
    from keras import layers

    image = keras.Input((32, 32, 3))
    x = layers.Rescaling([0.016, 0.02, 0.017], [-1.9, -2.3, -1.8], name="normalization")(image)
    x = layers.ZeroPadding2D(kernel_size // 2, name="stem_conv_pad")(x)
    x = layers.Conv2D(32, kernel_size, strides=2, use_bias=False, name="stem_conv")(x)
    x = layers.BatchNormalization(name="stem_bn")(x)
    x = layers.ReLU(name="stem_relu")(x)
    x = layers.Conv2D(64, 3, strides=2, padding="same", activation="relu", name="conv")(x)
    x = layers.GlobalAveragePooling2D(name="head_pool")(x)
    x = layers.Dense(10, activation="softmax", name="predictions")(x)
    return keras.Model(image, x, name="colors")


def build_color_classifier(images: Any, labels: Any, *, kernel_size: int = 3) -> Any:
    """The same, right on every colored digit: its last layer is fitted to some."""
    import keras

    keras.utils.set_random_seed(0)
    return fit_last_layer(build_color_network(kernel_size), images, labels, c=100)


def fit_last_layer(model: Any, images: Any, labels: Any, *, c: float) -> Any:
    """Gives a model the classifier of its pooled features that scikit-learn finds."""
    import keras
    from sklearn.linear_model import LogisticRegression

    pooled = keras.Model(model.input, model.get_layer("head_pool").output)
    features = pooled.predict(images, verbose=0)
    fit = LogisticRegression(C=c, max_iter=2000).fit(features, labels)
    model.get_layer("predictions").set_weights([fit.coef_.T, fit.intercept_])
    return model


def fit_random_network(model: Any, images: Any, labels: Any) -> Any:
    """Fits BatchNorm's statistics and the last layer of a network; convolutions stay random."""
    import keras

    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0  # one pass in training mode, and the statistics are this batch's
    model(images[:128].astype("float32"), training=True)
    for norm in norms:
        norm.momentum = 0.9
    return fit_last_layer(model, images, labels, c=0.1)
