"""Model card of a run: README.md with Hugging Face's metadata."""

from __future__ import annotations

import contextlib
from pathlib import Path

from keras_resnet18.classify.accuracy import in_words, notes
from keras_resnet18.errors import InputError
from keras_resnet18.recipe import hub_name, on_hub
from keras_resnet18.run import CARD_MARK, Run, load_run
from keras_resnet18.weights.catalogue import find_weights
from keras_resnet18.weights.checkpoints import is_name

_CLASSES = 30  # names of classes in the card


def write_card(run: Run) -> None:
    """Write the card, unless README.md comes from somebody else."""
    if run.card_file.is_file() and not run.has_own_card:
        return
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    figures, folds = run.figures, run.folds
    name, images = run.path.absolute().name, Path(run.source or "arrays").name
    images = hub_name(run.source)[0] if on_hub(run.source) else images
    base_model, license = _pretrained(run)
    data = ModelCardData(
        library_name="keras",
        pipeline_tag="image-classification",
        tags=["image-classification", "resnet", "keras-resnet18"],
        model_name=name,
        base_model=base_model,
        license=license,
        datasets=[images] if on_hub(run.source) else None,
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type=images,
                dataset_name=images,
                dataset_split="test" if folds is None else f"{folds}-fold",
                metric_type=kind,
                metric_value=figures[kind],
            )
            for kind in ("accuracy", "balanced_accuracy")
        ],
    )
    card = ModelCard.from_template(
        data,
        template_path=str(Path(__file__).with_name("card.md")),
        mark=CARD_MARK,
        name=name,
        images=images,
        weights=None if run.recipe.finetune is None else Path(run.recipe.finetune.weights).name,
        license=license,
        non_commercial="nc" in (license or "").split("-"),
        run=run,
        figures=figures,
        accuracy=in_words(figures["accuracy"], figures["interval"], figures["n"]),
        notes=notes(figures),
        listed=run.spec.labels[:_CLASSES],
    )
    run.write_text(run.card_file, f"{card}\n")


def _pretrained(run: Run) -> tuple[str | None, str | None]:
    """Repository and license of the weights that a run began with, or None if unknown."""
    from huggingface_hub import ModelCard

    weights = "" if run.recipe.finetune is None else run.recipe.finetune.weights
    with contextlib.suppress(InputError):  # neither published weights nor a run that still exists
        if not on_hub(weights) and is_name(weights):
            published = find_weights(weights)
            return published.repository, published.license.lower()
        base = load_run(weights)
        repository = None if base.origin is None else hub_name(base.origin)[0]
        card = ModelCard.load(base.card_file) if base.card_file.is_file() else None
        return repository, None if card is None else card.data.license
    return None, None
