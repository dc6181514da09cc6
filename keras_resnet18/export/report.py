"""What an export function tells about the file that it wrote."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from keras_resnet18.export.verify import Comparison


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """An exported file, and the proof of it.

    Attributes:
        path: Where it is.
        format: `"saved_model"`, `"onnx"`, `"tflite"` or `"tflite-int8"`.
        size_bytes: Of the file, or of all files of a folder.
        comparison: Of the model and the export on the same images.
        latency_ms: Median time of one image at batch 1, on all cores of this machine.
        operators: The op histogram of a .tflite or .onnx file.
    """

    path: Path
    format: str
    size_bytes: int
    comparison: Comparison
    latency_ms: float
    operators: dict[str, int] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        proof = self.comparison
        accuracy = (
            "accuracy not measured"
            if proof.accuracy is None
            else f"top-1 {proof.accuracy:.2%} (model {proof.model_accuracy:.2%})"
        )
        return (
            f"{self.path}: {self.format}, {self.size_bytes / 1e6:.2f} MB, {self.latency_ms:.2f} ms "
            f"an image, agreement {proof.agreement:.2%}, largest difference "
            f"{proof.max_difference:.1e}, {accuracy}, n = {proof.images}"
        )
