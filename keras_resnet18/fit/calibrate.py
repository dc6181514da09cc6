"""A trained network's temperature, folded into its head, and its score threshold."""

from __future__ import annotations

import keras
import numpy as np

from keras_resnet18 import distributed
from keras_resnet18.classify.calibration import Calibration, calibrate
from keras_resnet18.data.pipeline import eval_batches
from keras_resnet18.data.splits import Split
from keras_resnet18.files import staged
from keras_resnet18.fit.network import split_head
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.run import Run, save_model

_BATCH_SIZE = 64


def calibrate_network(
    model: keras.Model, validation: Split, preprocess: Preprocess, run: Run
) -> Calibration:
    """Divides the logits by the temperature that validation images ask for.

    Kernel and bias of the last layer are divided, so that the model and all that is exported from
    it are calibrated, and its most probable classes stay. The run's `model.keras` is written anew.

    Args:
        model: A classifier that a builder of this package made, with softmax.
        validation: The images.
        preprocess: How they become the model's pixels.
        run: The run of the model.
    """
    body, _ = split_head(model)
    head = model.layers[-1]
    features = [np.empty((0, *body.output_shape[1:]), np.float32)]  # a process may have no image
    labels = [np.empty(0, np.int64)]
    for images, targets in eval_batches(
        validation, preprocess.resize_and_crop, batch_size=_BATCH_SIZE
    ):
        features.append(np.asarray(body.predict_on_batch(images.numpy()), np.float32))
        labels.append(targets.numpy())
    kernel, bias = head.get_weights()
    # of the features: a probability of a float32 softmax may be 0, whose logarithm is lost
    logits = distributed.gather(np.concatenate(features) @ kernel + bias, validation.size)
    found = calibrate(logits, distributed.gather(np.concatenate(labels), validation.size))
    if found.temperature != 1:
        head.set_weights([kernel / found.temperature, bias / found.temperature])
        if distributed.is_first():
            with staged(run.model_file) as new:
                save_model(model, new)
    return found
