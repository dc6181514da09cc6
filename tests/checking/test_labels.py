"""Wrong labels and near copies are found, shown, and corrected in a table that trains."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from small import CLASSES, draw_images

from keras_resnet18 import check, from_arrays, open_source, save_weights, train
from keras_resnet18.checking import labels as module
from keras_resnet18.errors import InputError


@pytest.fixture
def folder(images, tmp_path):
    """`images` with two ants among the bees, and a bee among the ants."""
    folder = Path(shutil.copytree(images, tmp_path / "images"))
    for name, wrong in (("ant/3", "bee/a"), ("ant/4", "bee/b"), ("bee/5", "ant/c")):
        (folder / "train" / f"{name}.png").rename(folder / "train" / f"{wrong}.png")
    return folder


WRONG = {"train/bee/a.png", "train/bee/b.png", "train/ant/c.png"}


def rows_of(table):
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_wrong_labels_come_first_and_are_fixed(folder, run, tmp_path, tiny_network, quick_recipe):
    found = check(folder, features=run, out=tmp_path / "labels")
    assert {one.image for one in found.labels.labels[:3]} == WRONG
    assert {one.image for one in found.labels.contradicted} >= WRONG
    assert len(found.labels.labels) == 70 and not found.spoiled

    table = tmp_path / "labels" / "labels.csv"
    rows = rows_of(table)
    assert list(rows[0]) == ["path", "label", "suggested", "probability", "split"]
    assert rows[0]["path"].startswith("../images/train/")
    probabilities = [float(row["probability"]) for row in rows]
    assert probabilities == sorted(probabilities) and probabilities[0] < 0.5 < probabilities[-1]

    for row in rows[:3]:
        assert row["suggested"] != row["label"]
        row["label"] = row["suggested"]
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    before, after = open_source(folder), open_source(table)
    assert after.warnings == ()
    for kind, split in before.splits.items():  # test images stay test images
        ends = {Path(name).as_posix() for name in split.names}
        assert {name.removeprefix("../images/") for name in after.splits[kind].names} == ends
    counts = dict(zip(after.classes, np.bincount(after.splits["train"].labels), strict=True))
    assert counts == {"ant": 17, "bee": 16, "蝉": 16}
    assert train(table, quick_recipe, tmp_path / "run", console=Console(quiet=True)).finished


def test_the_page_shows_wrong_labels_and_how_sure_the_features_are(folder, run, tmp_path):
    found = check(folder, features=run.path, out=tmp_path / "labels").labels
    text = (tmp_path / "labels" / "labels.html").read_text(encoding="utf-8")
    assert all(f">{name}</p>" in text for name in WRONG)
    assert f"<strong>{found.accuracy:.1%}</strong> of the images" in text
    assert text.count("<img ") == len(found.contradicted)
    assert "http" not in text.partition("</style>")[2]


def test_tables_of_groups_keep_them_and_copies_are_judged_together(folder, run, tmp_path):
    shutil.copy(folder / "train/bee/a.png", folder / "train/bee/again.png")  # would confirm it
    with (table := tmp_path / "images.csv").open("w", encoding="utf-8") as file:
        file.write("path,label,group\n")
        for path in sorted((folder / "train").glob("*/*")):
            group = "p1" if path.stem in ("0", "1") and path.parent.name == "ant" else ""
            file.write(f"{path},{path.parent.name},{group}\n")
    found = check(table, features=run, out=tmp_path / "labels").labels
    least = {Path(one.image).stem for one in found.labels[:4]}
    assert least == {"a", "b", "c", "again"}
    rows = rows_of(tmp_path / "labels/labels.csv")
    groups = {Path(row["path"]).relative_to("../images"): row["group"] for row in rows}
    of_p1 = sorted(str(path) for path in groups if groups[path] == "p1")
    assert of_p1 == ["train/ant/0.png", "train/ant/1.png"]
    open_source(tmp_path / "labels/labels.csv")


def photo(seed, side=90):
    """A smooth picture, as photos are."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), np.uint8)
    return Image.fromarray(noise).resize((side + 13, side), Image.Resampling.BICUBIC)


