"""Run: the folder that a training writes, and the names of its files."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from keras_resnet18.errors import InputError, listed, path_of, reason
from keras_resnet18.files import staged, to_json
from keras_resnet18.preprocess import Preprocess
from keras_resnet18.recipe import HUB, Recipe, hub_name, on_hub
from keras_resnet18.spec import SPEC_FILE, ClassifierSpec

DEFAULT_FOLDER = Path("saved_models")

CARD_MARK = (  # in a README.md that `report` wrote and may replace
    "<!-- Written by keras-resnet18, which replaces it as long as this line stands here. -->"
)


class Entry:
    """A file or folder of a run; as an attribute of a `Run`, its path."""

    def __init__(self, name: str, holds: str) -> None:
        self.name, self.holds = name, holds

    def __get__(self, run: Run, owner: type[Run]) -> Path:
        return run.path / self.name


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained classifier with its settings and results.

    Attributes:
        path: The folder.
        origin: `"hf:OWNER/NAME@COMMIT"` of a downloaded run, which is never written to; None for a
            local folder.
    """

    path: Path
    origin: str | None = None

    # A finished run has a recipe, a model and metrics; metrics are written last.
    recipe_file = Entry("recipe.toml", "settings of the training, as TOML")
    spec_file = Entry(SPEC_FILE, "class names, preprocessing and score threshold, as JSON")
    environment_file = Entry("environment.json", "images, versions, device, precision, as JSON")
    history_file = Entry("history.csv", "a row for each epoch")
    model_file = Entry("model.keras", "the network of the best epoch, for Keras 3.4 and later")
    curves_file = Entry("curves.png", "loss and accuracy over the epochs")
    confusion_file = Entry("confusion_matrix.png", "confusion matrix of the test images")
    predictions_file = Entry("predictions.csv", "true and predicted class of each test image")
    report_file = Entry("report.html", "results and mistakes, a page for a browser")
    metrics_file = Entry("metrics.json", "figures of validation and test images, as JSON")
    _written = (  # by a training, in the order in which a replacement moves into place
        *(recipe_file, spec_file, environment_file, history_file, model_file),
        *(curves_file, confusion_file, predictions_file, report_file, metrics_file),
    )

    card_file = Entry("README.md", "a model card with Hugging Face's metadata")
    tensorboard_folder = Entry("tensorboard", "events for TensorBoard")
    checkpoints_folder = Entry("checkpoints", "states of an unfinished training")
    export_folder = Entry("export", "exported files")
    lock_file = Entry(".lock", "nothing; a training locks it")

    @property
    def replacement(self) -> Run:
        """The unfinished training that will replace this finished run."""
        return Run(self.path / ".replacement")

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that a training may write, `metrics.json` last."""
        return tuple(self.path / entry.name for entry in self._written)

    @property
    def has_own_card(self) -> bool:
        """Whether README.md is the card that `report` wrote, not the user's own file."""
        with contextlib.suppress(OSError):
            return CARD_MARK in self.card_file.read_text(encoding="utf-8", errors="replace")
        return False

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe of the training."""
        try:
            return Recipe.from_toml(self._read(self.recipe_file))
        except InputError as error:
            raise InputError(f"{self.recipe_file}: {error}") from None

    @cached_property
    def spec(self) -> ClassifierSpec:
        """The classifier's specification; its preprocessing is never None."""
        spec = ClassifierSpec.read(self.spec_file)
        if spec.preprocess is None:
            raise InputError(f"a run needs its preprocessing. Received: {self.spec_file} without")
        if twice := {label for label in spec.labels if spec.labels.count(label) > 1}:
            raise InputError(
                f"a run's labels must be different names. Received: {self.spec_file} with "
                f"{listed(sorted(twice))} more than once"
            )
        return spec

    @property
    def preprocess(self) -> Preprocess:
        """Preprocessing of images for the network."""
        assert self.spec.preprocess is not None
        return self.spec.preprocess

    @property
    def metrics(self) -> dict[str, Any]:
        """Contents of `metrics.json`: the evaluation of validation and test, or of folds."""
        return self._read_json(self.metrics_file)

    @property
    def history(self) -> list[dict[str, float]]:
        """Rows of `history.csv`, one for each epoch."""
        rows = csv.DictReader(self._read(self.history_file).splitlines())
        try:
            return [{key: float(value) for key, value in row.items()} for row in rows]
        except (TypeError, ValueError):
            raise _damaged(self.history_file) from None

    @property
    def environment(self) -> dict[str, Any]:
        """Contents of `environment.json`: source, versions, device, precision."""
        return self._read_json(self.environment_file)

    @property
    def source(self) -> str | None:
        """Name that opens the images again; None if they came from arrays."""
        name = self.environment.get("source")
        if not isinstance(name, str | None):
            raise _damaged(self.environment_file)
        return name

    @property
    def source_options(self) -> dict[str, Any]:
        """Options with which `open_source` opens `source` as the training did."""
        facts = self.environment
        return {
            "split_seed": facts.get("split_seed", 0),
            "leave_out": facts.get("left_out", {}),
            "whole": self.folds is not None,
        }

    @property
    def folds(self) -> int | None:
        """Number of folds of the training; None if it has a test split."""
        folds = self.environment.get("folds")
        return None if folds is None else int(folds["count"])

    @property
    def figures(self) -> dict[str, Any]:
        """Figures on the test images or all folds, with the current names of the classes."""
        figures: dict[str, Any] = self.metrics["test" if self.folds is None else "folds"]
        now = dict(zip(self.trained_labels, self.spec.labels, strict=True))
        return {
            **figures,
            "majority_class": now[figures["majority_class"]],
            "never_tested": [now[name] for name in figures["never_tested"]],
            "per_class": [{**one, "name": now[one["name"]]} for one in figures["per_class"]],
        }

    @property
    def trained_labels(self) -> tuple[str, ...]:
        """Names of the classes in the training; those in `classifier.json` may have been edited."""
        figures = self.metrics["test" if self.folds is None else "folds"]
        names = tuple(one["name"] for one in figures["per_class"])
        if len(names) != len(self.spec.labels):
            raise InputError(
                f"{self.spec_file} must have a label for each of the {len(names)} classes, in the "
                f"order of the training: {listed(names)}. Received: {len(self.spec.labels)} labels"
            )
        return names

    @cached_property
    def model(self) -> Any:
        """The trained `keras.Model`."""
        model = open_model(self.model_file)
        self.spec.check_model(model.input_shape[1:], model.output_shape[-1], self.spec_file)
        return model

    @property
    def lacks_metrics(self) -> bool:
        """Whether `metrics.json` was removed: plots, which are drawn after it, are there."""
        drawn = (self.curves_file, self.confusion_file, self.report_file)
        return any(file.is_file() for file in drawn) and not self.metrics_file.is_file()

    @property
    def finished(self) -> bool:
        """Whether the training is finished. Folders of other programs may hold a model.keras."""
        files = (self.recipe_file, self.model_file, self.metrics_file)
        return all(file.is_file() for file in files)

    def _read(self, path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8-sig")  # Windows' editors may add a BOM
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise InputError(
                f"a run needs its {path.name}: copy it from a backup, or train again. "
                f"Received: {path} ({reason})"
            ) from None

    def _read_json(self, path: Path) -> dict[str, Any]:
        text, values = self._read(path), None
        with contextlib.suppress(ValueError):
            values = json.loads(text)
        if not isinstance(values, dict):
            raise _damaged(path)
        return values

    def write_text(self, path: Path, text: str) -> None:
        """Write a file completely or not at all."""
        with staged(path) as new:
            new.write_text(text, encoding="utf-8")

    def write_json(self, path: Path, values: Mapping[str, Any]) -> None:
        """Write a JSON file completely or not at all."""
        self.write_text(path, to_json(values))

    def write_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write `history.csv`."""
        with staged(self.history_file) as new, new.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def _damaged(path: Path) -> InputError:
    return InputError(
        f"{path.name} must be as `train` wrote it: copy it from a backup, or train again. "
        f"Received: {path}, which is damaged"
    )


def open_model(path: Path) -> Any:
    """Load the `keras.Model` of a .keras file, uncompiled, or raise InputError."""
    import keras

    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is not a model that Keras opens: a .keras file is a zip archive")
    try:
        with zipfile.ZipFile(path) as archive:
            # since Python 3.13, Keras' way of reading checks no CRC
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"{damaged} in it is damaged")
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # a damaged file may make the zip reader or Keras raise anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{path} is not a model that Keras opens: {reason}") from None


# Defaults that newer versions of Keras write into a layer's config, and older ones refuse
_SINCE_KERAS_3_4: dict[str, dict[str, Any]] = {
    "InputLayer": {"optional": False},
    "Conv2D": {"quantization_config": None},
    "Dense": {"quantization_config": None},
    "BatchNormalization": {"renorm": False, "renorm_clipping": None, "renorm_momentum": 0.99},
    "VarianceScaling": {"input_axes": None, "output_axes": None},
}


def save_model(model: Any, path: Path) -> None:
    """Write a network as a .keras file for Keras 3.4 and later.

    It is not compiled: the optimizer's state would double the file. Tried with Keras 3.4.1, 3.5.0,
    3.6.0, 3.8.0, 3.12.0, 3.14.1 and 3.15.1.
    """
    import keras

    network = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    network.save(new := path.with_name(f"new-{path.name}"))
    with zipfile.ZipFile(new) as whole, zipfile.ZipFile(path, "w") as portable:
        for entry in whole.infolist():
            content = whole.read(entry)
            if entry.filename == "config.json":
                config = json.loads(content, object_hook=_without_defaults)
                content = json.dumps(config).encode()
            portable.writestr(entry, content)
    new.unlink()


def _without_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """Remove newer defaults from one object of a model's config, if it describes a layer."""
    if newer := _SINCE_KERAS_3_4.get(values.get("class_name", "")):
        inner = values["config"].items()
        values["config"] = {key: x for key, x in inner if key not in newer or x != newer[key]}
    return values


def _downloaded(name: str) -> Run:
    """Download a run from the Hugging Face Hub to its client's cache, at one commit."""
    import huggingface_hub

    blank, (repository, revision) = Run(Path()), hub_name(name)
    files = [file.name for file in (*blank.files, blank.card_file)]
    try:
        folder = huggingface_hub.snapshot_download(
            repository, revision=revision, allow_patterns=files
        )
    except Exception as error:  # network, proxy, Hub and disk errors share no base class
        raise InputError(
            "hf: needs a run that the Hugging Face Hub or its cache has; a gated one needs "
            f"`hf auth login`. Received: {name!r} ({reason(error, lines=2)})"
        ) from error
    return Run(Path(folder), f"{HUB}{repository}@{Path(folder).name}")


def load_run(path: str | os.PathLike[str]) -> Run:
    """Open the run of a finished training.

    Args:
        path: Its folder, or `"hf:OWNER/NAME@REVISION"` on the Hugging Face Hub.

    Raises:
        InputError: If there is no run, or it is unfinished or incomplete.
    """
    exports = "export_tflite, export_onnx and export_saved_model"
    expected = f"a run or its folder; a model of your own is exported by {exports}"
    run = _downloaded(str(path)) if on_hub(path) else Run(path_of(path, expected))
    if not run.recipe_file.is_file():
        found = "without" if run.path.exists() else "which is not there"
        raise InputError(
            f"a run is a folder that `train` left, with {run.recipe_file.name} in it. "
            f"Received: {path}, {found}"
        )
    if run.lacks_metrics or (run.metrics_file.is_file() and not run.model_file.is_file()):
        lacking = run.metrics_file if run.lacks_metrics else run.model_file
        raise InputError(
            f"a run needs its {lacking.name}: copy it from a backup, or train again with "
            f"overwrite=True. Received: {path} without"
        )
    if not run.finished:
        raise InputError(f"{path} is an unfinished run: go on with {resume_call(run.path)}")
    if run.replacement.metrics_file.is_file():  # its process was killed while it moved
        raise InputError(
            f"{path} is being replaced by a finished training: end it with {resume_call(run.path)}"
        )
    return run


def resume_call(path: Path) -> str:
    """The call that resumes the training in a folder, for messages."""
    return f"train(resume={str(path)!r})"


def run_of(file: Path) -> Run | None:
    """The finished run that a file belongs to: in the file's folder or the one above it."""
    folder = file.absolute().parent
    return next((run for run in map(Run, (folder, folder.parent)) if run.finished), None)
