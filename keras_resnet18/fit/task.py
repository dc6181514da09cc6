"""Task: the inputs of a training, chosen for a new one or read back for an unfinished one."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console

from keras_resnet18.checking.findings import Finding
from keras_resnet18.checking.images import AnySource, Images, look_again, open_again, opened
from keras_resnet18.data.folds import Folds, fold_source, whole_source
from keras_resnet18.data.pipeline import steps_per_epoch
from keras_resnet18.data.splits import Source, Split
from keras_resnet18.distributed import check_batch
from keras_resnet18.errors import InputError
from keras_resnet18.machine import (
    Recommendation,
    device_count,
    device_name,
    environment,
    recommended_policy,
)
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.recipe import HUB, Recipe, hub_name, load_recipe, on_hub, without_none
from keras_resnet18.run import DEFAULT_FOLDER, Run, load_run
from keras_resnet18.spec import ClassifierSpec
from keras_resnet18.weights.catalogue import find_weights
from keras_resnet18.weights.checkpoints import is_name

# Up to this side in pixels, the imagenet stem would leave too little of an image.
_SMALL_SIDE = 64

# Settings (prefixes of the keys of `_flat`) that may change before a training is resumed, though
# the result is then not bit-equal to that of an uninterrupted training
_CHANGES_BITS = ("threads", "cpu", "settings", "packages", "sharing")

# Settings that do not affect the weights. Test images are among them, so that a training that
# stopped at a broken test image can go on once the image is repaired or deleted.
_TEST = "images.test"
_IRRELEVANT = (_TEST, "source", "device", "precision_reason", "python", "platform", "findings")

# Settings in which the processes of one training may differ
_OWN = ("source", "device", "precision_reason", "platform", "cpu", "cpu_flags", "threads")


@dataclasses.dataclass(frozen=True)
class Task:
    """All inputs of a training.

    Raises InputError if the devices cannot share a batch, or class weights cannot be computed.
    """

    images: Images
    recipe: Recipe
    preprocess: Preprocess  # for evaluation, with the network's input size
    policy: Recommendation
    fold: int | None = None  # the one that this training leaves out, from 0

    @cached_property
    def source(self) -> Source:
        """The images; 16-bit files are scaled by `preprocess.max_value`."""
        return self.images.source.scaled(self.preprocess.max_value)

    def __post_init__(self) -> None:
        self.class_weights  # noqa: B018  # raises if they cannot be computed
        check_batch(self.batch_size, mixes=self.recipe.augment.mixes)

    @property
    def held_out(self) -> Split | None:
        """Validation images; None where all images train."""
        all_train = self.images.folds is not None and self.fold is None
        return None if all_train else self.source.splits["validation"]

    def folded(self, number: int) -> Task:
        """The task of the training that leaves a fold out."""
        assert self.images.folds is not None
        source = fold_source(self.images.source, self.images.folds, number)
        images = dataclasses.replace(self.images, source=source)
        return dataclasses.replace(self, images=images, fold=number)

    @property
    def batch_size(self) -> int:
        """Images per step: the recipe's, or the size of a smaller training set."""
        return min(self.recipe.batch_size, self.source.splits["train"].size)

    @property
    def steps_per_epoch(self) -> int:
        """Training batches per epoch."""
        return steps_per_epoch(self.source.splits["train"].size, self.batch_size)

    @property
    def class_weights(self) -> list[float] | None:
        """Inverse frequency of each class, 1 on average over images; None without weighting."""
        if self.recipe.optimizer.class_weights is None:
            return None
        labels = self.source.splits["train"].labels
        if labels is None:
            raise InputError(
                "class_weights='balanced' needs a source whose labels are known before its images "
                f"are read: export it as a folder, or leave it out. Received: {self.source.name}"
            )
        counts = np.bincount(labels, minlength=len(self.source.classes))
        weights: list[float] = (len(labels) / len(counts) / counts).tolist()
        return weights

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Everything that the trained weights depend on, as JSON values."""
        values = {
            "recipe": dataclasses.asdict(self.recipe),
            "classes": self.source.classes,
            "preprocess": dataclasses.asdict(self.preprocess),
            "environment": {
                "source": self.source.spec,
                **self.images.facts,
                "images": {name: split.facts() for name, split in self.source.splits.items()},
                "device": device_name(),
                "sharing": device_count(),
                "backend": keras.config.backend(),
                "precision": self.policy,
                "precision_reason": self.policy.reason,
                **environment(),
            },
        }
        plain: dict[str, Any] = json.loads(json.dumps(values))  # lists instead of tuples
        return plain

    def spec(self, threshold: float | None = None) -> ClassifierSpec:
        """Specification of the trained classifier."""
        return ClassifierSpec(self.source.classes, self.preprocess, threshold)

    def write(self, run: Run) -> None:
        """Write the files that explain a run; the recipe is last, and marks them complete."""
        run.write_json(run.environment_file, self.settings["environment"])
        run.write_text(run.spec_file, self.spec().to_json())
        run.write_text(run.recipe_file, self.recipe.to_toml())


def new_task(
    open_images: Callable[[Console], Images],
    recipe: Recipe | str | os.PathLike[str] | None,
    weights: str | None,
    settings: Sequence[str],
    console: Console,
) -> Task:
    """Open the images, and fill in the arguments that were not given."""
    if on_hub(weights):
        load_run(weights)  # raises if there is none
    elif weights is not None and not is_name(weights) and not Path(weights).exists():
        raise InputError(
            "weights must be a published name, or the path of a checkpoint or a run. "
            f"Received: {weights!r}, which is not there"
        )
    if recipe is None and weights is not None:
        recipe = "finetune"
    if recipe is None:  # refuse wrong settings before opening the images, which may take minutes
        _check_settings(settings)
    else:
        recipe = load_recipe(recipe)
        recipe = recipe if weights is None else recipe.with_weights(weights)
        if (run := run_of_weights(recipe)) is not None:
            network = dataclasses.replace(run.recipe.network, dropout=recipe.network.dropout)
            recipe = dataclasses.replace(recipe, network=network, image_size=run.preprocess.size)
        recipe = recipe.changed(settings)
    images = open_images(console)
    recipe = recipe or load_recipe(default_recipe(images.source)).changed(settings)
    run = run_of_weights(recipe)
    if recipe.finetune is not None and (run or not is_name(recipe.finetune.weights)):
        path = Path(recipe.finetune.weights).expanduser().absolute()
        recipe = recipe.with_weights(run.origin if run and run.origin else str(path))
    early = {key: getattr(recipe, key) for key in ("patience", "max_minutes")}
    if images.folds is not None and any(early.values()):
        raise InputError(
            "with folds every training has the recipe's whole length: leave out patience and "
            f"max_minutes. Received: {without_none(early)}"
        )
    policy = Recommendation(recipe.precision, "as the recipe says")
    if policy == "auto":
        policy = recommended_policy()
    return Task(images, recipe, _preprocess(recipe, run, images.source), policy)


def _check_settings(settings: Sequence[str]) -> None:
    """Raise InputError if none of the default recipes accepts the settings."""
    for name in ("digits", "small-images"):
        with contextlib.suppress(InputError):
            load_recipe(name).changed(settings)
            return
    load_recipe("photos").changed(settings)


def old_task(training: Run, source: AnySource | None, console: Console) -> Task:
    """Read back the task of an unfinished training; `source` is where its images have moved."""
    facts = training.environment
    seed, left_out = facts.get("split_seed", 0), facts.get("left_out", {})
    findings = tuple(Finding(**one) for one in facts.get("findings", ()))
    folds = Folds.from_dict(facts["folds"]) if "folds" in facts else None
    if source is None and training.source is None:
        raise InputError(
            f"the images of {training.path} came from arrays: give them again, as "
            "train(from_arrays(…), resume=…)"
        )
    try:
        found = open_again(training) if source is None else opened(source, seed, left_out)
        if folds is not None and source is not None:
            found = whole_source(found)
    except InputError as error:
        raise InputError(f"{error} If the images have moved, give the source as well") from None
    if found.splits["test"].facts() != facts["images"]["test"]:
        findings = look_again(found, facts.get("compared_by"), console)
    return Task(
        Images(found, seed, left_out, findings, compared_by=facts.get("compared_by"), folds=folds),
        training.recipe,
        training.preprocess,
        Recommendation(facts["precision"], facts["precision_reason"]),
    )


def check_unchanged(
    before: Mapping[str, Any], now: Mapping[str, Any], run: Run, console: Console
) -> None:
    """Compare `Task.settings` of an unfinished training with those that it would go on with.

    Prints a line if the test images differ, and one for each difference that changes the result
    only by rounding. Raises InputError for any other difference.
    """
    old, new = _flat(before), _flat(now)
    if old.get(f"{_TEST}.sha256") != new.get(f"{_TEST}.sha256"):
        what = _difference(f"{_TEST}.sha256", old, new)
        console.print(
            f"the test accuracy will be of other images than when the training began: {what}"
        )
    for key in dict.fromkeys([*old, *new]):
        if old.get(key) == new.get(key) or key.startswith(_IRRELEVANT):
            continue
        what = _difference(key, old, new)
        if not key.startswith(_CHANGES_BITS):
            raise InputError(
                f"{run.path} cannot go on: its training was given something else. Received: "
                f"{what}. Restore that, or train again with overwrite=True"
            )
        console.print(
            f"the result will differ from an uninterrupted training's in rounding: {what}"
        )


def same_everywhere(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flat settings that must be equal on all machines that train together."""
    return {key: value for key, value in _flat(settings).items() if key not in _OWN}


