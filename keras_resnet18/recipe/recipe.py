"""A frozen description of one training: what `recipe.toml` holds."""

from __future__ import annotations

import dataclasses
import importlib.resources
import os
import tomllib
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from keras_resnet18.errors import InputError, nearest, one_of, within
from keras_resnet18.names import NETWORKS, PRECISIONS, RECIPES, STEMS, VARIANTS
from keras_resnet18.recipe.schema import (
    check_types,
    from_table,
    toml_value,
    without_none,
)

OPTIMIZERS = ("sgd", "adamw")


@dataclasses.dataclass(frozen=True)
class Network:
    """Which network is built.

    Attributes:
        name: `"resnet18"`, `"resnet34"`, or without shortcuts `"plain18"`, `"plain34"`.
        stem: `"imagenet"`, `"small"` or `"small_stride2"`.
        variant: `"d"` for ResNet-D, with the imagenet stem only; without it the paper's network.
        dropout: Rate before the last layer, from 0 up to but not including 1.
    """

    name: str = "resnet18"
    stem: str = "imagenet"
    variant: str | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_types(self, "network.")
        one_of("network.name", self.name, NETWORKS)
        one_of("network.stem", self.stem, STEMS)
        if self.variant is not None:
            one_of("network.variant", self.variant, VARIANTS)
            fits = self.stem == "imagenet"
            within("network.stem", self.stem, fits, f"imagenet for variant {self.variant}")
        within("network.dropout", self.dropout, 0 <= self.dropout < 1, "from 0 up to below 1")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """How weights follow gradients.

    The learning rate rises linearly from 0 during the warm-up and then falls to 0 along a cosine
    (Loshchilov & Hutter 2017).

    Attributes:
        name: `"sgd"` with Nesterov momentum, or `"adamw"`.
        learning_rate: Its highest value.
        momentum: Of SGD.
        weight_decay: Decoupled, as in Keras: each step takes rate × decay off every weight but
            BatchNorm's and biases. torch's coupled λ at momentum 0.9 is about 10 λ here.
        warmup_epochs: How long the learning rate rises; may be a fraction.
        label_smoothing: Part of each label that is spread over all classes (Szegedy et al. 2016).
    """

    name: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        check_types(self, "optimizer.")
        one_of("optimizer.name", self.name, OPTIMIZERS)
        within("optimizer.learning_rate", self.learning_rate, self.learning_rate > 0, "over 0")
        within("optimizer.momentum", self.momentum, 0 <= self.momentum < 1, "from 0 up to below 1")
        within("optimizer.weight_decay", self.weight_decay, self.weight_decay >= 0, "0 or more")
        within("optimizer.warmup_epochs", self.warmup_epochs, self.warmup_epochs >= 0, "0 or more")
        within(
            "optimizer.label_smoothing",
            self.label_smoothing,
            0 <= self.label_smoothing < 1,
            "from 0 up to below 1",
        )


@dataclasses.dataclass(frozen=True)
class Augment:
    """How training images vary.

    Attributes:
        resized_crop: Least and greatest part of the area of a random window that is resized to
            the network's size; without it the whole image is used.
        shift: Pixels by which the image moves at most, each way.
        flip: Whether half of the images are mirrored.
        erase: Probability, 0 to 1, of covering a random rectangle.
    """

    resized_crop: tuple[float, float] | None = None
    shift: int = 0
    flip: bool = False
    erase: float = 0.0

    def __post_init__(self) -> None:
        check_types(self, "augment.")
        if self.resized_crop is not None:
            low, high = self.resized_crop
            within(
                "augment.resized_crop",
                self.resized_crop,
                0 < low <= high <= 1,
                "two parts of the area, over 0 and up to 1, the lesser first",
            )
        within("augment.shift", self.shift, self.shift >= 0, "0 or more")
        within("augment.erase", self.erase, 0 <= self.erase <= 1, "from 0 to 1")


