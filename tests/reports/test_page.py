"""The page is one file that shows any class name as text, from 2 classes to 1,000."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser

import browser
import numpy as np
import pytest

from keras_resnet18.classify.accuracy import per_class, to_rows
from keras_resnet18.classify.calibration import reliability
from keras_resnet18.classify.page import page
from keras_resnet18.reports.plots import curve_svg, reliability_svg
from keras_resnet18.reports.report import _TEMPLATE, confusions

EVIL = "<script>alert(\"{{ name }} & 'co'\")</script>"
MISTAKE = {
    "path": f"{EVIL}\udcff",
    "true": EVIL,
    "predicted": "b",
    "probability": 0.97,
    "image": np.random.default_rng(0).integers(0, 256, (16, 12, 3), np.uint8),
    "activation": np.eye(4, dtype=np.float32),
}
HISTORY = [{"epoch": 1.0, "loss": 0.5, "validation_loss": 0.5}]


def page_of(classes, labels, predictions, mistakes=(MISTAKE,)):
    labels, predictions = np.array(labels), np.array(predictions)
    matrix = np.zeros((len(classes), len(classes)), int)
    np.add.at(matrix, (labels, predictions), 1)
    figures = {"accuracy": 0.5, "interval": [0.1, 0.9], "loss": 1.0, "n": len(labels), "top5": None}
    figures |= {"balanced_accuracy": 0.5, "majority_accuracy": 0.5, "threshold": None}
    test = reliability(np.full(len(labels), 0.9, np.float32), labels == predictions)
    return page(
        _TEMPLATE,
        {
            "name": EVIL,
            "figures": {**figures, "per_class": to_rows(per_class(labels, predictions, classes))},
            "notes": [f"always {EVIL} has 50 %"],
            "folds": None,
            "image": "test image",
            "wrong": int((labels != predictions).sum()),
            "mistakes": mistakes,
            "has_maps": True,
            "matrix": matrix,
            "confused": confusions(matrix),
            "reliability": reliability_svg({"test": test}),
            "calibration": {EVIL: "1 %"},
            "data_check": ["the same image in more than one split"],
            "curves": {"loss": curve_svg(HISTORY, "loss", 1)},
            "made": {"images": EVIL, "keras-resnet18": "0.1.0"},
            "command": EVIL,
            "recipe": EVIL,
        },
    )


class Parsed(HTMLParser):
    """Tags that are open at the end, all tags with their attributes, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize(
    ("classes", "labels", "predictions"),
    [
        ((EVIL, "b"), [0], [0]),  # one test image, no mistake
        ((EVIL, "b", "蝉"), [0, 1, 0], [1, 1, 0]),
        ((EVIL, *map(str, range(999))), range(1000), [*range(999), 0]),
    ],
    ids=["2 classes", "3 classes", "1,000 classes"],
)
def test_names_are_text_and_nothing_comes_from_outside(classes, labels, predictions):
    html = page_of(classes, labels, predictions)
    parsed = Parsed(html)
    assert parsed.open == []
    assert [tag for tag, _ in parsed.tags].count("script") == 1  # the page's own
    assert EVIL in parsed.text
    addresses = [a[key] for _, a in parsed.tags for key in ("src", "href") if key in a]
    assert addresses and all(address.startswith("data:image/") for address in addresses)
    assert not re.search(r"https?:|url\(|@import", re.sub(r'src="data:[^"]*"', "", html))
    assert len(html) < 1_000_000


def test_a_reader_of_the_page_alone_gets_all_of_it():
    parsed = Parsed(page_of((EVIL, "b"), [0, 1], [1, 1]))
    assert all(attributes.get("alt") for tag, attributes in parsed.tags if tag == "img")
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert all("scope" in attributes for tag, attributes in parsed.tags if tag == "th")
    labels = [a["aria-labelledby"] for _, a in parsed.tags if "aria-labelledby" in a]
    assert set(labels) <= {a.get("id") for _, a in parsed.tags}
    assert f"Image of {EVIL}, taken for b" in [a.get("alt") for _, a in parsed.tags]


def test_the_most_frequent_confusions_come_first():
    found = confusions(np.array([[9, 0, 2], [5, 9, 0], [0, 2, 9]]))
    assert found == [(1, 0, 5), (0, 2, 2), (2, 1, 2)]


@pytest.mark.web
def test_the_table_is_sorted_and_nothing_is_wider_than_a_phone(tmp_path):
    pytest.importorskip("playwright.sync_api", reason="needs the extra web")
    if browser.CHROMIUM is None:
        pytest.skip("needs Chromium")
    classes = (EVIL, *("a class of a very long name " + str(i) for i in range(99)))
    labels = [*range(99), *range(90), 0]
    file = tmp_path / "report.html"
    file.write_text(page_of(classes, labels, [0] * len(labels), [MISTAKE] * 5))
    with browser.chromium() as launch:
        tab = launch().new_page(viewport={"width": 360, "height": 700}, offline=True)
        faults: list[str] = []
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("console", lambda message: faults.append(message.text))
        tab.goto(file.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360
        column = (
            "[...document.querySelectorAll('.sortable tbody tr')].map(r => +r.cells[1].innerText)"
        )
        for down in (False, True):
            tab.get_by_role("button", name="images").click()
            numbers = tab.evaluate(column)
            assert numbers == sorted(numbers, reverse=down)
        assert tab.locator("th[aria-sort=descending]").inner_text().startswith("images")
        assert faults == []
