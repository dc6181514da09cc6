"""keras-resnet18: each command parses, makes one call, and prints."""

from __future__ import annotations

import csv
import enum
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from keras_resnet18.errors import InputError
from keras_resnet18.machine import start_tensorflow

if TYPE_CHECKING:
    from keras_resnet18.commands.benchmark import Result
    from keras_resnet18.verification.report import ExportReport

app = typer.Typer(
    help="A folder of images becomes a small image classifier that is proved to work on a phone.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

DEMO_RUN = Path("saved_models/demo")
DEMO_FORMATS = ("saved_model", "tflite", "tflite-int8")  # it has three minutes

_INTERRUPTED = 130  # 128 + SIGINT, what shells expect; Typer turns Ctrl-C into it


class SplitName(enum.StrEnum):
    """The splits of a source."""

    test = "test"
    validation = "validation"
    train = "train"


RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `train` left.")]
ModelArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|FILE",
        help="A run's folder, or what was exported: a .tflite or .onnx file, or a SavedModel.",
    ),
]


@app.command()
def train(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder of images (class/… or train|val|test/class/…), a folder of IDX files, "
            "tfds:NAME, or digits.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write. [default: saved_models/<source>]")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="digits, small-images, photos, finetune, or a .toml file. "
            "[default: what suits the images]"
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH",
            help="What to fine-tune: published weights (keras-resnet18 info weights), or a "
            "checkpoint such as resnet18.safetensors. Means --recipe finetune.",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="auto, float32, mixed_float16 or mixed_bfloat16, instead of the recipe's."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change the recipe, such as optimizer.learning_rate=0.1; may be repeated.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run there.")] = False,
) -> None:
    """Train a classifier on images, and leave a run: model, figures, plots."""
    start_tensorflow()
    from keras_resnet18.commands.train import default_recipe, train
    from keras_resnet18.data.sources import open_source
    from keras_resnet18.recipe.recipe import load_recipe

    opened = open_source(source)
    chosen = load_recipe(recipe or ("finetune" if weights else default_recipe(opened)))
    if weights is not None:
        chosen = chosen.with_weights(weights)
    changes = [f"epochs={epochs}"] if epochs is not None else []
    changes += [f"precision={precision}"] if precision is not None else []
    train(
        opened,
        chosen.changed([*changes, *(settings or [])]),
        out,
        overwrite=overwrite,
        console=_console(),
    )


@app.command()
def evaluate(
    model: ModelArgument,
    data: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Other images than those the run was trained on."),
    ] = None,
    split: Annotated[SplitName, typer.Option(help="Which part of them.")] = SplitName.test,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Compare an exported file with the run that it was made from; what is found is "
            "written beside it too, as JSON. Exit status 1 if it does not give the run's answers.",
        ),
    ] = None,
) -> None:
    """Measure top-1 accuracy on held-out images, with its 95 % interval."""
    start_tensorflow()
    if against is not None:
        _prove(model, against, data, split)
        return
    from keras_resnet18.evaluation.accuracy import evaluate
    from keras_resnet18.runtime.classifier import open_classifier

    classifier = open_classifier(model)
    images = classifier.images(data).splits[split.value]
    result = evaluate(classifier.predict, images, classifier.preprocess)
    _console().print(f"{split.value} accuracy {result}")


@app.command()
def predict(
    model: ModelArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|FOLDER…", help="Images.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes to name for each.")] = 3,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV on standard output.")] = False,
) -> None:
    """Name the most probable classes of images, a row a file in the order given."""
    start_tensorflow()
    from keras_resnet18.runtime.classifier import image_files, open_classifier

    classifier = open_classifier(model)
    top = min(top, len(classifier.labels))
    write = _csv_writer(top) if as_csv else _text_row
    broken = 0
    for path in image_files(images):
        try:
            write(path, classifier.top(path, top), "")
        except InputError as error:
            broken += 1
            write(path, [], str(error))
    if broken:
        raise typer.Exit(1)


@app.command()
def export(
    run: RunArgument,
    formats: Annotated[
        list[str],
        typer.Option(
            "--format",
            help="saved_model, tflite, tflite-float16, tflite-dynamic, tflite-int8, onnx or all.",
        ),
    ] = ["all"],  # noqa: B006  # Typer reads it, nobody changes it
    out: Annotated[Path | None, typer.Option(help="Folder to write. [default: RUN/export]")] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Other images than those the run was trained on."),
    ] = None,
    about: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=TEXT",
            help="Tell in the .tflite files' metadata its name, description, version, author or "
            "license; may be repeated.",
        ),
    ] = None,
    check_images: Annotated[
        int, typer.Option(help="How many test images to compare on, at the most.")
    ] = 1000,
) -> None:
    """Write files for servers and phones, each compared with the model before it has its name."""
    start_tensorflow()
    from keras_resnet18.commands.export import export_run
    from keras_resnet18.run import load_run

    _print_reports(
        export_run(
            load_run(run),
            formats,
            out,
            data=data,
            check_images=check_images,
            about=dict(_key_and_text(words) for words in about or []),
            note=_console().print,
        )
    )


