"""How files with weights end, which tells a path from the name of published weights."""

from __future__ import annotations

KERAS_WEIGHTS = ".weights.h5"  # which only Keras itself reads
SAFETENSORS = ".safetensors"
# torch.save's: Lightning writes .ckpt, timm's training .pth.tar
TORCH = (".pth", ".pt", ".bin", ".ckpt", ".tar")

ENDINGS = (KERAS_WEIGHTS, SAFETENSORS, *TORCH)


def is_name(weights: str) -> bool:
    """Whether these are weights with a name, not the path of a file."""
    return not weights.endswith(ENDINGS)
