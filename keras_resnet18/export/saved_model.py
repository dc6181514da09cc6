"""A model as a SavedModel for servers, opened and compared with the model before it has a name."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_resnet18.export import diagnose, serving, verify
from keras_resnet18.export.pixels import noise
from keras_resnet18.export.report import (
    ExportReport,
    check_report_file,
    staged_with_figures,
    write_figures,
)
from keras_resnet18.staging import check_destination

_LATENCY_RUNS = 20

# A picture side for models that take any size
_ANY_SIDE = 64


def export_saved_model(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    labels: Sequence[str] | None = None,
) -> ExportReport:
    """Writes a SavedModel that takes pixels and gives probabilities, and proves it.

    Its signature `serving_default` takes `image`, uint8 (batch, height, width, channels) with
    values of 0 to 255 and any batch, and gives `probabilities`, float32 (batch, classes). With
    labels, the signature `labels` takes nothing and gives them, in the order of the probabilities.
    `tf.saved_model.load` opens it without this package and without Keras. Its figures lie beside
    it, in `<name>.json`.

    Args:
        model: A classifier that takes pixels of 0 to 255; with softmax or logits.
        path: The folder to write; a SavedModel that exists there is replaced.
        labels: The classes' names in the order of the model's output.

    Returns:
        Size, largest difference, latency: `print` it.

    Raises:
        InputError: If an argument cannot be used; the message says which and why.
        ExportError: If the SavedModel does not give the model's answers. Nothing is written then.
    """
    path = Path(path)
    serving.check_model(model, labels)
    check_destination(path, tf.saved_model.contains_saved_model, "SavedModel")
    check_report_file(path)
    twin = serving.float32_twin(model)
    shape = tuple(side or _ANY_SIDE for side in model.input_shape[1:])

    with staged_with_figures(path) as (new, figures):
        serving.write_saved_model(twin, new, labels=labels)
        signature = tf.saved_model.load(str(new)).signatures["serving_default"]

        def exported(pixels: np.ndarray[Any, Any]) -> Any:
            return signature(image=tf.constant(pixels))["probabilities"].numpy()

        limits = verify.Limits(0.0, verify.FLOAT32_TOLERANCE)
        comparison, fault = diagnose.prove(exported, twin, noise(shape), limits)
        verify.gate(fault)
        times = []
        for _ in range(_LATENCY_RUNS):
            start = time.perf_counter()
            exported(np.zeros((1, *shape), np.uint8))
            times.append(1000 * (time.perf_counter() - start))
        size = sum(file.stat().st_size for file in new.rglob("*") if file.is_file())
        report = ExportReport(
            path=path,
            format="saved_model",
            size_bytes=size,
            comparison=comparison,
            latency_ms=statistics.median(times),
        )
        write_figures(figures, report.to_dict())
    return report
