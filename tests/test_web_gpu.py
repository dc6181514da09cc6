"""Exported files answer on LiteRT's GPU engine as on its CPU engines.

The files are those of the table in docs/formats.md, with fewer images than `training/webgpu.py`
takes. All of them take half an hour on two slow cores.
"""

from __future__ import annotations

import pytest
import webgpu
from browser import CHROMIUM, WEB

from keras_resnet18.files import TFLITE

pytestmark = pytest.mark.web
pytest.importorskip("playwright.sync_api", reason="needs playwright: see CONTRIBUTING.md")
if not CHROMIUM:
    pytest.skip("needs Chromium: see CONTRIBUTING.md", allow_module_level=True)
if not (WEB / "node_modules").is_dir():
    pytest.skip("needs npm ci in examples/web: see CONTRIBUTING.md", allow_module_level=True)


@pytest.mark.parametrize("kind", TFLITE.values())
@pytest.mark.parametrize("network", webgpu.NETWORKS)
def test_webgpu_gives_the_models_classes_as_often_as_the_cpu(network, kind, tmp_path):
    images = 8 if network == "resnet18-224" else 20
    found = webgpu.figures(webgpu.of_network(network, images, tmp_path), kind)
    agreeing, difference = found["agreeing"], found["difference"]
    assert agreeing["LiteRT"] >= 0.75 * images and found["classes"] > 2  # a network that knows
    assert found["errors"] == []
    for engine in ("wasm", "WebGPU"):
        assert agreeing[engine] >= agreeing["LiteRT"] - 1
        # the largest of few images varies: over 20 of resnet18-32, int8's is 1.7 times the CPU's
        assert difference[engine] <= 2 * difference["LiteRT"] + 1e-3
