"""What would spoil a training is found before it, named, and counted."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from small import draw_images

from keras_resnet18 import Preprocess, check, from_arrays, report, train
from keras_resnet18.checking.images import in_words, look
from keras_resnet18.classify.classifier import open_classifier
from keras_resnet18.classify.evaluate import evaluate
from keras_resnet18.errors import InputError
from keras_resnet18.fit import phases, train as trainer


@pytest.fixture
def folder(images, tmp_path):
    return Path(shutil.copytree(images, tmp_path / "images"))


def finding(found, kind):
    (only,) = (one for one in found.findings if one.kind == kind)
    return only


def test_a_clean_source_is_counted_and_would_spoil_nothing(images):
    found = check(images)
    assert found.counts == {
        "train": {"ant": 17, "bee": 16, "蝉": 16},
        "validation": {"ant": 3, "bee": 3, "蝉": 3},
        "test": {"ant": 4, "bee": 4, "蝉": 4},
    }
    assert (found.n, found.spoiled) == (70, False)
    assert [one.text for one in found.findings] == ["all images have 16 × 16 pixels"]


def test_every_file_that_cannot_be_decoded_is_listed_with_its_reason(folder):
    for number in range(5):
        path = folder / "train" / "bee" / f"{number}.png"
        path.write_bytes(path.read_bytes()[:-100])
    (folder / "test" / "ant" / "text.jpg").write_text("not an image")
    (folder / "val" / "ant" / "empty.webp").touch()
    found = check(folder)
    broken = [one for one in found.findings if one.kind == "undecodable"]
    assert [one.images for one in broken] == [
        ("test/ant/text.jpg",),
        *((f"train/bee/{number}.png",) for number in range(5)),
        ("val/ant/empty.webp",),
    ]
    assert all(one.spoils and one.text.startswith(f"{one.images[0]}: ") for one in broken)
    assert (found.n, found.counts["train"]["bee"]) == (70 - 5, 11)


def test_the_command_prints_ten_broken_files_and_counts_the_others(tmp_path, command):
    (tmp_path / "a.csv").write_text("path,label\n" + "".join(f"{i}.png,a\n" for i in range(12)))
    lines = command("check", "a.csv", status=1).out.splitlines()
    assert sum("No such file" in line for line in lines) == 10
    assert "2 more images cannot be decoded: --json FILE.json names all" in lines
    assert any("12 of 12 that are not there" in line for line in lines)


def test_a_source_that_cannot_be_opened_still_lists_its_broken_files(tmp_path):
    for name in ("a/1.png", "b/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("not an image")
    found = check(tmp_path)
    assert [one.kind for one in found.findings] == ["undecodable", "undecodable", "unusable"]
    assert found.spoiled and found.counts == {}


def test_copies_are_found_under_any_name_and_format_by_what_they_spoil(folder):
    ants = folder / "train" / "ant"
    shutil.copy(ants / "0.png", folder / "train" / "bee" / "mine.png")
    Image.open(ants / "1.png").save(folder / "test" / "ant" / "other.bmp")
    shutil.copy(ants / "2.png", ants / "again.png")
    found = check(folder)
    assert finding(found, "in two classes").images == ("train/ant/0.png", "train/bee/mine.png")
    assert finding(found, "in two splits").images == ("train/ant/1.png", "test/ant/other.bmp")
    assert finding(found, "twice in a split").images == ("train/ant/2.png", "train/ant/again.png")
    assert [one.spoils for one in found.findings[:2]] == [True, True]
    assert not finding(found, "twice in a split").spoils


def test_odd_images_are_noted_and_spoil_nothing(folder):
    bees = folder / "train" / "bee"
    Image.new("RGB", (16, 16), "red").save(bees / "blank.png")
    noise = np.random.default_rng(0).integers(0, 256, (90, 20, 3), np.uint8)
    Image.fromarray(noise).save(bees / "long.png")
    Image.fromarray(noise[:9, :9]).save(bees / "small.png")
    Image.fromarray(noise[:40]).save(bees / "really.png", "JPEG")
    found = check(folder)
    assert not found.spoiled
    for kind, name in (
        ("blank", "blank"),
        ("extreme shape", "long"),
        ("small", "small"),
        ("another format than the ending says", "really"),
    ):
        assert finding(found, kind).images == (f"train/bee/{name}.png",)
    assert "(.png holds JPEG)" in finding(found, "another format than the ending says").text
    assert "shorter sides of 9 to 20 pixels, median 16" in finding(found, "sizes").text


def test_uneven_classes_and_those_without_held_out_images_are_named(tmp_path):
    draw_images(tmp_path / "train", {"ant": 20, "bee": 2})
    draw_images(tmp_path / "val", {"ant": 2})
    draw_images(tmp_path / "test", {"ant": 1})
    found = check(tmp_path)
    assert "'ant' has 23 images, 'bee' has 2" in finding(found, "uneven classes").text
    for split in ("test", "validation"):
        text = finding(found, f"no {split} image").text
        assert text == f"classes without a {split} image: 'bee'"
    assert not found.spoiled


def test_class_names_that_differ_only_in_case_or_are_like_splits_spoil(tmp_path):
    draw_images(tmp_path, {"ant": 4, "bee": 4, "蝉": 4})
    (tmp_path / "bee").rename(tmp_path / "Ant")
    for top in ("train_set", "test_set"):
        draw_images(tmp_path / top, {"ant": 2, "bee": 2})
    found = check(tmp_path)
    assert "'Ant', 'ant'" in finding(found, "names alike").text
    text = finding(found, "named like splits").text
    assert text.endswith("'test_set' as test/, 'train_set' as train/") and found.spoiled


def test_classes_with_a_word_of_splits_are_classes(tmp_path):
    draw_images(tmp_path, {"ant": 5, "bee": 5, "蝉": 5})
    (tmp_path / "ant").rename(tmp_path / "test_tube")
    (tmp_path / "train_station").mkdir()
    (tmp_path / "bee").rename(tmp_path / "train_station/hall")
    (tmp_path / "蝉").rename(tmp_path / "cat")
    found = check(tmp_path)
    assert {*found.counts["train"]} == {"test_tube", "train_station", "cat"} and not found.spoiled


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("hot dog", "hot\xa0dog"), "names alike"),
        (("hot dog", "hot  dog "), "names alike"),
        (("cat", "c\u200bat"), "names alike"),
        (("ﬁsh", "fish"), "names alike"),
        (("1", "1.0"), "names alike"),
        (("01", "1"), "names alike"),
        (("NULL", "ant"), "named like empty cells"),
        (("12345678901234567890", "12345678901234567891"), None),
        (("C", "C+"), None),
    ],
)
def test_class_names_alike_to_the_eye_are_said(tmp_path, names, kind):
    draw_images(tmp_path, {"ant": 3, "bee": 3})
    folders = zip(("ant", "bee"), names, strict=True)
    rows = [f'{folder}/{i}.png,"{name}"\n' for folder, name in folders for i in range(3)]
    source = tmp_path / "images.csv"
    source.write_text("path,label\n" + "".join(rows), encoding="utf-8")
    found = {one.kind: one.text for one in check(source).findings}
    looked = look(source, Console(quiet=True), split_seed=0, on_bad_image="raise", dedupe=False)
    said = list(in_words(looked, Preprocess((16, 16))))
    named = {"names alike", "named like empty cells"} & found.keys()
    assert named == ({kind} if kind else set())
    if kind:
        assert repr(names[0]) in found[kind] and found[kind] in said


@pytest.mark.parametrize("tops", [("seg_train", "seg_test", "seg_pred"), ("Training", "Testing")])
def test_folders_that_are_all_named_like_splits_are_not_trained_on(tmp_path, tops):
    for top in tops:
        draw_images(tmp_path / top, {"ant": 3, "bee": 3})
    with pytest.raises(InputError, match=f"look like splits: rename .*{tops[0]!r} to train/"):
        train(tmp_path, out=tmp_path.parent / "run", settings=["epochs=1"])
    (only,) = check(tmp_path).findings
    assert only.kind == "unusable" and only.spoils


def test_arrays_are_checked_by_their_numbers(digits):
    images, labels = digits[0][:60], digits[1][:60]
    source = from_arrays(images, labels, test=(images[:2], labels[:2]))
    found = check(source)
    copies = finding(found, "in two splits")
    assert len(copies.images) == 4 and copies.spoils
    assert {name.split()[0] for name in copies.images} <= {"train", "validation", "test"}
    assert found.n == 62


@pytest.fixture
def training(tiny_network, quick_recipe, tmp_path, monkeypatch):
    """`training(source)` is a run whose network learned nothing, and the lines that it said."""
    figures = ("loss", "accuracy", "validation_loss", "validation_accuracy", "learning_rate")
    rows = [{"epoch": 1, "steps": 6, **dict.fromkeys(figures, 0.5), "images_per_second": 1.0}]

    def learn_nothing(model, task, run, **_):
        run.write_history(rows)
        model.save(run.model_file)
        return rows

    monkeypatch.setattr(trainer, "train_network", learn_nothing)

    def run(source, out="run", **options):
        said = io.StringIO()
        console = Console(file=said, width=300)
        run = train(source, quick_recipe, tmp_path / out, console=console, **options)
        return run, said.getvalue().splitlines()

    return run


def test_a_training_says_its_classes_and_what_leaks_and_keeps_it(training, folder):
    shutil.copy(folder / "train" / "ant" / "0.png", folder / "test" / "ant" / "leak.png")
    run, lines = training(folder)
    counts = "3 classes (training/validation/test images): ant 17/3/5, bee 16/3/4, 蝉 16/3/4"
    assert counts in lines
    text = (
        "the same image in more than one split, so the figures flatter: 1, such as "
        "train/ant/0.png (train, ant), test/ant/leak.png (test, ant)"
    )
    assert text in lines
    (leak,) = run.metrics["images"]["findings"]
    assert leak["text"] == text and leak["images"] == ["train/ant/0.png", "test/ant/leak.png"]
    assert run.metrics["test"]["n"] == 13


def test_copies_are_left_out_of_validation_and_test_where_that_is_asked(training, folder):
    shutil.copy(folder / "train" / "ant" / "0.png", folder / "test" / "ant" / "leak.png")
    shutil.copy(folder / "val" / "ant" / "0.png", folder / "test" / "ant" / "seen.png")
    shutil.copy(folder / "test" / "ant" / "0.png", folder / "test" / "ant" / "twice.png")
    run, lines = training(folder, dedupe=True)
    assert run.metrics["test"]["n"] == 12
    assert "left out: test/ant/leak.png: a copy of train/ant/0.png" in lines
    assert run.environment["left_out"] == {
        "test/ant/leak.png": "a copy of train/ant/0.png",
        "test/ant/seen.png": "a copy of val/ant/0.png",
        "test/ant/twice.png": "a copy of test/ant/0.png",
    }
    assert evaluate(run).n == 12  # the images are opened as the training did
    assert not any("so the figures flatter" in line for line in lines)
    assert run.metrics["images"]["findings"] == []


@pytest.fixture
def same_pixels(folder):
    """A folder with copies in other bytes: a BMP of a PNG, and a JPEG without its EXIF."""
    Image.open(folder / "train" / "ant" / "0.png").save(folder / "test" / "ant" / "leak.bmp")
    exif = Image.Exif()
    exif[0x010E] = "a description"
    photo = Image.open(folder / "train" / "ant" / "1.png")
    photo.save(folder / "train" / "ant" / "photo.jpg", exif=exif)
    photo.save(folder / "val" / "ant" / "bare.jpg")
    return folder


_SAME_PIXELS = {
    "val/ant/bare.jpg": "a copy of train/ant/photo.jpg",
    "test/ant/leak.bmp": "a copy of train/ant/0.png",
}


def test_the_same_pixels_in_other_bytes_are_copies_for_check_and_train(training, same_pixels):
    leaks = "the same image in more than one split, so the figures flatter: 2, such as"
    assert leaks in finding(check(same_pixels), "in two splits").text
    run, lines = training(same_pixels)
    assert any(line.startswith(leaks) for line in lines)
    assert leaks in report(run).read_text(encoding="utf-8")
    run, _ = training(same_pixels, "without", dedupe=True)
    assert run.environment["left_out"] == _SAME_PIXELS
    page = report(run).read_text(encoding="utf-8")
    assert "no image is in two classes or two splits: 71 compared by their pixels</li>" in page


def test_a_large_set_is_compared_by_bytes_and_claims_no_more(training, same_pixels, monkeypatch):
    monkeypatch.setattr("keras_resnet18.checking.images._QUICK", 0)
    run, lines = training(same_pixels)
    assert "copies were looked for by their bytes; dedupe=True and `check` compare pixels" in lines
    page = report(run).read_text(encoding="utf-8")
    assert "73 compared by their bytes; `keras-resnet18 check` compares their pixels" in page
    run, _ = training(same_pixels, "without", dedupe=True)
    assert run.environment["left_out"] == _SAME_PIXELS


def test_copies_among_what_are_no_files_cannot_be_left_out():
    with pytest.raises(InputError, match=r"dedupe compares image files.*'digits'"):
        train("digits", "digits", "never", dedupe=True)


def test_a_training_that_skips_broken_images_names_each(training, broken_images):
    (broken_images / "train" / "ant" / "text.jpg").write_text("not an image")
    run, lines = training(broken_images, on_bad_image="skip")
    broken = [f"{split}/bee/0.png" for split in ("train", "val", "test")]
    assert set(run.environment["left_out"]) == {*broken, "train/ant/text.jpg"}
    for name in run.environment["left_out"]:
        assert any(line.startswith(f"left out: {name}: ") for line in lines)
    assert run.metrics["images"]["left_out"] == 4
    assert (run.metrics["validation"]["n"], run.metrics["test"]["n"]) == (8, 11)
    assert evaluate(run).accuracy == run.metrics["test"]["accuracy"]


def test_jpegs_damaged_inside_are_found_and_left_out(training, folder):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    names = [f"{split}/ant/half.jpg" for split in ("test", "train", "val")]
    for name in names:
        Image.fromarray(noise).save(folder / name)
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2] + b"\xff\xd9")
    broken = [one for one in check(folder).findings if one.kind == "undecodable"]
    assert [one.text for one in broken] == [
        f"{name}: JPEG data is missing: it ends before its last pixel" for name in names
    ]
    with pytest.raises(InputError, match=r"half\.jpg' \(JPEG data is missing.*, and 2 more"):
        training(folder)
    run, _ = training(folder, "without", on_bad_image="skip")
    assert set(run.environment["left_out"]) == set(names)


def test_another_split_seed_deals_otherwise_and_the_run_keeps_it(training, tmp_path):
    folder = draw_images(tmp_path / "images", {"ant": 30, "bee": 30})
    runs = [training(folder, f"run{n}", split_seed=n)[0] for n in (0, 1)]
    names = [set(evaluate(run).names) for run in runs]
    assert names[0] != names[1]
    assert [run.environment["split_seed"] for run in runs] == [0, 1]


def test_what_to_do_about_a_bad_image_is_one_of_two_words(images):
    with pytest.raises(InputError, match="on_bad_image must be one of raise, skip"):
        train(images, "digits", "never", on_bad_image="ignore")


@pytest.fixture
def deep(tmp_path):
    """`deep(scale)` writes 12-bit images in 16-bit files, or the same ones scaled to 8 bits."""

    def write(scale):
        random = np.random.default_rng(0)
        for number in range(60):
            values = random.integers(0, 4096, (16, 16), np.uint16)
            values[0, 0] = 4095
            folder = tmp_path / ("scaled" if scale else "deep") / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            eight_bits = np.rint(values / (4095 / 255)).astype(np.uint8)
            Image.fromarray(eight_bits if scale else values).save(folder / f"{number}.png")
        return folder.parent

    return write


def test_16_bit_files_that_use_a_part_of_their_range_are_said(training, deep):
    text = (
        "with values up to 4,095, become 17 levels of 256 by max_value=65535; "
        "settings='max_value=4095' scales them by 4,095"
    )
    folder = deep(False)
    found = check(folder)
    assert finding(found, "16-bit range").text == f"16-bit files: 60, {text}" and not found.spoiled
    _, lines = training(folder)
    (said,) = (line for line in lines if line.startswith("16-bit files"))
    assert said.endswith(text)
    _, lines = training(folder, "clipped", settings=["max_value=1000"])
    assert any("become white from 1,000 on by max_value=1000" in line for line in lines)
    white = np.full((16, 16), 65535, np.uint16)
    Image.fromarray(white).save(folder / "a" / "dead.png")  # hides nothing of the others
    assert finding(check(folder), "16-bit range").text == f"16-bit files: 61, nine in ten {text}"


def test_16_bit_files_are_scaled_alike_by_train_evaluate_and_predict(training, deep, monkeypatch):
    monkeypatch.setattr(trainer, "train_network", phases.train_network)
    folder, scaled = deep(False), deep(True)
    run, lines = training(folder, settings=["max_value=4095"])
    assert not any(line.startswith("16-bit") for line in lines)
    assert run.preprocess.max_value == 4095
    same, _ = training(scaled, "same")
    for split, of_run, of_same in (("test", None, None), ("all", str(folder), str(scaled))):
        loss = evaluate(run, data=of_run, split=split).loss
        assert loss == evaluate(same, data=of_same, split=split).loss
    assert [r["loss"] for r in run.history] == [r["loss"] for r in same.history]
    classifier = open_classifier(run)
    pixels = [classifier.read(f / "a" / "0.png") for f in (folder, scaled)]
    np.testing.assert_array_equal(*pixels)
