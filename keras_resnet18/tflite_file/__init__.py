"""A .tflite file's own bytes: operators, metadata, labels."""
