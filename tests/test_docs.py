"""The pages in docs/ say what the exported files are."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from small import build_tiny

from keras_resnet18 import export_tflite

DOCS = Path(__file__).parents[1] / "docs"
script = runpy.run_path(str(DOCS / "tensors.py"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The part of the pages that is made from files, for a classifier of the demo's digits."""
    folder = tmp_path_factory.mktemp("docs")
    # what a file takes and gives does not depend on the network between
    model = build_tiny(input_shape=(12, 12, 3), classes=10, stem="small", dropout=0.0)
    images = np.random.default_rng(0).integers(0, 256, (200, 12, 12, 3), np.uint8)
    labels = [str(number) for number in range(10)]
    files = [folder / "model.tflite", folder / "model-int8.tflite"]
    export_tflite(model, files[0], labels=labels)
    export_tflite(
        model, files[1], labels=labels, quantize="int8", calibration=images, min_agreement=0
    )
    return script["table"](files)


@pytest.mark.parametrize("page", script["PAGES"], ids=lambda page: page.name)
def test_a_page_says_what_an_exported_file_takes_and_gives(page, made):
    text = page.read_text(encoding="utf-8")
    assert "`image`" in made and made in text, "run docs/tensors.py, see its first lines"
    other = script["with_table"](text, "| other |\n")
    assert "| other |" in other and made not in other
    assert script["with_table"](other, made) == text


def test_the_reference_is_what_the_package_says():
    reference = runpy.run_path(str(DOCS / "reference.py"))
    said = reference["PAGE"].read_text(encoding="utf-8")
    assert said == reference["page"](), "run docs/reference.py"
    assert "| `--folds N` |" in said and "| `optimizer.clip_norm` | none |" in said
    assert not [row for row in said.splitlines() if row.endswith("|  |")]


def headings(page):
    """Anchors of a page, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", x.lower()).replace(" ", "-") for x in found}


def test_what_pages_link_to_is_there():
    root = DOCS.parent
    for page in (*DOCS.glob("*.md"), *root.glob("*.md"), root / "training" / "README.md"):
        for target, anchor in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", page.read_text("utf-8")):
            there = page.parent / target if target else page
            assert there.exists(), (page.name, target)
            assert not anchor or anchor in headings(there), (page.name, target, anchor)


def test_readme_quotes_the_notebook_as_it_is_stored():
    root = DOCS.parent
    notebook = (root / "examples" / "keras.ipynb").read_text(encoding="utf-8")
    readme = (root / "README.md").read_text(encoding="utf-8")
    quoted = [line for line in readme.splitlines() if line.startswith("exported/")]
    assert len(quoted) == 2 and all(line in notebook for line in quoted)
