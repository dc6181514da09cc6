"""report.html: one file that a browser shows without a network."""

from __future__ import annotations

import base64
import dataclasses
import importlib.resources
import io
from collections.abc import Mapping, Sequence
from html import escape
from string import Template
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image

_SHOWN_SIDE = 224  # pixels of an image on the page, at most
_SMALL_SIDE = 64  # of an image whose pixels are shown as squares
_MATRIX_CLASSES = 15  # of more, a confusion matrix is a carpet


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A wrongly predicted image.

    Attributes:
        path: Its name.
        true: Its class.
        predicted: The class it was given.
        probability: Of this class, 0 to 1.
        image: uint8 (height, width, 3), as the network got it.
        activation: Where the network found the predicted class, float32 (map height, map width),
            0 to 1; None where there is no map.
    """

    path: str
    true: str
    predicted: str
    probability: float
    image: npt.NDArray[np.uint8]
    activation: npt.NDArray[np.float32] | None


@dataclasses.dataclass(frozen=True)
class Report:
    """All that the page shows, as plain values.

    Attributes:
        name: Of the run.
        figures: `Evaluation.to_dict()` of the test images.
        notes: Lines that qualify the accuracy.
        mistakes: The hardest ones, the most certain first.
        mistakes_note: A line above them.
        matrix: Number of images by true and by predicted class.
        confused: Pairs of classes and their number of images, the most frequent first.
        curves: Plots as SVG, by their description.
        calibration: Plots as SVG, by their description.
        calibration_facts: Figures beside them.
        data_check: What was found about the images, a line each.
        made: Source, versions, device and time, by name.
        command: The command that makes it again.
        recipe: The recipe, as TOML.
        version: Of this package.
    """

    name: str
    figures: Mapping[str, Any]
    notes: Sequence[str]
    mistakes: Sequence[Mistake]
    mistakes_note: str
    matrix: npt.NDArray[np.int64]
    confused: Sequence[tuple[str, str, int]]
    curves: Mapping[str, bytes]
    calibration: Mapping[str, bytes]
    calibration_facts: Mapping[str, str]
    data_check: Sequence[str]
    made: Mapping[str, str]
    command: str
    recipe: str
    version: str


def page(report: Report) -> str:
    """HTML of the page. Names are shown as text, whatever is in them."""
    template = importlib.resources.files(__package__).joinpath("report.html")
    figures = report.figures
    low, high = figures["interval"]
    return Template(template.read_text(encoding="utf-8")).substitute(
        title=_text(f"{report.name}: {figures['accuracy']:.1%}"),
        name=_text(report.name),
        headline=f"{figures['accuracy']:.1%} of {figures['n']:,} test "
        f"image{'s' * (figures['n'] != 1)} right",
        interval=f"95 % interval {low:.1%} to {high:.1%}: images like these would give an accuracy "
        "in this range",
        notes="\n".join(f'<p class="note">{_text(note)}</p>' for note in report.notes),
        key=_key(figures),
        mistakes=f"<p>{_text(report.mistakes_note)}</p>\n{_mistakes(report.mistakes)}",
        confused=_confused(report),
        classes=_classes(figures["per_class"]),
        calibration=_calibration(report),
        data_check=_data_check(report.data_check),
        curves=_plots(report.curves),
        made=_facts(report.made),
        command=_text(report.command),
        recipe=_text(report.recipe),
        version=_text(report.version),
    )


def _text(text: str) -> str:
    """Text as HTML; bytes of a name that are not UTF-8 become question marks."""
    return escape(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))


def _key(figures: Mapping[str, Any]) -> str:
    facts = {"balanced accuracy": f"{figures['balanced_accuracy']:.1%}"}
    if figures["top5"] is not None:
        facts["top-5 accuracy"] = f"{figures['top5']:.1%}"
    facts["majority class alone"] = f"{figures['majority_accuracy']:.1%}"
    facts["cross-entropy"] = f"{figures['loss']:.3f}"
    facts["classes"] = f"{len(figures['per_class']):,}"
    rows = (f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items())
    return "\n".join(rows)


def _facts(facts: Mapping[str, str]) -> str:
    return "\n".join(f"<dt>{_text(k)}</dt><dd>{_text(v)}</dd>" for k, v in facts.items())


def _mistakes(mistakes: Sequence[Mistake]) -> str:
    if not mistakes:
        return ""
    items = []
    for one in mistakes:
        alt = f"Image of {one.true}, taken for {one.predicted}"
        small = max(one.image.shape[:2]) <= _SMALL_SIDE
        images = _image(one.image, alt, 'class="pixels"' if small else "")
        if one.activation is not None:
            images += _image(_overlay(one), f"Where the network found {one.predicted}", "")
        items.append(
            f'<li><div class="pair">{images}</div>'
            f"<p><strong>{_text(one.predicted)}</strong>, said with {one.probability:.1%}; it is "
            f"<strong>{_text(one.true)}</strong></p>"
            f'<p class="path">{_text(one.path)}</p></li>'
        )
    single = " single" if mistakes[0].activation is None else ""
    return f'<ul class="mistakes{single}">\n' + "\n".join(items) + "\n</ul>"


def _image(pixels: npt.NDArray[np.uint8], alt: str, attributes: str) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
    small = max(image.size) <= _SMALL_SIDE
    content = io.BytesIO()
    image.save(content, "PNG" if small else "JPEG", quality=85)
    kind = "png" if small else "jpeg"
    data = base64.b64encode(content.getvalue()).decode()
    return f'<img {attributes} alt="{_text(alt)}" src="data:image/{kind};base64,{data}">'


def _overlay(mistake: Mistake) -> npt.NDArray[np.uint8]:
    """The image in grey below its map, in colours that the colour-blind can order."""
    assert mistake.activation is not None
    image = Image.fromarray(mistake.image).convert("L").convert("RGB")
    scale = max(1, round(_SHOWN_SIDE / max(image.size)))  # a small image's map is smooth too
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    map_ = Image.fromarray(mistake.activation.astype(np.float32))
    strength = np.asarray(map_.resize(image.size, Image.Resampling.BILINEAR)).clip(0, 1)
    heat = matplotlib.colormaps["inferno"](strength)[..., :3] * 255
    alpha = 0.15 + 0.55 * strength[..., np.newaxis]
    mixed: npt.NDArray[np.uint8] = (np.asarray(image) * (1 - alpha) + heat * alpha).astype(np.uint8)
    return mixed


def _confused(report: Report) -> str:
    classes = [row["name"] for row in report.figures["per_class"]]
    sizes = {row["name"]: row["n"] for row in report.figures["per_class"]}
    parts = []
    if not report.confused:
        parts.append("<p>No test image was given a wrong class.</p>")
    else:
        rows = "\n".join(
            f"<tr><td>{_text(true)}</td><td>{_text(predicted)}</td>"
            f'<td class="number">{n:,}</td><td class="number">{n / sizes[true]:.1%}</td></tr>'
            for true, predicted, n in report.confused
        )
        parts.append(
            '<div><h3 id="pairs">The most frequent confusions</h3>\n'
            '<div class="wide" tabindex="0" role="region" aria-labelledby="pairs"><table>'
            '<thead><tr><th scope="col">it is</th><th scope="col">taken for</th>'
            '<th scope="col" class="number">images</th>'
            '<th scope="col" class="number">of the class</th></tr></thead>\n'
            f"<tbody>\n{rows}\n</tbody></table></div></div>"
        )
    if len(classes) <= _MATRIX_CLASSES:
        parts.append(_matrix(report.matrix, classes))
    return '<div class="split">\n' + "\n".join(parts) + "\n</div>"


def _matrix(matrix: npt.NDArray[np.int64], classes: Sequence[str]) -> str:
    heads = "".join(f'<th scope="col">{_text(name)}</th>' for name in classes)
    rows = []
    for name, row in zip(classes, matrix, strict=True):
        cells = "".join(
            _cell(n, row.sum(), name == other) for other, n in zip(classes, row, strict=True)
        )
        rows.append(f'<tr><th scope="row">{_text(name)}</th>{cells}</tr>')
    return (
        '<div><h3 id="matrix">All answers: a row for what it is, a column for what was said</h3>\n'
        '<div class="wide" tabindex="0" role="region" aria-labelledby="matrix">'
        f'<table class="matrix"><thead><tr><td></td>{heads}</tr></thead>\n<tbody>\n'
        + "\n".join(rows)
        + "\n</tbody></table></div></div>"
    )


def _cell(n: int, of: int, right: bool) -> str:
    share = n / of if of else 0.0
    colour = "29, 95, 168" if right else "196, 72, 24"
    # at most 60 % of the colour, on which dark text can be read
    shade = f' style="background: rgba({colour}, {0.1 + 0.5 * share:.2f})"' if n else ""
    return f"<td{shade}>{n:,}</td>" if n else '<td aria-label="0"></td>'


def _classes(rows: Sequence[Mapping[str, Any]]) -> str:
    heads = ("class", "images", "recall", "95 % interval", "precision", "F1")
    html = []
    for i, head in enumerate(heads):
        kind = ' class="number"' if i else ""
        html.append(f'<th scope="col"{kind}><button type="button">{head}</button></th>')
    lines = [f"<thead><tr>{''.join(html)}</tr></thead>", "<tbody>"]
    for row in rows:
        low, high = row["recall_interval"] or (None, None)
        between = "-" if low is None else f"{low:.1%} to {high:.1%}"
        cells = (
            _number(row["n"], f"{row['n']:,}"),
            _number(row["recall"]),
            _number(low, between),
            _number(row["precision"]),
            _number(row["f1"]),
        )
        lines.append(f'<tr><th scope="row">{_text(row["name"])}</th>{"".join(cells)}</tr>')
    return "\n".join([*lines, "</tbody>"])


def _number(value: float | None, text: str | None = None) -> str:
    if value is None:
        return '<td class="number" data-value="">-</td>'
    shown = f"{value:.1%}" if text is None else text
    return f'<td class="number" data-value="{value:g}">{shown}</td>'


def _calibration(report: Report) -> str:
    threshold = (
        ""
        if report.figures.get("threshold") is None
        else "Below the score threshold, which 95 % of the validation images reach, the answer is "
        "“not sure”. "
    )
    facts = f"<dl>\n{_facts(report.calibration_facts)}\n</dl>"
    return (
        "<p>Where a probability is right, of the answers said with 80 % four in five are right: "
        f"the points lie on the diagonal. {threshold}On images of another kind than those it was "
        "trained on, the network may be sure and wrong all the same.</p>\n"
        f'<div class="plots">\n{_plots(report.calibration)}\n{facts}\n</div>'
    )


def _data_check(lines: Sequence[str]) -> str:
    if not lines:
        return "<p>No image is in two classes or two splits, and none was left out.</p>"
    return "<ul>\n" + "\n".join(f"<li>{_text(line)}</li>" for line in lines) + "\n</ul>"


def _plots(plots: Mapping[str, bytes]) -> str:
    return "\n".join(
        f'<img alt="{_text(alt)}" src="data:image/svg+xml;base64,{base64.b64encode(svg).decode()}">'
        for alt, svg in plots.items()
    )
