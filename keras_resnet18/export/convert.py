"""SavedModel → TFLite, in a process of its own: TensorFlow's converter leaks memory at every call.

    python -P convert.py SAVED_MODEL OUTPUT [CALIBRATION.npy]

Needs TensorFlow and NumPy alone. With calibration images, uint8 (n, height, width, channels), the
result is full-integer int8 with uint8 pixels in, without them float32.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf


def main(saved_model: str, output: str, calibration: str | None = None) -> None:
    """Converts the signature `serving_default`, whose batch size is 1."""
    converter = tf.lite.TFLiteConverter.from_saved_model(
        saved_model, signature_keys=["serving_default"]
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if calibration is not None:
        images = np.load(calibration, mmap_mode="r")
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: (
            {"image": image[np.newaxis].astype(np.float32)} for image in images
        )
        converter.inference_input_type = tf.uint8
        converter.inference_output_type = tf.float32
    Path(output).write_bytes(converter.convert())


if __name__ == "__main__":
    main(*sys.argv[1:])
