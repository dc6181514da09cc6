"""Script that converts a SavedModel to TFLite; run by `export_tflite` in a process of its own.

    python -P convert.py SAVED_MODEL OUTPUT [float16|dynamic|int8 [CALIBRATION.npy]]

It imports TensorFlow and NumPy only. Calibration images, for int8, are uint8 (n, height, width,
channels).
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf


def main(
    saved_model: str, output: str, quantize: str | None = None, calibration: str | None = None
) -> None:
    """Converts the signature `serving_default`, which has batch size 1."""
    converter = tf.lite.TFLiteConverter.from_saved_model(
        saved_model, signature_keys=["serving_default"]
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if quantize is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]  # by itself, int8 weights
    if quantize == "dynamic":  # otherwise the dense layer needs a runtime of 2024 or later
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if calibration is not None:
        images = np.load(calibration, mmap_mode="r")
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: (
            {"image": image[np.newaxis].astype(np.float32)} for image in images
        )
        converter.inference_input_type = tf.uint8
        converter.inference_output_type = tf.float32
    Path(output).write_bytes(converter.convert())


if __name__ == "__main__":
    main(*sys.argv[1:])
