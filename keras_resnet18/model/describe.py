"""Table 1 of the paper, computed from a model."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_resnet18.errors import InputError

# Block letters, as in the original lecture note.
_LETTERS = {"stem": "A", "stage1": "B", "stage2": "C", "stage3": "D", "stage4": "E", "head": ""}


@dataclasses.dataclass(frozen=True)
class Row:
    """Stem, stage or head of a network.

    Attributes:
        block: Letter A to E, as in the original lecture note; empty for the head.
        stage: `"stem"`, `"stage1"` … `"stage4"` or `"head"`.
        layers: Layers in the paper's notation, such as `"[3×3, 128; 3×3, 128] ×2"`.
        output_shape: (height, width, channels) or (classes,), without the batch.
        parameters: Number of parameters, including BatchNorm's statistics.
        multiply_adds: Multiply-adds for one image, in convolutions and dense layers; None if the
            image size is open.
        receptive_field: Side, in pixels, of the part of the image that one value of the output
            depends on; None for the whole image.
    """

    block: str
    stage: str
    layers: str
    output_shape: tuple[int | None, ...]
    parameters: int
    multiply_adds: int | None
    receptive_field: int | None


@dataclasses.dataclass(frozen=True)
class Description:
    """Table of a model: `rows` for programs, `str()` for people."""

    name: str
    rows: tuple[Row, ...]

    @property
    def parameters(self) -> int:
        return sum(row.parameters for row in self.rows)

    @property
    def multiply_adds(self) -> int | None:
        counts = [row.multiply_adds for row in self.rows]
        return None if None in counts else sum(counts)  # type: ignore[arg-type]

    def __str__(self) -> str:
        header = ("block", "stage", "layers", "output", "parameters", "multiply-adds", "sees")
        body = [
            (
                row.block,
                row.stage,
                row.layers,
                "×".join("?" if n is None else str(n) for n in row.output_shape),
                f"{row.parameters:,}",
                _number(row.multiply_adds),
                "all" if row.receptive_field is None else f"{row.receptive_field} px",
            )
            for row in self.rows
        ]
        total = ("", self.name, "", "", f"{self.parameters:,}", _number(self.multiply_adds), "")
        lines = [header, *body, total]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        form = "  ".join(f"{{:{'<' if i < 4 else '>'}{width}}}" for i, width in enumerate(widths))
        return "\n".join(form.format(*line).rstrip() for line in lines)


def describe(model: keras.Model) -> Description:
    """Describes a model as table 1 of the paper does: `print(describe(model))`.

    Args:
        model: Model from a builder of this package, or one with its layer names.

    Returns:
        `Description` with a row each for the stem, the stages and the head.

    Raises:
        InputError: If the model has none of the layer names.
    """
    parts: dict[str, list[layers.Layer]] = {}
    for layer in model.layers:
        if part := _part(layer.name):
            parts.setdefault(part, []).append(layer)
    if not parts:
        raise InputError(
            "describe() needs a network of this package, with layers such as 'stem_conv'. "
            f"Received: a model named {model.name!r} with the layers "
            f"{', '.join(layer.name for layer in model.layers[:3])}, …"
        )
    rows, field, jump = [], 1, 1
    for part, members in parts.items():
        field, jump = _receptive_field(members, field, jump)
        multiply_adds = [_multiply_adds(layer) for layer in members]
        rows.append(
            Row(
                block=_LETTERS[part],
                stage=part,
                layers=_notation(members),
                output_shape=tuple(members[-1].output.shape[1:]),
                parameters=sum(layer.count_params() for layer in members),
                multiply_adds=None if None in multiply_adds else sum(multiply_adds),  # type: ignore[arg-type]
                receptive_field=None if part == "head" else field,
            )
        )
    return Description(model.name, tuple(rows))


def _part(layer_name: str) -> str | None:
    if layer_name == "predictions":
        return "head"
    match = re.match(r"(stem|stage[1-4]|head)_", layer_name)
    return match[1] if match else None


def _receptive_field(members: list[layers.Layer], field: int, jump: int) -> tuple[int, int]:
    """Follows the main path: each window of size k adds k - 1 steps of the map it slides over."""
    for layer in members:
        if isinstance(layer, layers.Conv2D):
            size = layer.kernel_size[0]
        elif isinstance(layer, layers.MaxPooling2D):
            size = layer.pool_size[0]
        else:
            continue
        if "_shortcut_" not in layer.name:
            field += (size - 1) * jump
            jump *= layer.strides[0]
    return field, jump


def _multiply_adds(layer: layers.Layer) -> int | None:
    if isinstance(layer, layers.Dense):
        return int(np.prod(layer.kernel.shape))
    if isinstance(layer, layers.Conv2D):
        positions = layer.output.shape[1:3]
        return None if None in positions else int(np.prod([*positions, *layer.kernel.shape]))
    return 0


def _notation(members: list[layers.Layer]) -> str:
    """Formats layers as the paper does."""
    blocks: dict[str, list[str]] = {}
    for layer in members:
        if isinstance(layer, layers.Conv2D) and "_shortcut_" not in layer.name:
            block = layer.name.rpartition("_")[0]
            stride = f" /{layer.strides[0]}" if layer.strides[0] > 1 else ""
            side = layer.kernel_size[0]
            blocks.setdefault(block, []).append(f"{side}×{side}, {layer.filters}{stride}")
    if blocks and members[0].name.startswith("stage"):
        convolutions = next(iter(blocks.values()))
        return f"[{'; '.join(convolutions)}] ×{len(blocks)}{_projection(members)}"
    return "; ".join([*(c for block in blocks.values() for c in block), *_other(members)])


def _projection(members: list[layers.Layer]) -> str:
    shortcut = {layer.name.partition("_shortcut_")[2] for layer in members}
    if "conv" not in shortcut:
        return ""
    pool = "2×2 average pool and " if "pool" in shortcut else ""
    return f", the first with a {pool}1×1 shortcut"


def _other(members: list[layers.Layer]) -> Iterator[str]:
    for layer in members:
        if isinstance(layer, layers.MaxPooling2D):
            yield f"{layer.pool_size[0]}×{layer.pool_size[0]} max pool /{layer.strides[0]}"
        elif layer.name == "head_pool":
            yield "max pool" if isinstance(layer, layers.GlobalMaxPooling2D) else "average pool"
        elif isinstance(layer, layers.Dense):
            activation = keras.activations.serialize(layer.activation)
            yield f"{layer.units}-d" + ("" if activation == "linear" else f" {activation}")


def _number(value: Any) -> str:
    return "?" if value is None else f"{value:,}"
