"""How files with weights end, which tells a path from the name of published weights."""

from __future__ import annotations

from pathlib import Path

KERAS_WEIGHTS = ".weights.h5"  # which only Keras itself reads
SAFETENSORS = ".safetensors"
# torch.save's: Lightning writes .ckpt, timm's training .pth.tar
TORCH = (".pth", ".pt", ".bin", ".ckpt", ".tar")

ENDINGS = (KERAS_WEIGHTS, SAFETENSORS, *TORCH)

# What `save_pretrained` of transformers writes into a folder, and did before.
_PRETRAINED = ("model.safetensors", "pytorch_model.bin")


def checkpoint_in(folder: Path) -> Path | None:
    """The checkpoint in a folder that `save_pretrained` left; None if there is none."""
    return next((folder / name for name in _PRETRAINED if (folder / name).is_file()), None)


def is_name(weights: str) -> bool:
    """Whether these are weights with a name, not the path of a file or of a checkpoint's folder."""
    return not weights.endswith(ENDINGS) and checkpoint_in(Path(weights)) is None