def _difference(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Describe one changed setting."""
    if not key.startswith("images."):
        return f"{key}: {old.get(key)}, now {new.get(key)}"
    split = key.removesuffix(".n").removesuffix(".sha256")
    before, now = old.get(f"{split}.n", "no"), new.get(f"{split}.n", "no")
    return f"{split}: {before} images, now {now} {'images' if before != now else 'others'}"


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten settings: `{"environment": {"a": {"b": 1}}}` becomes `{"a.b": 1}`."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            found |= _flat(value, "" if key == "environment" else f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def default_out(source: AnySource) -> Path:
    """Default folder of a run, named after its images."""
    name = source.spec or source.name if isinstance(source, Source) else os.fspath(source)
    if on_hub(name):
        name = HUB + hub_name(name)[0]
    elif not name.startswith("tfds:"):
        name = Path(name).resolve().name if Path(name).is_dir() else Path(name).name
    return DEFAULT_FOLDER / (name.replace(":", "-").replace("/", "-") or "run")


def check_outside(out: Path, source: AnySource) -> None:
    """Raise InputError if the run would be in the folder of images, as another class."""
    name = (source.spec or "") if isinstance(source, Source) else source
    # realpath(), because resolve() fails on a link to itself
    folder = Path(os.path.realpath(Path(name).expanduser()))
    if name and folder.is_dir() and Path(os.path.realpath(out)).is_relative_to(folder):
        raise InputError(
            f"a run must be outside of its folder of images. Received: {out}, in {folder}: give "
            "another out=FOLDER"
        )


def default_recipe(source: Source) -> str:
    """Name of the recipe that suits these images."""
    if source.spec == "digits":
        return "digits"
    small = source.image_size is not None and max(source.image_size) <= _SMALL_SIDE
    return "small-images" if small else "photos"


def run_of_weights(recipe: Recipe) -> Run | None:
    """The run whose network is fine-tuned; None for other weights or none."""
    weights = None if recipe.finetune is None else recipe.finetune.weights
    if weights is None or not (on_hub(weights) or Run(Path(weights)).recipe_file.is_file()):
        return None
    return load_run(weights)


def _preprocess(recipe: Recipe, run: Run | None, source: Source) -> Preprocess:
    """Preprocessing of the pretrained weights, or the default, with the recipe's own values."""
    size = recipe.input_size or source.image_size
    if size is None:
        raise InputError(
            "a recipe needs image_size unless all images have one size. "
            f"Received: recipe {recipe.name!r} without; add settings='image_size=32'"
        )
    if recipe.finetune is None:
        preprocess = Preprocess(crop_ratio=1.0)
    elif run is not None:
        preprocess = run.preprocess
    elif is_name(recipe.finetune.weights):
        preprocess = find_weights(recipe.finetune.weights).preprocess
    else:
        preprocess = Preprocess()
    own = {key: getattr(recipe, key) for key in ("crop_ratio", "fit", "max_value")}
    return dataclasses.replace(preprocess, size=size, **without_none(own))
