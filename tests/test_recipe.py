"""A recipe is complete, checked, and the same after a walk through TOML."""

from __future__ import annotations

import dataclasses

import pytest

from keras_resnet18.errors import InputError
from keras_resnet18.recipe import (
    RECIPES,
    Augment,
    Finetune,
    Network,
    Optimizer,
    Recipe,
    load_recipe,
)


@pytest.mark.parametrize("name", RECIPES)
def test_a_named_recipe_survives_toml(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert Recipe.from_toml(recipe.to_toml()) == recipe


def test_a_recipe_without_a_default_left_survives_toml():
    recipe = Recipe(
        name="größer",
        epochs=3,
        batch_size=7,
        image_size=(96, 128),
        fit="pad",
        crop_ratio=0.9,
        max_value=4095,
        precision="mixed_bfloat16",
        seed=5,
        network=Network("plain34", "small", dropout=0.2),
        patience=3,
        max_minutes=90.5,
        optimizer=Optimizer("adamw", 1e-3, 0.8, 0.05, 0.5, 0.0, "balanced", 1.5),
        augment=Augment((0.25, 1.0), 4, True, 0.3, 0.4, 0.2, 1.0),
        finetune=Finetune("b.pth", 3, 0.1),
    )
    of_variant_d = dataclasses.replace(recipe, network=Network("plain34", "imagenet", "d", 0.2))
    # a variant needs the default stem: two recipes have between them no default left
    for parts, default in (
        ((recipe, recipe), Recipe()),
        ((recipe.network, of_variant_d.network), Network()),
        ((recipe.optimizer,), Optimizer()),
        ((recipe.augment,), Augment()),
        ((recipe.finetune,), Finetune()),
    ):
        for field in dataclasses.fields(default):
            assert {getattr(p, field.name) for p in parts} - {getattr(default, field.name)}
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert Recipe.from_toml(of_variant_d.to_toml()) == of_variant_d


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("epoch = 3", ["no epoch ", "did you mean epochs?"]),
        ("[optimizer]\nlearning_rat = 1", ["optimizer.learning_rat ", "mean learning_rate?"]),
        ("zzz = 3", ["no zzz.", "known here: name, epochs"]),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_name(toml, words):
    with pytest.raises(InputError) as error:
        Recipe.from_toml(toml)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs=0", "epochs must be 1 or more"),
        ("epochs=ten", "epochs must be a whole number"),
        ("finetune.head_epochs=0", "finetune.head_epochs must be 1 or more"),
        ("finetune=imagenet", "finetune must be a table"),
        ("batch_size=1", "batch_size must be 2 or more"),
        ("image_size=16", "image_size must be 32 or more with network.stem='imagenet'"),
        ("image_size=[32]", "image_size must be a whole number or two whole numbers"),
        ("crop_ratio=0", "crop_ratio must be from 0.1 to 1"),
        ("seed=2147483648", "seed must be from 0"),
        ("precision=float16", "precision must be one of auto, float32"),
        ("network.name=resnet81", "did you mean resnet18?"),
        ("network.dropout=1", "network.dropout must be from 0 up to below 1"),
        ("optimizer.name=adam", "did you mean adamw?"),
        ("optimizer.learning_rate=inf", "optimizer.learning_rate must be a number"),
        ("optimizer.momentum=1.0", "optimizer.momentum must be from 0"),
        ("augment.flip=1", "augment.flip must be true or false"),
        ("augment.resized_crop=0.5", "augment.resized_crop must be two numbers"),
        ("augment.resized_crop=[1, 0.5]", "the smaller first"),
    ],
)
def test_a_wrong_value_is_named_with_what_it_should_be(setting, message):
    with pytest.raises(InputError) as error:
        Recipe().changed([setting])
    assert message in str(error.value)
    assert "Received: " in str(error.value)
    assert "\n" not in str(error.value)


def test_a_variant_needs_the_imagenet_stem():
    assert Recipe().changed(["network.variant=d"]).network == Network(variant="d")
    with pytest.raises(InputError, match=r"network.stem must be imagenet for variant d.*small"):
        Recipe().changed(["network.variant=d", "network.stem=small"])


def test_a_recipe_made_in_python_is_checked_the_same_way():
    with pytest.raises(InputError, match="epochs must be a whole number"):
        Recipe(epochs=2.5)
    with pytest.raises(InputError, match="network must be a table"):
        Recipe(network="resnet18")
    augment = Augment(resized_crop=[0.5, 1])
    assert augment == Augment(resized_crop=(0.5, 1.0))
    assert hash(augment) == hash(Augment(resized_crop=(0.5, 1.0)))


def test_settings_change_what_they_name_and_nothing_else():
    recipe = load_recipe("photos")
    changed = recipe.changed(
        ["optimizer.learning_rate=1", " network.stem = small", "augment.resized_crop=[0.5, 1.0]"]
    )
    assert changed == dataclasses.replace(
        recipe,
        network=Network(stem="small"),
        optimizer=dataclasses.replace(recipe.optimizer, learning_rate=1.0),
        augment=dataclasses.replace(recipe.augment, resized_crop=(0.5, 1.0)),
    )
    assert recipe.changed(["epochs=3", " epochs = 3"]).epochs == 3
    assert recipe.changed([]) == recipe


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs", "a setting is key=value"),
        ("epochs.x=3", "epochs is a value, not a table"),
    ],
)
def test_a_setting_that_is_none_is_refused(setting, message):
    with pytest.raises(InputError, match=message):
        Recipe().changed([setting])


def test_a_recipe_comes_from_a_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "größer"\nimage_size = 96\n', encoding="utf-8")
    assert load_recipe(path) == load_recipe(str(path)) == Recipe(name="größer", image_size=96)


@pytest.mark.parametrize("content", [b"epochs = ", b"epoch = 3", b"name = '\xff'"])
def test_a_file_that_is_no_recipe_is_named(tmp_path, content):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"mine\.toml"):
        load_recipe(path)


def test_a_recipe_that_is_not_there_gets_the_nearest_name(tmp_path):
    with pytest.raises(InputError, match=r"digits, small-images.*'digit' \(did you mean digits\?"):
        load_recipe("digit")
    with pytest.raises(InputError, match=r"Received: .*nothing\.toml"):
        load_recipe(tmp_path / "nothing.toml")
