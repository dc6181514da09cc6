"""training/results.py: the tables of the pages are those of the rows in training/results/."""

from __future__ import annotations

import itertools
import re
import shutil

import pytest
import results
import webgpu
from rows import append_row, read_rows

from keras_resnet18.errors import InputError
from keras_resnet18.files import TFLITE


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(results.FOLDER, tmp_path / "results")


def test_every_table_is_what_its_rows_say():
    results.main(["--check"])
    assert all("<!-- results: " in page.read_text(encoding="utf-8") for page in results.PAGES)


def test_files_agree_with_their_models_on_webgpu_as_on_the_cpu():
    rows = read_rows(results.FOLDER / "webgpu.jsonl")
    files = itertools.product(("demo", *webgpu.NETWORKS), TFLITE.values())
    assert sorted((row["network"], row["kind"]) for row in rows) == sorted(files)
    for row in rows:
        agreeing, difference = row["agreeing"], row["difference"]
        assert row["n"] == 60 and row["errors"] == [], row
        assert agreeing["WebGPU"] >= agreeing["LiteRT"] - 1, row
        assert difference["WebGPU"] <= 1.5 * difference["LiteRT"] + 1e-3, row


def test_a_changed_row_makes_its_table_stale_and_no_other(folder):
    page = results.HERE / "README.md"
    row = read_rows(folder / "calibration.jsonl")[0]
    append_row(folder / "calibration.jsonl", {**row, "set": 3, "accuracy": 0.5})
    new, stale = results.filled(page.read_text(encoding="utf-8"), folder)
    assert stale == ["calibration"]
    assert results.filled(new, folder) == (new, [])


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("<!-- results: epoch -->\n<!-- end -->", "table epoch has no rows in .*epoch.jsonl"),
        ("<!-- results: none -->\n<!-- end -->", "a table is one of .* Received: none"),
        ("<!-- results: webgpu -->\n", "must end with <!-- end -->. Received: webgpu"),
    ],
)
def test_a_marker_without_rows_is_named(page, message, tmp_path):
    with pytest.raises(InputError, match=message):
        results.filled(page, tmp_path)


def test_what_is_stale_is_named_written_and_fresh_then(folder, monkeypatch, capsys):
    page = folder / "page.md"
    page.write_text("Before.\n<!-- results: webgpu -->\n<!-- end -->\nAfter.\n")
    row = read_rows(folder / "webgpu.jsonl")[0]
    append_row(folder / "webgpu.jsonl", {**row, "network": "/a/person/saved_models/pets"})
    monkeypatch.setattr(results, "PAGES", (page,))
    monkeypatch.setattr(results, "FOLDER", folder)
    with pytest.raises(SystemExit, match=r"webgpu.jsonl says where .*\n.*table webgpu is stale"):
        results.main(["--check"])
    assert "pets" not in page.read_text()
    results.main([])
    assert "| pets | 12 |" in page.read_text() and "person" not in page.read_text()
    assert "/a/person" not in (folder / "webgpu.jsonl").read_text()
    results.main(["--check"])


def test_every_figure_of_the_first_table_stands_in_the_section_that_it_links_to():
    first, *rest = re.split(r"^#+ ", results.PAGES[0].read_text(encoding="utf-8")[1:], flags=re.M)
    sections = {}
    for section in rest:
        title, _, text = section.partition("\n")
        sections[re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")] = text
    rows = [row.split(" | ") for row in first.splitlines() if row.startswith("| [")]
    assert len(rows) > 10
    for what, ours, other, *_ in rows:
        text = sections[re.search(r"\(#(.*?)\)", what)[1]]
        for figure in re.findall(r"\d[\d.,]*\d", f"{ours} {other}"):
            assert re.search(rf"(?<![\d.,]){re.escape(figure)}(?!\d)", text), (what, figure)