@app.command()
def benchmark(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN|FILE…",
            help="A run, for its model and all its exports; a .tflite, .onnx or .keras file; a "
            "SavedModel's folder.",
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Other images than those the run was trained on."),
    ] = None,
    rounds: Annotated[int, typer.Option(help="How often each file has its turn.")] = 3,
    seconds: Annotated[float, typer.Option(help="How long a turn is, after the warm-up.")] = 2.0,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE.json", help="Every round's figures, for a program."),
    ] = None,
    plot_file: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.png", help="Accuracy against latency, an image."),
    ] = None,
) -> None:
    """Measure latency, memory, size and top-1 of files side by side, on one thread and on all."""
    start_tensorflow()
    from keras_resnet18.commands.benchmark import benchmark

    console = _console()
    results = benchmark(
        files,
        data=data,
        rounds=rounds,
        seconds=seconds,
        json_file=json_file,
        plot_file=plot_file,
        say=console.print,
    )
    _print_results(results)
    for written in (json_file, plot_file):
        if written is not None:
            console.print(written)


@app.command()
def demo() -> None:
    """Train on scikit-learn's digits, export, and prove the exports: two to three minutes."""
    start_tensorflow()
    from keras_resnet18.commands.export import export_run
    from keras_resnet18.commands.train import train

    run = train("digits", "digits", DEMO_RUN, overwrite=True, console=_console())
    _console().print("exporting, and comparing each file with the model")
    _print_reports(export_run(run, DEMO_FORMATS))
    _console().print(
        f"look at {run.curves_file} and {run.confusion_file}, or try\n"
        f"  keras-resnet18 info {run.path}"
    )


@app.command()
def info(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN|FILE|weights",
            help="A run, a SavedModel, a .tflite, .onnx or .keras file, or the word weights (a "
            "run's folder of that name is ./weights).",
        ),
    ] = None,
) -> None:
    """Tell what this machine has; what a run or a model file is; which weights have a name."""
    if what == "weights":
        from keras_resnet18.weights.catalogue import table

        _console().print(table())
        return
    start_tensorflow()
    from keras_resnet18.commands.info import about_file, about_machine

    _console().print(about_machine() if what is None else about_file(Path(what)))


def main() -> None:
    """The console script: bad input is one line and exit 1, an interruption exit 130."""
    for stream in (sys.stdout, sys.stderr):
        # a class may be named in any script, a terminal may know only one
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        app(prog_name="keras-resnet18")
    except InputError as error:
        print(f"keras-resnet18: {error}", file=sys.stderr)
        sys.exit(1)
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            print("keras-resnet18: interrupted", file=sys.stderr)
        raise


def _console() -> Console:
    """Plain text, so that lines are the same on a terminal and in a file, and are never broken."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def _prove(file: Path, run: Path, data: str | None, split: SplitName) -> None:
    from keras_resnet18.commands.verify import prove

    report = prove(file, run, data=data, split=split.value)
    _console().print(report.table())
    if report.fault is not None:
        raise InputError(f"{file} does not pass: {report.fault}")


def _key_and_text(words: str) -> tuple[str, str]:
    key, equals, text = words.partition("=")
    if not equals:
        raise InputError(f"--about takes KEY=TEXT, such as author='A. Lee'. Received: {words}")
    return key, text


def _text_row(path: Path, top: Sequence[tuple[str, float]], error: str) -> None:
    print(path, error or "  ".join(f"{name} {value:.1%}" for name, value in top), sep="  ")


def _csv_writer(top: int) -> Callable[[Path, Sequence[tuple[str, float]], str], None]:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    names = [f"{what}_{i}" for i in range(1, top + 1) for what in ("class", "probability")]
    writer.writerow(["file", *names, "error"])

    def write(path: Path, best: Sequence[tuple[str, float]], error: str) -> None:
        cells = [cell for name, value in best for cell in (name, f"{value:.6f}")]
        writer.writerow([path, *cells, *[""] * (2 * top - len(cells)), error])

    return write


def _print_reports(reports: Iterable[ExportReport]) -> None:
    """A table of what was exported, and where it lies."""
    headings = ("format", "MB", "ms an\nimage", "images", "same\nclass")
    table = _table(*headings, "largest\ndifference", "top-1", "model's\ntop-1")
    paths = []
    try:
        for report in reports:
            proof = report.comparison
            table.add_row(
                report.format,
                f"{report.size_bytes / 1e6:.3g}",
                f"{report.latency_ms:.3g}",
                f"{proof.n:,}",
                _percent(proof.agreement),
                f"{proof.max_difference:.1e}",
                _percent(proof.accuracy),
                _percent(proof.model_accuracy),
            )
            paths.append(report.path)
    finally:  # what is written stays when a later format is refused
        if paths:
            console = _console()
            console.print(table, soft_wrap=False)
            for path in paths:
                console.print(path)


def _print_results(results: Iterable[Result]) -> None:
    """A table of what was measured, a row for each file and number of threads."""
    headings = ("threads", "median\nms", "p90\nms", "images\nper s", "peak\nMiB", "MB", "top-1")
    table = _table("file", *headings)
    table.columns[0].overflow = "fold"  # a name of any length, whole
    for result in results:
        table.add_row(
            result.name,
            str(result.threads),
            _three_digits(result.median_ms),
            _three_digits(result.p90_ms),
            _three_digits(result.images_per_second),
            f"{result.peak_mib:,.0f}",
            _three_digits(result.size_bytes / 1e6),
            _percent(result.accuracy),
        )
    _console().print(table, soft_wrap=False)


def _table(*headings: str) -> Table:
    """A table that is readable in a file and on every terminal of 80 columns."""
    table = Table(*headings)
    table.box, table.show_edge, table.pad_edge = box.ASCII2, False, False
    return table


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


if __name__ == "__main__":
    main()
