"""Model card of a run: README.md with Hugging Face's metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_resnet18.classify.accuracy import in_words, notes
from keras_resnet18.run import CARD_MARK, Run

_CLASSES = 30  # that are listed


def write_card(run: Run, figures: Mapping[str, Any]) -> None:
    """Writes the card, unless README.md is somebody else's."""
    if not run.card_file.is_file() or run.has_own_card:
        run.write_text(run.card_file, card(run, figures))


def card(run: Run, figures: Mapping[str, Any]) -> str:
    """Text of the card.

    Args:
        run: The run.
        figures: `Evaluation.to_dict()` of its test images.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    name, images = run.path.absolute().name, Path(run.source or "arrays").name
    kinds = {"accuracy": figures["accuracy"], "balanced_accuracy": figures["balanced_accuracy"]}
    data = ModelCardData(
        library_name="keras",
        pipeline_tag="image-classification",
        tags=["image-classification", "resnet", "keras-resnet18"],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type=images,
                dataset_name=images,
                dataset_split="test",
                metric_type=kind,
                metric_value=value,
            )
            for kind, value in kinds.items()
        ],
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_text(run, name, images, figures)}"))


def _text(run: Run, name: str, images: str, figures: Mapping[str, Any]) -> str:
    network, preprocess = run.recipe.network, run.preprocess
    height, width = preprocess.size
    listed = ", ".join(f"`{label}`" for label in run.spec.labels[:_CLASSES])
    if (more := len(run.spec.labels) - _CLASSES) > 0:
        listed += f" and {more:,} more"
    calibrated = _calibrated(run, figures)
    accuracy = in_words(figures["accuracy"], figures["interval"], figures["n"])
    return f"""{CARD_MARK}

# {_escaped(name)}

A classifier of images into {len(run.spec.labels):,} classes: {listed}.

## How good it is

Top-1 accuracy on the test images: {accuracy}.

{"".join(f"- {_escaped(note)}{chr(10)}" for note in notes(figures))}
Each class has its figures in `metrics.json`; `report.html` shows the hardest mistakes. {calibrated}
On images of another kind than those it was trained on it may be sure and wrong.

## How to use it

```python
import keras

model = keras.saving.load_model("model.keras")
labels = open("labels.txt", encoding="utf-8").read().splitlines()
probabilities = model.predict(pixels)  # pixels: (n, {height}, {width}, 3), RGB, 0 to 255
```

`preprocess.json` says how an image is resized and cropped. With `pip install keras-resnet18`,
`keras-resnet18 predict FOLDER IMAGE` does all of it.

## How it was made

{network.name} (stem `{network.stem}`), recipe `{run.recipe.name}` in `recipe.toml`, on `{images}`.
Versions and device are in `environment.json`.
"""


def _calibrated(run: Run, figures: Mapping[str, Any]) -> str:
    if run.spec.threshold is None:
        return "Its probabilities are not calibrated."
    return (
        f"Its probabilities\nare calibrated on validation images; on the test images their error "
        f"(ECE) is {figures['ece']:.1%}. Where the highest is below "
        f"{run.spec.threshold:.1%},\nthe answer is “not sure”."
    )


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("`", "\\`").replace("*", "\\*")
