"""Recipe: all settings of a training, read from TOML and validated."""

from __future__ import annotations

import dataclasses
import os
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from keras_resnet18.errors import InputError, check_types, nearest, one_of, path_of, within
from keras_resnet18.preprocess import Preprocess

NETWORKS = ("resnet18", "resnet34", "plain18", "plain34")
SMALLEST_SIDE = {"imagenet": 32, "small": 8, "small_stride2": 8}  # pixels of an image, by stem
STEMS = tuple(SMALLEST_SIDE)
VARIANTS = ("d",)
PRECISIONS = ("auto", "float32", "mixed_float16", "mixed_bfloat16")
OPTIMIZERS = ("sgd", "adamw")
RECIPES = ("digits", "small-images", "photos", "finetune")  # recipes/*.toml

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)

HUB = "hf:"  # prefix of images and runs on the Hugging Face Hub


def on_hub(name: Any) -> typing.TypeGuard[str]:
    """Whether a string, not a `Path`, names something on the Hugging Face Hub."""
    return isinstance(name, str) and name.startswith(HUB)


def hub_name(name: str) -> tuple[str, str | None]:
    """Repository and revision of `hf:OWNER/NAME@REVISION?…`; None for the newest revision."""
    repository, _, revision = name.removeprefix(HUB).partition("?")[0].partition("@")
    return repository, revision or None


# Ranges of numbers, by the words of error messages
_RANGES: dict[str, Callable[[float], bool]] = {
    "over 0": lambda value: value > 0,
    "0 or more": lambda value: value >= 0,
    "1 or more": lambda value: value >= 1,
    "2 or more": lambda value: value >= 2,
    "from 0 to 1": lambda value: 0 <= value <= 1,
    "from 0 up to below 1": lambda value: 0 <= value < 1,
    "from 0 to 2147483647": lambda value: 0 <= value < 2**31,
}


def _check(table: Any, prefix: str, **allowed: str | tuple[str, ...]) -> None:
    """Check the types of all fields, and the given ranges and choices of some."""
    check_types(table, prefix)
    for key, values in allowed.items():
        name, value = f"{prefix}{key}", getattr(table, key)
        if value is None:
            continue
        if isinstance(values, str):
            within(name, value, _RANGES[values](value), values)
        else:
            one_of(name, value, values)


def _from_table(cls: type, values: Mapping[str, Any], prefix: str) -> Any:
    """Make a dataclass from a TOML table, recursively."""
    hints = typing.get_type_hints(cls)
    arguments = {}
    for key, value in values.items():
        if key not in hints:
            raise InputError(
                f"a recipe has no {prefix}{key}{nearest(key, hints)}. "
                f"Received: {prefix}{key}={value!r}; known here: {', '.join(hints)}"
            )
        hint = hints[key]
        if isinstance(hint, types.UnionType):  # X | None
            hint = typing.get_args(hint)[0]
        if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
            arguments[key] = _from_table(typing.cast(type, hint), value, f"{prefix}{key}.")
        else:
            arguments[key] = value
    return cls(**arguments)


