"""`hf:OWNER/NAME`: datasets of the Hugging Face Hub are trained on, and runs in it are opened."""

from __future__ import annotations

import dataclasses
import io
import shutil
import sys

import numpy as np
import pytest
from huggingface_hub import ModelCard
from huggingface_hub.utils import close_session
from PIL import Image
from rich.console import Console

import keras_resnet18 as kr
from keras_resnet18.checking.images import look, open_again
from keras_resnet18.data.folds import fold_source
from keras_resnet18.errors import InputError
from keras_resnet18.fit import train as trainer
from keras_resnet18.images import decode_image
from keras_resnet18.recipe import Finetune
from keras_resnet18.reports.card import write_card
from keras_resnet18.run import Run

CLASSES = ("ant", "bee")
QUIET = Console(quiet=True)


@pytest.fixture
def datasets(hub, tmp_path, monkeypatch):
    """The package `datasets`, which asks the Hub too."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    url = f"{hub.url}/datasets/{{repo_id}}/resolve/{{revision}}/{{path}}"
    monkeypatch.setattr(datasets.config, "HUB_DATASETS_URL", url)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(datasets.config, "USE_PARQUET_EXPORT", False)
    return datasets


def image_bytes(number, *, side=16, format="PNG", **options):
    pixels = np.random.default_rng(number).integers(0, 255, (side, side + 4, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def parquet(datasets, images, labels, label=None, image="image", **columns):
    """A parquet file with the columns image, or of another name, and label, and others."""
    label = datasets.ClassLabel(names=list(CLASSES)) if label is None else datasets.Value(label)
    features = {image: datasets.Image(), "label": label}
    features |= {name: feature for name, (feature, _) in columns.items()}
    values = {image: [x and {"bytes": x, "path": None} for x in images], "label": labels}
    values |= {name: content for name, (_, content) in columns.items()}
    file = io.BytesIO()
    datasets.Dataset.from_dict(values, features=datasets.Features(features)).to_parquet(file)
    return file.getvalue()


def pixels_of(split):
    return [image for image, _ in split.elements(None, 0).map(split.fetch).as_numpy_iterator()]


def test_a_dataset_has_its_splits_and_lacks_none(hub, datasets):
    images = [image_bytes(i) for i in range(40)]
    validation = parquet(datasets, [*images[:3], None, images[5]], [1, 0, -1, 1, 1])
    files = {"train.parquet": parquet(datasets, images, [0, 1] * 20)}
    commit = hub.commit("datasets/me/insects", files | {"validation.parquet": validation})
    source = kr.open_source("hf:me/insects")
    assert source.spec == f"hf:me/insects@{commit}"
    assert source.classes == CLASSES and source.image_size == (16, 20)
    assert source.splits["validation"].labels.tolist() == [1, 0, 1]
    assert source.splits["test"].size > 0
    assert source.splits["train"].size + source.splits["test"].size == 40
    assert source.notes == ("ignored 2 rows without an image or a label",)
    assert "about 10 % of 'train' by hash" in source.split_notes[0]
    found = pixels_of(source.splits["validation"])
    expected = [decode_image(images[i]) for i in (0, 1, 5)]
    np.testing.assert_array_equal(found, expected)


def test_image_folders_are_decoded_as_files_are(hub, datasets):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned
    grey = io.BytesIO()
    Image.fromarray(np.full((9, 9), 2000, np.uint16)).save(grey, "PNG")
    files = {
        "train/ant/0.jpg": image_bytes(0, format="JPEG"),
        "train/ant/1.jpg": image_bytes(1, format="JPEG", exif=exif),
        "train/bee/0.png": grey.getvalue(),
        "train/bee/1.jpg": image_bytes(3, side=40, format="JPEG"),
        **{f"{split}/{c}/0.png": image_bytes(7) for split in ("val", "test") for c in CLASSES},
    }
    hub.commit("datasets/me/photos", files)
    source = kr.open_source("hf:me/photos")
    assert source.image_size is None and source.split_notes[0].startswith("train: 'train'")
    for image, expected in zip(pixels_of(source.splits["train"]), files.values(), strict=False):
        np.testing.assert_array_equal(image, decode_image(expected))
    assert [image.shape[:2] for image in pixels_of(source.splits["train"])][1] == (20, 16)
    scaled = pixels_of(source.scaled(4095).splits["train"])[2]
    np.testing.assert_array_equal(scaled, decode_image(grey.getvalue(), max_value=4095))
    assert scaled.max() > 100 > pixels_of(source.splits["train"])[2].max()


@pytest.fixture
def insects(hub, datasets):
    """A function that commits a dataset of 40 images, others for each seed."""

    def commit(seed=0, labels=(0, 1) * 20, **columns):
        images = [image_bytes(1000 * seed + i) for i in range(40)]
        content = parquet(datasets, images, labels, **columns)
        return hub.commit("datasets/me/insects", {"train.parquet": content})

    return commit


def test_a_commit_is_opened_again_whatever_came_later(hub, insects, datasets, tmp_path):
    first = insects(0)
    source = kr.open_source("hf:me/insects")
    second = insects(1)
    newer, older = kr.open_source("hf:me/insects"), kr.open_source(source.spec)
    facts = [one.splits["test"].facts() for one in (source, older, newer)]
    assert (older.spec, newer.spec) == (f"hf:me/insects@{first}", f"hf:me/insects@{second}")
    assert facts[0] == facts[1] != facts[2]
    hub.close()  # and the cache has two
    close_session()
    with pytest.raises(InputError, match=f"the cache has the commit {second}"):
        kr.open_source(source.spec)
    assert kr.open_source(newer.spec).splits["test"].facts() == facts[2]
    assert kr.open_source("hf:me/insects").spec == newer.spec
    with pytest.raises(InputError, match="'hf:me/insects@old'"):
        kr.open_source("hf:me/insects@old")


def test_folds_leave_every_row_out_once(insects):
    insects()
    images = look("hf:me/insects", QUIET, split_seed=0, on_bad_image="raise", dedupe=False, folds=4)
    pool = pixels_of(images.source.pool())
    out = [fold_source(images.source, images.folds, i).splits["test"] for i in range(4)]
    assert sorted(image.tobytes() for split in out for image in pixels_of(split)) == sorted(
        image.tobytes() for image in pool
    )
    assert len(pool) == 40 and all(split.size == 10 for split in out)


@pytest.mark.parametrize(
    ("label", "values", "classes"),
    [("string", ["b", "a"] * 20, ("a", "b")), ("int8", [10, 9] * 20, ("9", "10"))],
)
def test_text_and_whole_numbers_name_classes(insects, label, values, classes):
    insects(labels=values, label=label)
    source = kr.open_source("hf:me/insects")
    assert source.classes == classes
    assert source.splits["train"].labels[0] == 1


def test_columns_are_named_where_their_types_do_not_tell(hub, datasets):
    images = [image_bytes(i) for i in range(40)]
    masks = (datasets.Image(), [{"bytes": x, "path": None} for x in images[::-1]])
    columns = {"mask": masks, "coarse": (datasets.Value("string"), ["x", "y"] * 20)}
    columns["weight"] = (datasets.Value("float32"), [1.0] * 40)
    content = parquet(datasets, images, [0, 1] * 20, image="photo", **columns)
    hub.commit("datasets/me/scans", {"train.parquet": content})
    source = kr.open_source("hf:me/scans?image=mask")
    assert source.classes == CLASSES and source.spec.endswith("?image=mask")
    assert kr.open_source("hf:me/scans?label=coarse&image=photo").classes == ("x", "y")
    for query, message in {
        "": r"\?image=COLUMN.*'photo', 'mask' for image",
        "?image=label": "none for image",
        "?image=mask&label=weight": r"\?label=COLUMN.*none for label",
        "?image=mask&split=x": "config, image, label",
        "?config=other": "BuilderConfig 'other' not found",
    }.items():
        with pytest.raises(InputError, match=message) as error:
            kr.open_source(f"hf:me/scans{query}")
        assert "\n" not in str(error.value)


def test_what_cannot_be_opened_is_one_line(hub, insects, datasets, monkeypatch):
    insects()
    hub.commit("datasets/me/tests", {"test.parquet": parquet(datasets, [image_bytes(0)], [0])})
    hub.commit("datasets/me/secret", {})
    hub.gated.add("datasets/me/secret")
    hub.commit("datasets/me/words", {"train.csv": b"text,label\nhello,1\n"})
    messages = {
        "hf:me/nothing": "Repository Not Found",
        "hf:me/insects@nothing": "Revision Not Found",
        "hf:me/secret": "hf auth login.*gated",
        "hf:me/tests": "needs a split 'train'",
        "hf:me/words": "none for image, of columns 'text', 'label'",
    }
    for spec, message in messages.items():
        with pytest.raises(InputError, match=message) as error:
            kr.open_source(spec)
        assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install 'keras-resnet18\[hub\]'"):
        kr.open_source("hf:me/insects")


def interrupt(*arguments, **options):
    raise KeyboardInterrupt


def test_a_training_on_a_dataset_keeps_its_commit(
    hub, insects, tiny_network, quick_recipe, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    commit = insects()
    assert kr.check("hf:me/insects", console=QUIET).n == 40
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer, "train_network", interrupt)
        kr.train("hf:me/insects?label=label", quick_recipe, console=QUIET)
    insects(1)
    run = kr.train(resume="saved_models/hf-me-insects", console=QUIET)
    assert run.source == f"hf:me/insects@{commit}?label=label"
    assert kr.report(run).is_file()
    assert kr.evaluate(run).n == run.figures["n"]
    assert open_again(run).splits["train"].facts() == run.environment["images"]["train"]
    newer = kr.evaluate(run, data="hf:me/insects")
    assert (newer.n, newer.trained_on) == (40, 0)
    same = kr.evaluate(run, data=f"hf:me/insects@{commit}")
    assert (same.n, same.trained_on) == (40, run.environment["images"]["train"]["n"])


# Runs


@pytest.fixture
def published(hub, run):
    """A function that commits the files of a run, some of them changed; returns the hash."""

    def commit(**changed):
        files = {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
        files |= {"tensorboard/events": b"", "README.md": b"---\nlicense: cc-by-nc-4.0\n---\n"}
        return hub.commit("models/me/model", files | changed)

    return commit


def test_a_run_of_the_hub_serves_every_verb(hub, published, run, images, tmp_path):
    commit = published()
    paths = sorted((images / "test").rglob("*.png"))
    ours, theirs = (kr.open_classifier(model) for model in (run.path, "hf:me/model"))
    pixels = np.stack([ours.read(path) for path in paths])
    assert theirs.answer(pixels, 1) == ours.answer(pixels, 1)
    assert theirs.run.origin == f"hf:me/model@{commit}"
    assert not any("tensorboard/" in line for line in hub.requests if "resolve" in line)
    hub.close()  # and all comes from the cache
    close_session()
    found = kr.evaluate("hf:me/model", data=str(images / "test"), out=tmp_path / "figures")
    assert found.accuracy == kr.evaluate(run, data=str(images / "test")).accuracy
    assert f"hf:me/model@{commit}" in (tmp_path / "figures" / "metrics.json").read_text()
    with pytest.raises(InputError, match="out=FOLDER"):
        kr.export("hf:me/model", "tflite")
    (report,) = kr.export(theirs.run.origin, "tflite", tmp_path / "export", data=str(images))
    assert kr.verify(report.path, "hf:me/model", data=str(images)).fault is None
    with pytest.raises(InputError, match="hf download"):
        kr.report("hf:me/model", data=str(images))
    kept = {path.name for path in theirs.run.path.iterdir()}
    assert kept == {path.name for path in run.files} | {"README.md"}


def test_the_command_line_names_a_run_of_the_hub(published, images, command):
    published()
    image = str(images / "test" / "bee" / "0.png")
    answer = command("predict", "hf:me/model", image, status=None)  # the Hub's client shows a bar
    assert answer.status == 0 and answer.out.startswith(f"{image}  ")
    refused = command("export", "hf:me/model", status=None)
    assert refused.status == 1 and "give --out FOLDER. Received: hf:me/model@" in refused.err


def test_a_program_in_a_model_of_the_hub_is_not_run(published, tmp_path):
    from keras import Input, Model, layers

    image = Input((16, 16, 3))
    odd = layers.Lambda(lambda x: x + 1)(image)
    out = layers.Dense(3)(layers.GlobalAveragePooling2D()(odd))
    Model(image, out).save(tmp_path / "model.keras")
    published(**{"model.keras": (tmp_path / "model.keras").read_bytes()})
    with pytest.raises(InputError, match="Lambda") as error:
        kr.open_classifier("hf:me/model")
    assert "\n" not in str(error.value)


def test_what_is_no_run_of_the_hub_is_one_line(hub):
    hub.commit("models/me/other", {"README.md": b"a model"})
    messages = {
        "hf:me/nothing": "Repository Not Found",
        "hf:me/other@nothing": "Revision Not Found",
        "hf:me/other": r"recipe\.toml in it\. Received: hf:me/other",
    }
    for name, message in messages.items():
        with pytest.raises(InputError, match=message) as error:
            kr.load_run(name)
        assert "\n" not in str(error.value)


def test_weights_of_the_hub_are_kept_at_their_commit(published, tiny_network, images, tmp_path):
    commit = published()
    settings = ["epochs=1", "finetune.head_epochs=1", "batch_size=8", "precision=float32"]
    said = io.StringIO()
    options = {"settings": settings, "console": Console(file=said, width=200)}
    run = kr.train(str(images), out=tmp_path / "run", weights="hf:me/model", **options)
    assert run.recipe.finetune.weights == f"hf:me/model@{commit}"
    assert run.preprocess.size == (16, 16) and "hf:me/model@" in said.getvalue()
    write_card(run)
    card = run.card_file.read_text()
    assert "base_model: me/model" in card and "license: cc-by-nc-4.0" in card
    assert "does not allow commercial use" in card


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("imagenet", "the weights `imagenet`, whose license is apache-2.0."),
        ("/away/resnet.pth", "the weights `resnet.pth`, whose license applies to this model too."),
    ],
)
def test_the_card_names_the_dataset_and_the_license_of_the_weights(run, tmp_path, weights, said):
    copy = Run(shutil.copytree(run.path, tmp_path / "copy"))
    recipe = dataclasses.replace(run.recipe, finetune=Finetune(weights=weights))
    copy.recipe_file.write_text(recipe.to_toml())
    copy.write_json(
        copy.environment_file, run.environment | {"source": "hf:me/insects@abc?label=x"}
    )
    write_card(copy)
    card = ModelCard.load(copy.card_file)
    assert said in card.text and "/away" not in card.content
    assert card.data.datasets == ["me/insects"]
    published = ("apache-2.0", "timm/resnet18.a1_in1k") if weights == "imagenet" else (None, None)
    assert (card.data.license, card.data.base_model) == published
