"""What the score threshold says of images that show none of a run's classes.

    python training/rejection.py --run RUN --foreign NAME=SOURCE... [--images N] [--data SOURCE]
                                 [--other CLASS] [--rows FILE]

Shows a run its own test images and all images of foreign sources, in the run's preprocessing, and
prints of each: the fraction that is refused, whose highest probability lies below the run's score
threshold, with its Wilson interval at 95 %; of its own images the accuracy of all and of those that
are not refused; of foreign ones the AUROC, the chance that an image of the run's scores higher than
a foreign one, by the highest probability and, for comparison, by energy (the logarithm of the sum
of the exponentials of the logits, Liu et al. 2020; files of ours give probabilities only).

The threshold is that in the run's classifier.json, or else the 5th percentile of the validation
images' highest probability. NAME is what a source is called in the table; SOURCE is a folder,
`tfds:NAME` or `digits`. --images takes that many images of each source instead of all; --data opens
the run's own images where they have moved, or came from arrays. --other names a class of other
things that the run was trained with: a further column gives the fraction that is refused or given
this class. Each line is a row in --rows as
soon as it is known, and is not measured again while the run's model stays. 10,000 images of 28 px
take half a minute on two threads.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from images import answers
from rows import (
    Row,
    append_row,
    at_least_one,
    machine,
    machine_in_words,
    read_rows,
    refused_in_a_line,
    table,
)
from runs import digest

from keras_resnet18.errors import InputError, one_of
from keras_resnet18.machine import start_keras

KEY = ("run", "model", "images", "data", "other", "name", "source")
OWN = "its own test images"
REFUSED_PERCENT = 5  # of the validation images, where a run has no threshold


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True)
    parser.add_argument("--foreign", nargs="+", required=True, metavar="NAME=SOURCE")
    parser.add_argument("--images", type=at_least_one, help="images of each source; all by default")
    parser.add_argument("--data", help="the run's images, where they are not where they were")
    parser.add_argument("--other", metavar="CLASS", help="the run's class of other things")
    parser.add_argument("--rows", type=Path, default=Path("saved_models/rejection.jsonl"))
    arguments = parser.parse_args(given)
    with refused_in_a_line():
        foreign = dict(map(named_source, arguments.foreign))
        start_keras()
        import keras_resnet18 as kr

        print(f"\n{text(measure(kr.load_run(arguments.run), foreign, arguments))}")


def named_source(text: str) -> tuple[str, str]:
    """`NAME=SOURCE` as a pair."""
    name, equals, source = text.partition("=")
    if not (name and equals and source):
        raise InputError(f"--foreign takes NAME=SOURCE, such as digits=digits. Received: {text!r}")
    return name, source


def measure(run: Any, foreign: dict[str, str], arguments: argparse.Namespace) -> list[Row]:
    """A row for the run's own images and one for each foreign source, as far as they lack."""
    import keras_resnet18 as kr

    about = (str(run.path), digest(run), arguments.images, arguments.data, arguments.other)
    keys = [(*about, OWN, None), *((*about, *pair) for pair in foreign.items())]
    known = {tuple(row[name] for name in KEY): row for row in read_rows(arguments.rows, *KEY)}
    if all(key in known for key in keys):
        return [known[key] for key in keys]

    classifier = kr.open_classifier(run)
    source, predict = classifier.open_images(arguments.data), with_energy(run.model)

    if arguments.other is not None:
        one_of("--other", arguments.other, run.spec.labels)

    def scores(split: Any, limit: int | None) -> tuple[Any, Any, Any, Any]:
        """Highest probabilities, energies, and the most probable classes, right or not."""
        found, labels = answers(predict, split, run.preprocess, limit=limit)
        probabilities, energies = found[:, :-1], found[:, -1]
        best = probabilities.argmax(1)
        return probabilities.max(1), energies, best == labels, np.array(run.spec.labels)[best]

    rows = []
    threshold, origin = threshold_of(run, lambda: scores(source.splits["validation"], None)[0])
    own = scores(source.splits["test"], arguments.images)
    for key in keys:
        row = known.get(key)
        if row is None:
            if key is keys[0]:
                figures = {**refused(own[0], threshold), **accuracies(own[:3], threshold)}
                probabilities, named = own[0], own[3]
            else:
                splits = kr.open_source(key[-1]).splits.values()
                limits = parts_of(arguments.images, [split.size for split in splits])
                parts = [scores(*one) for one in zip(splits, limits, strict=True) if one[1] != 0]
                probabilities, energies, _, named = (
                    np.concatenate([part[i] for part in parts]) for i in range(4)
                )
                figures = refused(probabilities, threshold)
                figures["auroc_probability"] = auroc(own[0], probabilities)
                figures["auroc_energy"] = auroc(own[1], energies)
            if arguments.other is not None:
                no_answer = (probabilities < threshold) | (named == arguments.other)
                figures["refused_or_other"] = float(no_answer.mean())
            row = dict(zip(KEY, key, strict=True)) | figures
            row |= {"threshold": threshold, "threshold_from": origin, **machine()}
            append_row(arguments.rows, row)
            print(f"{row['name']}: {row['refused']:.2%} refused", flush=True)
        rows.append(row)
    return rows


