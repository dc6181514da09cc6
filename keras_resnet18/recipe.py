"""A frozen description of one training: what `recipe.toml` holds."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.resources
import math
import os
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from keras_resnet18.errors import InputError

NETWORKS = ("resnet18", "resnet34", "plain18", "plain34")
STEMS = ("imagenet", "small", "small_stride2")
OPTIMIZERS = ("sgd", "adamw")
RECIPES = ("digits", "small-images", "photos")  # recipes/*.toml
PRECISIONS = ("auto", "float32", "mixed_float16", "mixed_bfloat16")


@dataclasses.dataclass(frozen=True)
class Network:
    """Which network is built.

    Attributes:
        name: `"resnet18"`, `"resnet34"`, or without shortcuts `"plain18"`, `"plain34"`.
        stem: `"imagenet"`, `"small"` or `"small_stride2"`.
        dropout: Rate before the last layer, from 0 up to but not including 1.
    """

    name: str = "resnet18"
    stem: str = "imagenet"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check_types(self, "network.")
        _one_of("network.name", self.name, NETWORKS)
        _one_of("network.stem", self.stem, STEMS)
        _within("network.dropout", self.dropout, 0 <= self.dropout < 1, "from 0 up to below 1")


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
        _check_types(self, "optimizer.")
        _one_of("optimizer.name", self.name, OPTIMIZERS)
        _within("optimizer.learning_rate", self.learning_rate, self.learning_rate > 0, "over 0")
        _within("optimizer.momentum", self.momentum, 0 <= self.momentum < 1, "from 0 up to below 1")
        _within("optimizer.weight_decay", self.weight_decay, self.weight_decay >= 0, "0 or more")
        _within("optimizer.warmup_epochs", self.warmup_epochs, self.warmup_epochs >= 0, "0 or more")
        _within(
            "optimizer.label_smoothing",
            self.label_smoothing,
            0 <= self.label_smoothing < 1,
            "from 0 up to below 1",
        )


@dataclasses.dataclass(frozen=True)
class Augment:
    """How training pictures vary.

    Attributes:
        resized_crop: Least and greatest part of the area of a random window that is resized to
            the network's size; without it the whole picture is used.
        shift: Pixels by which the picture moves at most, each way.
        flip: Whether half of the pictures are mirrored.
        erase: Probability, 0 to 1, of covering a random rectangle.
    """

    resized_crop: tuple[float, float] | None = None
    shift: int = 0
    flip: bool = False
    erase: float = 0.0

    def __post_init__(self) -> None:
        _check_types(self, "augment.")
        if self.resized_crop is not None:
            low, high = self.resized_crop
            _within(
                "augment.resized_crop",
                self.resized_crop,
                0 < low <= high <= 1,
                "two parts of the area, over 0 and up to 1, the lesser first",
            )
        _within("augment.shift", self.shift, self.shift >= 0, "0 or more")
        _within("augment.erase", self.erase, 0 <= self.erase <= 1, "from 0 to 1")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A training, complete but for the pictures.

    Attributes:
        name: For people.
        epochs: How often the training pictures are seen.
        batch_size: Pictures a step.
        image_size: Side of the network's square input in pixels; without it the pictures' own size,
            where they share one.
        crop_ratio: Part of each side that evaluation keeps, over 0 and up to 1.
        precision: A Keras dtype policy, or `"auto"` for the one that suits the machine.
        seed: Of weights, order and augmentation.
        network: Which network is built.
        optimizer: How weights follow gradients.
        augment: How training pictures vary.

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

    def __post_init__(self) -> None:
        _check_types(self, "")
        _within("epochs", self.epochs, self.epochs >= 1, "1 or more")
        _within("batch_size", self.batch_size, self.batch_size >= 2, "2 or more")
        if self.image_size is not None:
            _within("image_size", self.image_size, self.image_size >= 8, "8 or more")
        _within("crop_ratio", self.crop_ratio, 0 < self.crop_ratio <= 1, "over 0 and up to 1")
        _one_of("precision", self.precision, PRECISIONS)
        _within("seed", self.seed, 0 <= self.seed < 2**31, "from 0 to 2147483647")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """A recipe from nested tables; what they lack keeps its default.

        Raises:
            InputError: For an unknown key, with the nearest known one, or a wrong value.
        """
        return typing.cast(Recipe, _from_table(cls, values, ""))

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

        return tomli_w.dumps(_without_none(dataclasses.asdict(self)))

    def changed(self, settings: Iterable[str]) -> Recipe:
        """The recipe with some values set, as the command line's `--set` does.

        Args:
            settings: Such as `"optimizer.learning_rate=0.05"`; values in TOML's notation, where
                words may go without quotes.

        Raises:
            InputError: For a setting that is none.
        """
        table = _without_none(dataclasses.asdict(self))
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
            target[key] = _toml_value(text.strip())
        return Recipe.from_dict(table)


def load_recipe(recipe: Recipe | str | os.PathLike[str]) -> Recipe:
    """A recipe by name or from a TOML file; a `Recipe` is returned as it is.

    Raises:
        InputError: If there is no such recipe, or it is none.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if recipe in RECIPES:
        file = importlib.resources.files("keras_resnet18") / "recipes" / f"{recipe}.toml"
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
        f"Received: {os.fspath(recipe)!r}{_nearest(str(recipe), RECIPES)}"
    )


def _from_table(cls: type, values: Mapping[str, Any], prefix: str) -> Any:
    """A recipe's dataclass from a table, and those in it from the tables in it."""
    hints = typing.get_type_hints(cls)
    arguments = {}
    for key, value in values.items():
        if key not in hints:
            raise InputError(
                f"a recipe has no {prefix}{key}{_nearest(key, hints)}. "
                f"Received: {prefix}{key}={value!r}; known here: {', '.join(hints)}"
            )
        hint = hints[key]
        if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
            arguments[key] = _from_table(typing.cast(type, hint), value, f"{prefix}{key}.")
        else:
            arguments[key] = value
    return cls(**arguments)


def _check_types(table: Any, prefix: str) -> None:
    """Checks each value of a recipe's dataclass against its annotation."""
    for key, hint in typing.get_type_hints(type(table)).items():
        value = _typed(f"{prefix}{key}", hint, getattr(table, key))
        object.__setattr__(table, key, value)  # frozen; 1 becomes 1.0 and a list a pair


def _typed(name: str, hint: Any, value: Any) -> Any:
    """`value` as the annotation asks: a whole number may stand for a float, a list for a pair."""
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is tuple:
        items = typing.get_args(hint)
        if isinstance(value, list | tuple) and len(value) == len(items):
            return tuple(_typed(name, item, v) for item, v in zip(items, value, strict=True))
    elif hint is float:
        if type(value) in (int, float) and math.isfinite(value):
            return float(value)
    elif type(value) is hint:
        return value
    kind = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}
    expected = kind.get(hint, "a table" if dataclasses.is_dataclass(hint) else "two numbers")
    raise InputError(f"{name} must be {expected}. Received: {name}={value!r}")


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    """TOML has no null: what is None is left out, and stays at its default."""
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in table.items()
        if value is not None
    }


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(
            f"{name} must be one of {', '.join(allowed)}{_nearest(value, allowed)}. "
            f"Received: {name}={value!r}"
        )


def _within(name: str, value: Any, condition: bool, allowed: str) -> None:
    if not condition:
        raise InputError(f"{name} must be {allowed}. Received: {name}={value!r}")


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
