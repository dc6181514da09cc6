"""A saved network opens anywhere, and the package works on more than one Keras backend."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
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
assert keras.backend.backend() == "jax", keras.backend.backend()
pixels = numpy.load(sys.argv[2])
numpy.save(sys.argv[3], keras.ops.convert_to_numpy(model(pixels, training=False)))
"""

# Then finds the package, tries to export the model, and runs tests, which know no backend.
FRIEND = """
sys.meta_path.remove(Blocked)
import pytest
from keras_resnet18 import export_tflite
from keras_resnet18.errors import InputError
try:
    export_tflite(model, "a.tflite")
except InputError as error:
    print(error)
sys.exit(pytest.main(["-q", "-n", "0", "-p", "no:cacheprovider", *sys.argv[4:]]))
"""

TESTS = [
    f"{HERE / 'test_pooling.py'}::test_{name}_equals_torchs_in_every_way[7x10_to_3x4]"
    for name in ("output", "gradient")
]


def test_on_jax_a_saved_network_opens_alike_without_this_package_which_works_there_too(
    monkeypatch, run_python, tmp_path
):
    narrow_resnet18(monkeypatch)
    model = build_resnet18(input_shape=(32, 32, 3), classes=10, stem="small_stride2")
    pixels = np.random.RandomState(0).randint(0, 256, (4, 32, 32, 3)).astype("uint8")
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "pixels.npy", pixels)
    files = [str(tmp_path / name) for name in ("model.keras", "pixels.npy", "out.npy")]
    printed = run_python(STRANGER + FRIEND, *files, *TESTS, **JAX)
    expected = np.asarray(model(pixels, training=False))
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-5)
    assert "Received: KERAS_BACKEND='jax'" in printed
    assert not (tmp_path / "a.tflite").exists()
    assert re.search(r"^2 passed", printed, re.MULTILINE), printed
