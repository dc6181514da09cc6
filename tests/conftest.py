"""What any test may use: small real data, shared networks, processes, Keras' settings put back."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from filelock import FileLock
from small import CLASSES, build_tiny, draw_images, train_quickly

from keras_resnet18.machine import prepare_tensorflow

pytest_plugins = ["digit_exports", "hub_server"]  # fixtures that several folders share

# As the command line does, before TensorFlow is first imported: tests train too.
prepare_tensorflow()

# As in a terminal: a shell's background job ignores these, and so would all that tests start.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (getattr(signal, "SIGHUP", signal.SIGTERM), signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)


@pytest.fixture(scope="session", autouse=True)
def tflite_converter_here() -> Iterator[None]:
    """Converts to .tflite in this process: the start of another takes longer than most conversions.

    `digit_exports` makes one of its files as users do, by a converter in a process of its own.
    """
    from keras_resnet18.exporters import convert, graph

    run_converter = graph.run_converter

    def convert_here(name: str, arguments: list[str], output: Path) -> None:
        if arguments[0] == convert.__file__:
            convert.main(*arguments[1:])
        else:
            run_converter(name, arguments, output)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "run_converter", convert_here)
        yield


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], Any]], Any]:
    """`once(name, make)`: what `make(folder)` returns, made once for all processes of the suite.

    It goes from process to process by pickle, its files in the folder.
    """
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "once"
    root.mkdir(exist_ok=True)

    def get(name: str, make: Callable[[Path], Any]) -> Any:
        folder, result = root / name, root / f"{name}.pickle"
        with FileLock(root / f"{name}.lock"):
            if not result.exists():
                folder.mkdir()
                result.write_bytes(pickle.dumps(make(folder)))
            return pickle.loads(result.read_bytes())

    return get


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Real handwritten digits: 1,797 uint8 RGB images of 32×32, and what they show (int64)."""
    from sklearn.datasets import load_digits

    grey, labels = load_digits(return_X_y=True)
    grey = np.rint(grey.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    grey = grey.repeat(4, axis=1).repeat(4, axis=2)
    return np.stack([grey] * 3, axis=-1), labels.astype(np.int64)


@pytest.fixture(scope="session")
def golden() -> Any:
    """What torch computed: the arrays of golden/golden.npz, explained in golden/make_golden.py."""
    return np.load(Path(__file__).parent / "golden" / "golden.npz")


@pytest.fixture(scope="session")
def resnet18() -> Any:
    """The network that `build_resnet18()` gives. It is shared: look, do not change."""
    from keras_resnet18 import build_resnet18

    return build_resnet18()


@pytest.fixture(scope="session")
def resnet18d() -> Any:
    """The network that `build_resnet18(variant="d")` gives. It is shared: look, do not change."""
    from keras_resnet18 import build_resnet18

    return build_resnet18(variant="d")


@pytest.fixture(scope="session")
def images(once: Any) -> Path:
    """A folder of images of 16×16 that a network learns in seconds: 49 to train, 9 and 12."""

    def draw(folder: Path) -> Path:
        draw_images(folder / "train", {"ant": 17, "bee": 16, "蝉": 16})
        draw_images(folder / "val", dict.fromkeys(CLASSES, 3))
        draw_images(folder / "test", dict.fromkeys(CLASSES, 4))
        return folder

    return Path(once("images", draw))


@pytest.fixture
def broken_images(images: Path, tmp_path: Path) -> Path:
    """`images` with one cut short in each split, which is seen only when it is decoded."""
    folder = Path(shutil.copytree(images, tmp_path / "broken"))
    for split in ("train", "val", "test"):
        path = folder / split / "bee" / "0.png"
        path.write_bytes(path.read_bytes()[:-100])
    return folder


@pytest.fixture(scope="session")
def quick_recipe() -> Any:
    """The smallest training that learns `images`. One image is left over in each epoch."""
    from keras_resnet18.recipe import Augment, Network, Optimizer, Recipe

    return Recipe(
        name="quick",
        epochs=3,
        batch_size=8,
        image_size=16,
        precision="float32",
        network=Network(stem="small_stride2"),
        optimizer=Optimizer(learning_rate=0.002, warmup_epochs=0),
        augment=Augment(shift=1),
    )


@pytest.fixture(scope="session")
def trained(images: Path, quick_recipe: Any, once: Any) -> tuple[Any, str]:
    """A finished run of `quick_recipe` on `images`, and what its training printed. Shared.

    Its network is tiny: what ResNet-18 has of its own is tested with the parts that know it.
    """
    from rich.console import Console

    from keras_resnet18 import load_run, train
    from keras_resnet18.fit import network

    def make(folder: Path) -> tuple[Path, str]:
        printed, out = io.StringIO(), folder / "insects"
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(network.BUILDERS, "resnet18", build_tiny)
            train(str(images), quick_recipe, out, console=Console(file=printed, width=200))
        return out, printed.getvalue()

    out, printed = once("trained", make)
    return load_run(out), printed


@pytest.fixture(scope="session")
def run(trained: tuple[Any, str]) -> Any:
    """The run of `trained`. It is shared: look, do not change."""
    return trained[0]


@pytest.fixture
def tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets `train` build a tiny network and draw nothing, for tests of all that is around it."""
    train_quickly(monkeypatch)


@pytest.fixture(scope="session")
def export_reports(run: Any, once: Any) -> list[Any]:
    """The reports of all exports of a copy of the run, compared on 10 images. Shared."""
    from keras_resnet18 import load_run
    from keras_resnet18.exporters import export as export_run, tflite
    from keras_resnet18.files import EXPORTS

    def make(folder: Path) -> list[Any]:
        copy = shutil.copytree(run.path, folder / "insects")
        with pytest.MonkeyPatch.context() as patch:
            for module in (tflite, export_run):  # the run has 49 training images
                patch.setattr(module, "MIN_CALIBRATION_IMAGES", 49)
            # the other two kinds of .tflite file have their tests in tests/export
            formats = [name for name in EXPORTS if name not in ("tflite-float16", "tflite-dynamic")]
            return export_run.export(load_run(copy), formats, check_images=10)

    reports: list[Any] = once("export_reports", make)
    return reports


@pytest.fixture(scope="session")
def exported(export_reports: list[Any]) -> Path:
    """The folder with `export_reports`' files, in a run. It is shared: look, do not change."""
    folder: Path = export_reports[0].path.parent
    return folder


@pytest.fixture
def as_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """`as_process(index, count)` makes this process one of several, which are not there."""
    from keras_resnet18 import distributed

    def pretend(index: int, count: int) -> None:
        monkeypatch.setattr(distributed, "_place", distributed._Place(index, count))

    return pretend


@pytest.fixture
def set_dtype_policy() -> Iterator[Callable[[str], None]]:
    """`keras.config.set_dtype_policy`, undone when the test is over."""
    import keras

    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., str]:
    """Runs a program in a process of its own, in an empty folder, and returns what it printed."""

    def run(program: str, *arguments: str, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


class Answer(NamedTuple):
    """What a command gave."""

    status: int
    out: str
    err: str


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Answer]:
    """Runs a command line in this process, in an empty folder, and asserts its status, if any."""
    from keras_resnet18.cli import app

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, status: int | None = 0) -> Answer:
        monkeypatch.setattr(sys, "argv", ["keras-resnet18", *map(str, arguments)])
        capsys.readouterr()
        found: Any = 0
        try:
            app.main()
        except SystemExit as end:
            found = end.code or 0
        answer = Answer(found, *capsys.readouterr())
        if status is not None:
            assert (answer.status, answer.err) == (status, ""), arguments
        return answer

    return run