def with_energy(model: Any) -> Callable[[Any], Any]:
    """From pixels to the model's probabilities and, in a last column, the energy."""
    import keras

    head = model.layers[-1]
    both = keras.Model(model.input, [model.output, head.input])
    kernel, bias = (np.asarray(weights, np.float64) for weights in head.get_weights())

    def predict(pixels: Any) -> Any:
        probabilities, features = both.predict_on_batch(pixels)
        logits = np.asarray(features, np.float64) @ kernel + bias
        return np.column_stack([probabilities, np.logaddexp.reduce(logits, axis=1)])

    return predict


def threshold_of(run: Any, validation: Callable[[], Any]) -> tuple[float, str]:
    """The run's score threshold and where it is from.

    Args:
        run: The run.
        validation: Gives the validation images' highest probabilities.
    """
    if run.spec.threshold is not None:
        return run.spec.threshold, "classifier.json"
    return float(np.percentile(validation(), REFUSED_PERCENT)), "the validation images, here"


def parts_of(limit: int | None, sizes: Sequence[int]) -> list[int | None]:
    """How many images of each split are taken, where a source may give `limit` in all."""
    total = sum(sizes)
    if limit is None or limit >= total:
        return [None] * len(sizes)
    ends = [round(limit * end / total) for end in accumulate(sizes, initial=0)]
    return [end - start for start, end in pairwise(ends)]


def refused(probabilities: Any, threshold: float) -> Row:
    """How many images lie below the threshold."""
    from keras_resnet18.classify.accuracy import interval

    count, n = int((probabilities < threshold).sum()), len(probabilities)
    return {"n": n, "refused": count / n, "interval": interval(count, n)}


def accuracies(own: tuple[Any, Any, Any], threshold: float) -> Row:
    """Accuracy on all own images, and on those that are not refused."""
    probabilities, _, right = own
    kept = right[probabilities >= threshold]
    return {
        "accuracy": float(right.mean()),
        "accuracy_kept": float(kept.mean()) if len(kept) else None,
    }


def auroc(own: Any, foreign: Any) -> float:
    """Area under the ROC curve of a score that should be higher for own images."""
    from sklearn.metrics import roc_auc_score

    is_own = np.repeat([1, 0], [len(own), len(foreign)])
    return float(roc_auc_score(is_own, np.concatenate([own, foreign])))


def text(rows: Sequence[Row]) -> str:
    """A table of a run, and the machines."""
    own, lines = rows[0], []
    for row in rows:
        low, high = row["interval"]
        cells = [row["name"], f"{row['n']:,}", f"{row['refused']:.2%} ({low:.2%} to {high:.2%})"]
        scores = ("auroc_probability", "auroc_energy")
        cells += [f"{row[score]:.4f}" if score in row else "" for score in scores]
        if own["other"] is not None:
            cells.append(f"{row['refused_or_other']:.2%}")
        lines.append(cells)
    titles = ["images", "n", "refused", "AUROC, highest probability", "AUROC, energy"]
    titles += [f"refused, or {own['other']!r}"] * (own["other"] is not None)
    kept = own["accuracy_kept"]
    return "\n\n".join(
        (
            f"{own['run']}, threshold {own['threshold']:.4f} from {own['threshold_from']}",
            table(titles, lines),
            f"accuracy {own['accuracy']:.2%} on all of its own images, "
            + ("all of them refused" if kept is None else f"{kept:.2%} on those not refused"),
            machine_in_words(rows),
        )
    )


if __name__ == "__main__":
    main()