def _toml_value(text: str) -> Any:
    """Parse a value in TOML notation; return unquoted words unchanged."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    """Remove None, which TOML cannot express, from nested tables."""
    return {
        key: without_none(value) if isinstance(value, dict) else value
        for key, value in table.items()
        if value is not None
    }


@dataclasses.dataclass(frozen=True)
class Network:
    """The network to build.

    Attributes:
        name: `"resnet18"`, `"resnet34"`, or `"plain18"` and `"plain34"` without shortcuts.
        stem: `"imagenet"`, `"small"` or `"small_stride2"`.
        variant: `"d"` for ResNet-D (imagenet stem only), None for the paper's network.
        dropout: Rate before the last layer, at least 0 and below 1.
    """

    name: str = "resnet18"
    stem: str = "imagenet"
    variant: str | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check(self, "network.", name=NETWORKS)
        check_network(self.stem, self.variant, self.dropout, "network.")


def check_network(stem: str, variant: str | None, dropout: float, prefix: str = "") -> None:
    """Raise InputError for invalid arguments of a builder; `prefix` precedes their names."""
    one_of(f"{prefix}stem", stem, STEMS)
    if variant is not None:
        one_of(f"{prefix}variant", variant, VARIANTS)
        within(f"{prefix}stem", stem, stem == "imagenet", f"imagenet for variant {variant}")
    rate = isinstance(dropout, int | float) and 0 <= dropout < 1
    within(f"{prefix}dropout", dropout, rate, "from 0 up to below 1")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Optimizer, learning rate schedule, and settings of the loss.

    The learning rate rises linearly from 0 during the warm-up, then falls to 0 along a cosine
    (Loshchilov & Hutter 2017).

    Attributes:
        name: `"sgd"` with Nesterov momentum, or `"adamw"`.
        learning_rate: Highest value, at the end of the warm-up.
        momentum: Momentum of SGD, at least 0 and below 1.
        weight_decay: Decoupled weight decay, as in Keras: each step subtracts rate × decay ×
            weight, except from BatchNorm's weights and biases. torch's coupled λ at momentum 0.9
            is about 10 λ here.
        warmup_epochs: Length of the warm-up in epochs, such as 0.5.
        label_smoothing: Fraction of each label spread over all classes (Szegedy et al. 2016).
        class_weights: `"balanced"` weights each class in the loss by the inverse of its number of
            training images, 1 on average; None weights all images equally.
        clip_norm: Largest global norm of the gradient; None for no limit.
    """

    name: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.1
    class_weights: str | None = None
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        _check(
            self,
            "optimizer.",
            name=OPTIMIZERS,
            learning_rate="over 0",
            momentum="from 0 up to below 1",
            weight_decay="0 or more",
            warmup_epochs="0 or more",
            label_smoothing="from 0 up to below 1",
            class_weights=("balanced",),
            clip_norm="over 0",
        )


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random augmentation of training images.

    Attributes:
        resized_crop: Smallest and largest fraction of the image's area in the random window that
            is resized to the network's input (Szegedy et al. 2015); None for the whole image.
        shift: Largest shift in pixels in each direction, filled with black (He et al. 2015 use 4
            for CIFAR).
        flip: Whether half of the images are mirrored left to right.
        erase: Probability, 0 to 1, of covering a random rectangle of 2 to 33 % of the image with
            ImageNet's mean color (Zhong et al. 2017).
        jitter: Largest relative change of brightness, contrast and saturation, 0 to 1.
        mixup: Alpha of the Beta distribution of the proportion in which images and labels are
            mixed (Zhang et al. 2018), such as 0.2; 0 disables it.
        cutmix: The same for rectangles of another image (Yun et al. 2019), such as 1.0. If both
            are set, each is used in half of the batches.
    """

    resized_crop: tuple[float, float] | None = None
    shift: int = 0
    flip: bool = False
    erase: float = 0.0
    jitter: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def mixes(self) -> bool:
        """Whether mixup or CutMix mixes images in pairs."""
        return bool(self.mixup or self.cutmix)

    def __post_init__(self) -> None:
        _check(
            self,
            "augment.",
            shift="0 or more",
            erase="from 0 to 1",
            jitter="from 0 to 1",
            mixup="0 or more",
            cutmix="0 or more",
        )
        if self.resized_crop is not None:
            low, high = self.resized_crop
            within(
                "augment.resized_crop",
                self.resized_crop,
                0 < low <= high <= 1,
                "two fractions of the area, over 0 and up to 1, the smaller first",
            )


@dataclasses.dataclass(frozen=True)
class Finetune:
    """Fine-tuning: first a linear probe, then all weights (Kumar et al. 2022, arXiv 2202.10054).

    The linear probe trains the head on features that are computed once. Then all weights are
    trained with the recipe's optimizer and epochs, and BatchNorm in inference mode. Without the
    linear probe, a random head distorts the pretrained features.

    Attributes:
        weights: Pretrained weights: a name such as `"imagenet"`, or the path of a checkpoint or
            run.
        head_epochs: Epochs of the linear probe.
        head_learning_rate: Highest learning rate of the linear probe (AdamW, cosine, no warm-up).
    """

    weights: str = "imagenet"
    head_epochs: int = 20
    head_learning_rate: float = 3e-3

    def __post_init__(self) -> None:
        _check(self, "finetune.", head_epochs="1 or more", head_learning_rate="over 0")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All settings of a training; with the images, they determine the result.

    Raises InputError for a value of the wrong type or out of range.

    Attributes:
        name: Name of the recipe.
        epochs: Passes over the training images; in fine-tuning, 0 for only the linear probe.
        batch_size: Images per step, 2 or more.
        image_size: Side of the network's square input in pixels, or (height, width), at least
            `SMALLEST_SIDE`; None for the size of the images, if all have the same.
        fit: How to fit images of another aspect ratio: `"crop"`, `"pad"` or `"squash"`, as in
            `Preprocess`; None for that of published weights, otherwise `"crop"`.
        crop_ratio: Fraction of each side that evaluation keeps, 0.1 to 1; None for that of
            published weights, 0.875 for other pretrained weights, 1 from scratch.
        max_value: Value of white in 16-bit gray files, 1 to 65,535, such as 4,095 for 12-bit data;
            None for that of published weights, otherwise 65,535.
        precision: A Keras dtype policy, or `"auto"` for `recommended_policy()`.
        seed: Seed of initial weights, order and augmentation, 0 to 2**31 - 1.
        patience: Epochs without improvement after which the training ends, after the linear probe;
            None to train all epochs.
        max_minutes: Minutes after which the training ends, between two steps, and keeps its best
            epoch so far; None for no limit. Unlike all other settings, not reproducible.
        network: The network to build.
        optimizer: Optimizer, learning rate schedule, and settings of the loss.
        augment: Random augmentation of training images.
        finetune: Pretrained weights and the linear probe; None to train from scratch.
    """

    name: str = "custom"
    epochs: int = 10
    batch_size: int = 128
    image_size: int | tuple[int, int] | None = None
    fit: str | None = None
    crop_ratio: float | None = None
    max_value: int | None = None
    precision: str = "auto"
    seed: int = 0
    patience: int | None = None
    max_minutes: float | None = None
    network: Network = dataclasses.field(default_factory=Network)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    augment: Augment = dataclasses.field(default_factory=Augment)
    finetune: Finetune | None = None

    def __post_init__(self) -> None:
        _check(
            self,
            "",
            epochs="1 or more" if self.finetune is None else "0 or more",
            batch_size="2 or more",
            precision=PRECISIONS,
            seed="from 0 to 2147483647",
            patience="1 or more",
            max_minutes="over 0",
        )
        if self.input_size is not None:
            least, stem = SMALLEST_SIDE[self.network.stem], self.network.stem
            allowed = f"{least} or more with network.stem={stem!r}"
            within("image_size", self.image_size, min(self.input_size) >= least, allowed)
        given = {key: getattr(self, key) for key in ("fit", "crop_ratio", "max_value")}
        Preprocess(**without_none({"size": self.input_size, **given}))  # checks their ranges

    @property
    def input_size(self) -> tuple[int, int] | None:
        """(height, width) of the network's input; None for the size of the images."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else size

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Make a recipe from nested tables, or raise InputError; missing keys take defaults."""
        return typing.cast(Recipe, _from_table(cls, values, ""))

    @classmethod
    def from_toml(cls, text: str) -> Recipe:
        """Parse a recipe, or raise InputError if the text is not TOML or not a recipe."""
        try:
            return cls.from_dict(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise InputError(
                f"a recipe must be TOML. Received: text with an error: {error}"
            ) from None

    def to_toml(self) -> str:
        """Format the recipe as TOML."""
        import tomli_w

        return tomli_w.dumps(without_none(dataclasses.asdict(self)))

    def with_weights(self, weights: str) -> Recipe:
        """Copy the recipe with other weights; raises InputError if it trains from scratch."""
        if self.finetune is None:
            raise InputError(
                "weights need a recipe with a [finetune] table: use the recipe finetune. "
                f"Received: recipe {self.name!r} with weights={weights!r}"
            )
        finetune = dataclasses.replace(self.finetune, weights=weights)
        return dataclasses.replace(self, finetune=finetune)

    def changed(self, settings: Iterable[str]) -> Recipe:
        """Copy the recipe with some values changed, as with `--set` of the command line.

        Args:
            settings: Strings `"KEY=VALUE"`, such as `"optimizer.learning_rate=0.05"`, with values
                in TOML notation; strings need no quotes.

        Raises:
            InputError: For a setting without `=`, an unknown key, a wrong value, or two values.
        """
        table = without_none(dataclasses.asdict(self))
        given: dict[str, str] = {}
        for setting in settings:
            path, equals, text = map(str.strip, str(setting).partition("="))
            if not equals or not path:
                raise InputError(
                    "a setting is key=value, such as optimizer.learning_rate=0.1. "
                    f"Received: {setting!r}"
                )
            if given.setdefault(path, text) != text:
                raise InputError(f"{path} must be given once. Received: {given[path]} and {text}")
            *tables, key = path.split(".")
            target = table
            for name in tables:
                target = target.setdefault(name, {})
                if not isinstance(target, dict):
                    raise InputError(f"{name} is a value, not a table. Received: {setting!r}")
            target[key] = _toml_value(text)
        return Recipe.from_dict(table)


def load_recipe(recipe: Recipe | str | os.PathLike[str]) -> Recipe:
    """Load a recipe.

    Args:
        recipe: Its name, the path of a TOML file, or a `Recipe`, which is returned unchanged.

    Raises:
        InputError: If there is no such recipe, or the file is not a valid one.
    """
    if isinstance(recipe, Recipe):
        return recipe
    path = path_of(recipe, "a Recipe, the name of one, or the path of a .toml file")
    if recipe in RECIPES:
        path = Path(__file__).with_name("recipes") / f"{recipe}.toml"
    elif path.suffix != ".toml" or not path.is_file():
        missing = ", which is not there" if path.suffix == ".toml" else ""
        raise InputError(
            f"a recipe is one of {', '.join(RECIPES)}, or the path of a .toml file. "
            f"Received: {os.fspath(recipe)!r}{missing or nearest(str(recipe), RECIPES)}"
        )
    try:
        return Recipe.from_toml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise InputError(f"a recipe must be TOML in UTF-8. Received: {path}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
