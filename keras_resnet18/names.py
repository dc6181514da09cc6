"""The names that users type and that several rooms share: each list stands here alone."""

from __future__ import annotations

from typing import Literal, get_args

NETWORKS = ("resnet18", "resnet34", "plain18", "plain34")
FITS = ("crop", "pad", "squash")
STEMS = ("imagenet", "small", "small_stride2")
VARIANTS = ("d",)
PRECISIONS = ("auto", "float32", "mixed_float16", "mixed_bfloat16")
RECIPES = ("digits", "small-images", "photos", "finetune")  # recipe/*.toml

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