@dataclasses.dataclass(frozen=True)
class Finetune:
    """How a network that knows other images learns these.

    First the classifier alone, on features that the network computes once; then all weights, by
    the recipe's optimizer and for its epochs, BatchNorm left as it was (Kumar et al. 2022, arXiv
    2202.10054: the second part alone bends good features to a random classifier).

    Attributes:
        weights: A name such as `"imagenet"`, or the path of a checkpoint.
        head_epochs: How often the classifier sees the features.
        head_learning_rate: Of AdamW, falling along a cosine from the start.
    """

    weights: str = "imagenet"
    head_epochs: int = 20
    head_learning_rate: float = 3e-3

    def __post_init__(self) -> None:
        check_types(self, "finetune.")
        within("finetune.head_epochs", self.head_epochs, self.head_epochs >= 1, "1 or more")
        within(
            "finetune.head_learning_rate",
            self.head_learning_rate,
            self.head_learning_rate > 0,
            "over 0",
        )


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A training, complete but for the images.

    Attributes:
        name: For people.
        epochs: How often the training images are seen; 0 fine-tunes the classifier alone.
        batch_size: Images a step.
        image_size: Side of the network's square input in pixels; without it the images' own size,
            where they share one.
        crop_ratio: Part of each side that evaluation keeps, over 0 and up to 1.
        precision: A Keras dtype policy, or `"auto"` for the one that suits the machine.
        seed: Of weights, order and augmentation.
        network: Which network is built.
        optimizer: How weights follow gradients.
        augment: How training images vary.
        finetune: Which weights to begin with, and how; None for random ones.

    Raises:
        InputError: For a value of the wrong type or out of range.
    """

    name: str = "custom"
    epochs: int = 10
    batch_size: int = 128
    image_size: int | None = None
    crop_ratio: float = 1.0
    precision: str = "auto"
    seed: int = 0
    network: Network = dataclasses.field(default_factory=Network)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    augment: Augment = dataclasses.field(default_factory=Augment)
    finetune: Finetune | None = None

    def __post_init__(self) -> None:
        check_types(self, "")
        if self.finetune is None:
            within("epochs", self.epochs, self.epochs >= 1, "1 or more")
        else:
            within("epochs", self.epochs, self.epochs >= 0, "0 (the classifier alone) or more")
        within("batch_size", self.batch_size, self.batch_size >= 2, "2 or more")
        if self.image_size is not None:
            within("image_size", self.image_size, self.image_size >= 8, "8 or more")
        within("crop_ratio", self.crop_ratio, 0 < self.crop_ratio <= 1, "over 0 and up to 1")
        one_of("precision", self.precision, PRECISIONS)
        within("seed", self.seed, 0 <= self.seed < 2**31, "from 0 to 2147483647")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """A recipe from nested tables; what they lack keeps its default.

        Raises:
            InputError: For an unknown key, with the nearest known one, or a wrong value.
        """
        return typing.cast(Recipe, from_table(cls, values, ""))

    @classmethod
    def from_toml(cls, text: str) -> Recipe:
        """The recipe that `to_toml` gave, or one written by hand.

        Raises:
            InputError: If the text is no TOML or no recipe.
        """
        try:
            return cls.from_dict(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise InputError(
                f"a recipe must be TOML. Received: text with an error: {error}"
            ) from None

    def to_toml(self) -> str:
        """The recipe as TOML; `from_toml` gives it back."""
        import tomli_w

        return tomli_w.dumps(without_none(dataclasses.asdict(self)))

    def with_weights(self, weights: str) -> Recipe:
        """The recipe with other weights to fine-tune.

        Raises:
            InputError: If it is for training from scratch.
        """
        if self.finetune is None:
            raise InputError(
                "weights are fine-tuned by a recipe with a [finetune] table: take the recipe "
                f"finetune. Received: recipe {self.name!r} with weights={weights!r}"
            )
        finetune = dataclasses.replace(self.finetune, weights=weights)
        return dataclasses.replace(self, finetune=finetune)

    def changed(self, settings: Iterable[str]) -> Recipe:
        """The recipe with some values set, as the command line's `--set` does.

        Args:
            settings: Such as `"optimizer.learning_rate=0.05"`; values in TOML's notation, where
                words may go without quotes.

        Raises:
            InputError: For a setting that is none.
        """
        table = without_none(dataclasses.asdict(self))
        for setting in settings:
            path, equals, text = setting.partition("=")
            if not equals or not path.strip():
                raise InputError(
                    "a setting is key=value, such as optimizer.learning_rate=0.1. "
                    f"Received: {setting!r}"
                )
            *tables, key = path.strip().split(".")
            target = table
            for name in tables:
                target = target.setdefault(name, {})
                if not isinstance(target, dict):
                    raise InputError(f"{name} is a value, not a table. Received: {setting!r}")
            target[key] = toml_value(text.strip())
        return Recipe.from_dict(table)


def load_recipe(recipe: Recipe | str | os.PathLike[str]) -> Recipe:
    """A recipe by name or from a TOML file; a `Recipe` is returned as it is.

    Raises:
        InputError: If there is no such recipe, or it is none.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if recipe in RECIPES:
        file = importlib.resources.files(__package__) / f"{recipe}.toml"
        return Recipe.from_toml(file.read_text(encoding="utf-8"))
    path = Path(recipe)
    if path.suffix == ".toml" and path.is_file():
        try:
            return Recipe.from_toml(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise InputError(f"a recipe must be TOML in UTF-8. Received: {path}") from None
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    raise InputError(
        f"a recipe is one of {', '.join(RECIPES)}, or the path of a .toml file. "
        f"Received: {os.fspath(recipe)!r}{nearest(str(recipe), RECIPES)}"
    )
