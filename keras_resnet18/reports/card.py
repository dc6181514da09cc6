"""Model card of a run: README.md with Hugging Face's metadata."""

from __future__ import annotations

from pathlib import Path

from keras_resnet18.classify.accuracy import in_words, notes
from keras_resnet18.run import CARD_MARK, Run

_CLASSES = 30  # that are listed


def write_card(run: Run) -> None:
    """Write the card, unless README.md is somebody else's."""
    if run.card_file.is_file() and not run.has_own_card:
        return
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    figures, folds = run.figures, run.folds
    name, images = run.path.absolute().name, Path(run.source or "arrays").name
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
        run=run,
        figures=figures,
        accuracy=in_words(figures["accuracy"], figures["interval"], figures["n"]),
        notes=notes(figures),
        listed=run.spec.labels[:_CLASSES],
    )
    run.write_text(run.card_file, f"{card}\n")
