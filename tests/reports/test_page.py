"""The page is one file that shows any class name as text, from 2 classes to 1,000."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser

import browser
import numpy as np
import pytest

from keras_resnet18.classify.accuracy import per_class, to_rows
from keras_resnet18.reports.page import Mistake, Report, page
from keras_resnet18.reports.plots import curve_svg, reliability_svg

EVIL = "<script>alert(\"$name & 'co'\")</script>"


def report(classes, labels, predictions, mistakes=()) -> Report:
    labels, predictions = np.array(labels), np.array(predictions)
    rows = to_rows(per_class(labels, predictions, classes))
    pair = [(classes[a], classes[b], 1) for a, b in zip(labels, predictions, strict=True) if a != b]
    empty = np.full(10, np.nan)
    history = [{f"{kind}{name}": 0.5 for kind in ("", "validation_") for name in NAMES}]
    matrix = np.zeros((len(classes), len(classes)), int)
    np.add.at(matrix, (labels, predictions), 1)
    return Report(
        name=EVIL,
        figures={
            "accuracy": 0.5,
            "interval": [0.1, 0.9],
            "loss": 1.0,
            "n": len(labels),
            "top5": None,
            "balanced_accuracy": 0.5,
            "majority_accuracy": 0.5,
            "per_class": rows,
        },
        notes=[f"always {EVIL} has 50 %"],
        mistakes=mistakes,
        mistakes_note="",
        matrix=matrix,
        confused=pair[:15],
        curves={"loss": curve_svg([{"epoch": 1.0, **history[0]}], "loss", 1)},
        calibration={"reliability": reliability_svg({"test": (empty, empty, np.arange(10) // 9)})},
        calibration_facts={"calibration error (ECE), validation images, calibrated": "1 %"},
        data_check=["the same image in more than one split"],
        made={"images": EVIL},
        command="keras-resnet18 train",
        recipe=EVIL,
        version="0.1.0",
    )


NAMES = ("loss", "accuracy")
IMAGE = np.random.default_rng(0).integers(0, 256, (16, 12, 3), np.uint8)
MISTAKE = Mistake(f"{EVIL}\udcff", EVIL, "b", 0.97, IMAGE, np.eye(4, dtype=np.float32))


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
    html = page(report(classes, labels, predictions, [MISTAKE]))
    parsed = Parsed(html)
    assert parsed.open == []
    assert [tag for tag, _ in parsed.tags].count("script") == 1  # the page's own
    assert EVIL in parsed.text
    addresses = [a[key] for _, a in parsed.tags for key in ("src", "href") if key in a]
    assert addresses and all(address.startswith("data:image/") for address in addresses)
    assert not re.search(r"https?:|url\(|@import", re.sub(r'src="data:[^"]*"', "", html))
    assert len(html) < 1_000_000


def test_a_reader_of_the_page_alone_gets_all_of_it():
    parsed = Parsed(page(report((EVIL, "b"), [0, 1], [1, 1], [MISTAKE])))
    assert all(attributes.get("alt") for tag, attributes in parsed.tags if tag == "img")
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert all("scope" in attributes for tag, attributes in parsed.tags if tag == "th")
    labels = [a["aria-labelledby"] for _, a in parsed.tags if "aria-labelledby" in a]
    assert set(labels) <= {a.get("id") for _, a in parsed.tags}
    assert f"Image of {EVIL}, taken for b" in [a.get("alt") for _, a in parsed.tags]


@pytest.mark.web
def test_the_table_is_sorted_and_nothing_is_wider_than_a_phone(tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra web")
    if browser.CHROMIUM is None:
        pytest.skip("needs Chromium")
    classes = (EVIL, *("a class of a very long name " + str(i) for i in range(99)))
    labels = [*range(99), *range(90), 0]
    file = tmp_path / "report.html"
    file.write_text(page(report(classes, labels, [0] * len(labels), [MISTAKE] * 5)))
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser.CHROMIUM, args=browser.FLAGS)
        tab = chromium.new_page(viewport={"width": 360, "height": 700}, offline=True)
        faults: list[str] = []
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("console", lambda message: faults.append(message.text))
        tab.goto(file.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360
        column = (
            "[...document.querySelectorAll('.sortable tbody tr')].map(r => r.cells[1].innerText)"
        )
        tab.get_by_role("button", name="images").click()
        numbers = list(map(int, tab.evaluate(column)))
        assert numbers == sorted(numbers)
        tab.get_by_role("button", name="images").click()
        numbers = list(map(int, tab.evaluate(column)))
        assert numbers == sorted(numbers, reverse=True)
        head = tab.get_by_role("columnheader", name="images").first
        assert tab.locator("th[aria-sort=descending]").inner_text().startswith("images"), head
        assert faults == []
        chromium.close()