def test_copies_that_share_no_pixel_are_found_and_other_photos_are_not(tmp_path, run):
    draw_images(tmp_path / "images", {"ant": 10, "bee": 10})
    for number in range(20):
        path = tmp_path / "images" / CLASSES[number % 2] / f"photo{number}.jpg"
        photo(number).save(path, quality=90)

    def smaller(image):
        return image.resize((image.width * 9 // 10, image.height * 9 // 10))

    def mirrored(image):
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)

    changes = {0: smaller, 2: mirrored, 4: lambda image: image, 6: lambda x: mirrored(smaller(x))}
    for number, change in changes.items():  # of ants
        copy = change(photo(number))
        copy.save(tmp_path / "images" / "bee" / f"copy{number}.webp", quality=75)
    found = check(tmp_path / "images", features=run, out=tmp_path / "labels")
    pairs = {tuple(sorted((a.name, b.name))) for a, b in found.labels.near_copies}
    assert pairs == {(f"ant/photo{number}.jpg", f"bee/copy{number}.webp") for number in changes}
    (finding,) = (one for one in found.findings if one.kind == "almost the same in two classes")
    assert len({*finding.images}) == 8 and not found.spoiled
    assert "4 pairs of two classes" in (tmp_path / "labels/labels.html").read_text()


def test_copies_of_the_same_pixels_and_blank_images_are_no_near_copies(folder, run):
    for name in ("train/ant", "test/bee"):
        Image.new("RGB", (16, 16), "red").save(folder / name / "red.png")
        Image.new("RGB", (20, 16), "red").save(folder / name / "blank.png")
        shutil.copy(folder / "train/ant/0.png", folder / name / "copy.png")
    found = check(folder, features=run)
    assert found.labels.near_copies == () and found.spoiled


def test_images_that_are_not_files_are_named_by_split_and_number(run, tmp_path, digits, capsys):
    first = np.flatnonzero(digits[1] < 3)[:90]
    images, labels = digits[0][first], digits[1][first]
    found = check(from_arrays(images, labels), features=run, out=tmp_path).labels
    assert not found.are_files and len(found.labels) == 90
    rows = rows_of(tmp_path / "labels.csv")
    assert "path" not in rows[0] and rows[0]["image"].split()[0] in ("train", "validation", "test")
    with pytest.raises(InputError, match="columns path and label"):
        open_source(tmp_path / "labels.csv")
    assert "They are not files" in (tmp_path / "labels.html").read_text()


def test_features_are_those_of_the_checkpoint(resnet18, tmp_path):
    save_weights(resnet18, tmp_path / "w.safetensors")
    network, preprocess = module.open_extractor(tmp_path / "w.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    head = resnet18.layers[-1]
    assert preprocess.size == (224, 224)
    np.testing.assert_allclose(
        head(network.predict_on_batch(pixels)), resnet18.predict_on_batch(pixels), atol=1e-5
    )


def test_published_weights_bring_their_preprocessing(monkeypatch):
    built = {}
    monkeypatch.setattr(module, "build_resnet18", lambda **given: built.update(given))
    assert module.open_extractor("resnet18d.ra2_in1k")[1].interpolation == "bicubic"
    assert (built["variant"], built["weights"]) == ("d", "resnet18d.ra2_in1k")


def test_what_is_there_is_not_overwritten(folder, run, tmp_path):
    out = tmp_path / "labels"
    check(folder, features=run, out=out)
    (out / "labels.csv").write_text("corrected")
    for destination in (out, folder / "train/ant/0.png"):
        with pytest.raises(InputError, match="is not a folder without labels"):
            check(folder, features=run, out=destination)
    assert (out / "labels.csv").read_text() == "corrected"


@pytest.mark.parametrize(
    ("bees", "features", "message"),
    [
        (1, "RUN", "every class images in two of them. .*'bee' in one fold"),
        (9, "imagenett", "expected features to be .*did you mean imagenet"),
        (9, "none.safetensors", "which does not exist"),
    ],
)
def test_what_cannot_be_checked_is_a_line(bees, features, message, run, tmp_path):
    source = draw_images(tmp_path / "images", {"ant": 9, "bee": bees})
    with pytest.raises(InputError, match=message) as error:
        check(source, features=run if features == "RUN" else features)
    assert "\n" not in str(error.value)


def test_the_command_writes_page_table_and_json(folder, run, tmp_path, command):
    out, file = tmp_path / "labels", tmp_path / "all.json"
    words = ("--label-errors", "--features", run.path, "--out", out, "--json", file)
    printed = command("check", folder, *words).out
    assert "labels contradicted by other images: " in printed
    assert f"{out / 'labels.html'}\n{out / 'labels.csv'}, a table to correct" in printed
    assert len(json.loads(file.read_text())["labels"]["labels"]) == 70


@pytest.mark.parametrize(
    "words", [["--label-errors"], ["--features", "imagenet"], ["--out", "labels"]]
)
def test_label_errors_and_features_go_together(words, images, command):
    refused = command("check", images, *words, status=None)
    assert refused.status == 1 and "goes with --features MODEL" in refused.err
