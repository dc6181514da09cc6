"""ClassifierSpec: everything needed to use a classifier, apart from its network."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_resnet18.errors import InputError, is_utf8, within
from keras_resnet18.files import to_json
from keras_resnet18.preprocess import Preprocess

# The name of the file in a run, beside an export and inside one that holds a specification
SPEC_FILE = "classifier.json"

# The labels alone, one a line: for TFLite Metadata and for apps
LABELS_FILE = "labels.txt"

# The answer in place of a class whose probability is below the threshold
NOT_SURE = "not sure"


@dataclasses.dataclass(frozen=True)
class ClassifierSpec:
    """Specification of a classifier: what its outputs mean and what its inputs are.

    It travels whole with a run and with every exported file, as `classifier.json`.

    Attributes:
        labels: Class names in the order of the model's output.
        preprocess: How an image becomes the model's pixels. None for a model that takes pixels of
            its own shape only: another number of channels than three, or images of any size.
        threshold: Score threshold, 0 to 1: below this highest probability the answer is
            "not sure". None answers every image.

    Raises:
        InputError: If a label is not one line of text or is "not sure", or the threshold is not a
            probability.
    """

    labels: tuple[str, ...]
    preprocess: Preprocess | None
    threshold: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.labels, str) or not isinstance(self.labels, Sequence):
            raise InputError(
                f"labels must be a list of class names. Received: {type(self.labels).__name__}"
            )
        object.__setattr__(self, "labels", tuple(self.labels))
        for label in self.labels:
            if not isinstance(label, str) or label.splitlines() != [label] or not is_utf8(label):
                raise InputError(
                    f"labels must be non-empty, one-line strings of Unicode. Received: {label!r}"
                )
            if " ".join(label.split()).casefold() == NOT_SURE:
                raise InputError(
                    f"labels must not be {NOT_SURE!r}, the answer below the score threshold: "
                    f"rename the class. Received: {label!r}"
                )
        if self.preprocess is not None and not isinstance(self.preprocess, Preprocess):
            raise InputError(
                "preprocess must be a Preprocess or None. "
                f"Received: {type(self.preprocess).__name__}"
            )
        check_threshold(self.threshold)

    def to_json(self) -> str:
        """The text of `classifier.json`."""
        return to_json(dataclasses.asdict(self))

    def labels_txt(self) -> str:
        """The text of `labels.txt`: the labels, one a line."""
        return "".join(f"{label}\n" for label in self.labels)

    @classmethod
    def from_json(cls, text: str, path: Path) -> ClassifierSpec:
        """Read the text of a `classifier.json`.

        Raises:
            InputError: If it is not a specification; the message names `path`.
        """
        try:
            values = json.loads(text)
            if set(values) != {field.name for field in dataclasses.fields(cls)}:
                raise InputError("the keys must be labels, preprocess and threshold")
            if values["preprocess"] is not None:
                values["preprocess"] = Preprocess(**values["preprocess"])
            return cls(**values)
        except (ValueError, TypeError, AttributeError) as error:
            raise _damaged(path, str(error)) from None

    @classmethod
    def read(cls, path: Path) -> ClassifierSpec:
        """Read a `classifier.json`.

        Raises:
            InputError: If there is no such file, or it is not a specification.
        """
        try:
            text = path.read_text(encoding="utf-8-sig")  # Windows' editors may add a mark
        except (OSError, UnicodeDecodeError) as error:
            raise _damaged(path, getattr(error, "strerror", None) or "it is not UTF-8") from None
        return cls.from_json(text, path)

    def check_model(self, shape: Sequence[int | None], classes: int, where: Path | str) -> None:
        """Raise InputError unless the specification fits a model.

        Args:
            shape: (height, width, channels) of the model's input; None where any size will do.
            classes: Number of the model's classes.
            where: The file with both, for the message.
        """
        if len(self.labels) != classes:
            raise InputError(
                f"labels must be {classes} names, one for each class in the order of the model's "
                f"output. Received: {len(self.labels)}, in {where}"
            )
        if self.preprocess is None:
            return
        size = self.preprocess.size
        if shape[2] != 3 or any(a not in (None, b) for a, b in zip(shape[:2], size, strict=True)):
            made, taken = ("×".join(map(str, x)) for x in ((*size, 3), shape))
            raise InputError(
                f"preprocess.size must be the size of the images that the model takes, {taken}. "
                f"Received: {made}, in {where}"
            )

    def sure(self, highest: Any) -> Any:
        """Whether images of these highest probabilities, a number or an array, are answered."""
        return highest >= (self.threshold or 0.0)

    def difference(self, other: ClassifierSpec) -> str | None:
        """Describe the first difference of another specification in one line; None if equal."""
        if self.labels != other.labels:
            if len(self.labels) != len(other.labels):
                return f"{len(other.labels)} labels, not {len(self.labels)}"
            pairs = enumerate(zip(self.labels, other.labels, strict=True))
            i, (own, its) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
            return f"label {i} is {its!r}, not {own!r}"
        if self.preprocess != other.preprocess:
            return f"images are prepared by {other.preprocess}, not by {self.preprocess}"
        if self.threshold != other.threshold:
            return f"the score threshold is {other.threshold}, not {self.threshold}"
        return None


def check_threshold(threshold: Any) -> None:
    """Raises InputError unless `threshold` is a probability or None."""
    number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    fits = threshold is None or (number and 0 <= threshold <= 1)
    within("threshold", threshold, fits, "a probability, from 0 to 1")


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(
        f"a classifier needs the {SPEC_FILE} that `train` and `export` write: copy it from a "
        f"backup, or export again. Received: {path} ({reason})"
    )
