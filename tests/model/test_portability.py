"""A saved network opens anywhere, and the builders work on more than one Keras backend."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small import narrow_resnet18

from keras_resnet18 import build_resnet18

HERE = Path(__file__).parent

# Compiling is most of what a small test on JAX costs.
JAX = {
    "KERAS_BACKEND": "jax",
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
}

# Opens a model where this package does not exist, and writes what it makes of some images.
STRANGER = """
import sys

class Blocked:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "keras_resnet18":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked)
try:
    import keras_resnet18
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("the package can be imported here")

import keras, numpy
model = keras.saving.load_model(sys.argv[1])
assert keras.backend.backend() == sys.argv[4], keras.backend.backend()
pixels = numpy.load(sys.argv[2])
numpy.save(sys.argv[3], keras.ops.convert_to_numpy(model(pixels, training=False)))
"""

# Then finds the package, and tries to export the model.
EXPORT = """
sys.meta_path.remove(Blocked)
from keras_resnet18 import export_tflite
from keras_resnet18.errors import InputError
try:
    export_tflite(model, "a.tflite")
except InputError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A network with every kind of layer as a `.keras` file, images, and its probabilities."""
    folder = tmp_path_factory.mktemp("saved")
    with pytest.MonkeyPatch.context() as patch:
        narrow_resnet18(patch)
        model = build_resnet18(input_shape=(32, 32, 3), classes=10, stem="small_stride2")
    pixels = np.random.RandomState(0).randint(0, 256, (4, 32, 32, 3)).astype("uint8")
    model.save(folder / "model.keras")
    np.save(folder / "pixels.npy", pixels)
    return folder, np.asarray(model(pixels, training=False))


def open_as_a_stranger(saved, run_python, tmp_path, environment, then=""):
    """Asserts that the probabilities are the same, and gives what was printed."""
    folder, expected = saved
    files = [folder / "model.keras", folder / "pixels.npy", tmp_path / "out.npy"]
    backend = environment["KERAS_BACKEND"]
    printed = run_python(STRANGER + then, *map(str, files), backend, **environment)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-5)
    return printed


def test_a_saved_network_opens_alike_without_this_package(saved, run_python, tmp_path):
    open_as_a_stranger(saved, run_python, tmp_path, {"KERAS_BACKEND": "tensorflow"})


def test_it_does_on_jax_too_and_an_export_there_names_the_backend(saved, run_python, tmp_path):
    printed = open_as_a_stranger(saved, run_python, tmp_path, JAX, EXPORT)
    assert "Received: KERAS_BACKEND='jax'" in printed
    assert not (tmp_path / "a.tflite").exists()


def test_what_equals_torch_or_resumes_on_tensorflow_does_on_jax_too():
    """Runs the very tests of TensorFlow, which know no backend."""
    tests = [
        *(f"{HERE / 'test_golden.py'}::{name}" for name in GOLDEN),
        *(f"{HERE / 'test_pooling.py'}::{name}[{case}]" for name in POOLING for case in CASES),
        f"{HERE.parent / 'fit' / 'test_resume.py'}::test_fit_takes_exactly_the_steps_that_are_left",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *tests],
        cwd=HERE.parents[1],
        env={**os.environ, **JAX},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"^{len(tests)} passed", done.stdout, re.MULTILINE), done.stdout


# The networks differ in what the builders ask for, not in what they ask of the backend.
GOLDEN = (
    "test_stages_and_logits_of_every_other_network_equal_torchs[18_grey]",
    "test_three_steps_have_torchs_losses_and_the_first_moves_every_weight_alike",
)
POOLING = ("test_output_equals_torchs_in_every_way", "test_gradient_equals_torchs_in_every_way")
CASES = ("7x10_to_3x4",)
