"""Exported files, run by the runtimes that people run them with."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from keras_resnet18.errors import ExportError
from keras_resnet18.machine import native_stderr_hidden


class TFLiteFile:
    """A .tflite file of ours, run with the LiteRT interpreter.

    Args:
        path: The file.
        threads: How many to compute with; all of this machine's by default.

    Attributes:
        milliseconds: What each image so far took, without the copying in and out.

    Raises:
        ExportError: If LiteRT cannot run it, or its input and output are no classifier's.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        try:
            with native_stderr_hidden():  # each one announces its delegate there
                self._interpreter = Interpreter(str(path), num_threads=threads or os.cpu_count())
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            first_line = str(error).splitlines()[0]
            if path.is_file() and path.read_bytes()[4:8] == b"TFL3" and "valid" in first_line:
                first_line = "it is truncated or damaged"
            raise ExportError(f"{path} cannot be run by LiteRT: {first_line}") from None
        inputs = self._interpreter.get_input_details()
        outputs = self._interpreter.get_output_details()
        if [len(details["shape"]) for details in (*inputs, *outputs)] != [4, 2]:
            raise ExportError(
                f"{path} must have one input (1, height, width, channels) and one output "
                f"(1, classes). Received: {[list(d['shape']) for d in inputs]} and "
                f"{[list(d['shape']) for d in outputs]}"
            )
        (self.input,), (self.output,) = inputs, outputs
        self.milliseconds: list[float] = []

    def __call__(self, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Probabilities, float32 (n, classes), for uint8 pixels (n, height, width, channels)."""
        return np.concatenate([self._one(pixels[i : i + 1]) for i in range(len(pixels))])

    def _one(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        self._interpreter.set_tensor(self.input["index"], image)
        start = time.perf_counter()
        self._interpreter.invoke()
        self.milliseconds.append(1000 * (time.perf_counter() - start))
        probabilities: np.ndarray[Any, Any] = self._interpreter.get_tensor(self.output["index"])
        return probabilities

    @property
    def latency_ms(self) -> float:
        """Median time of one image, in milliseconds."""
        return statistics.median(self.milliseconds)
