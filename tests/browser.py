"""The page in examples/web in headless Chromium, for its tests and for its image in the docs.

python tests/browser.py saved_models/demo/export IMAGE docs/web.png
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

WEB = Path(__file__).parents[1] / "examples" / "web"
CHROMIUM = shutil.which("chromium")

# As root, in a container without a network: no sandbox, and no connections of Chromium's own.
FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# WebGPU without a GPU: SwiftShader computes it on the CPU.
WEBGPU = [
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan,WebGPU",
    "--use-vulkan=swiftshader",
    "--enable-unsafe-swiftshader",
]


@contextlib.contextmanager
def served() -> Iterator[str]:
    """The page's address, served as `npm start` does."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=WEB)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@contextlib.contextmanager
def chromium() -> Iterator[Callable[..., Any]]:
    """`launch(*flags, webgpu=False)`, which gives a browser as Playwright has it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        browsers = []

        def launch(*flags: str, webgpu: bool = False) -> Any:
            gpu = WEBGPU if webgpu else ["--disable-gpu"]
            arguments = [*FLAGS, *gpu, *flags]
            browser = running.chromium.launch(executable_path=CHROMIUM, args=arguments)
            browsers.append(browser)
            return browser

        yield launch
        for browser in browsers:
            browser.close()


def main(export: str, image: str, screenshot: str) -> None:
    with served() as address, chromium() as launch:
        page = launch().new_page(viewport={"width": 640, "height": 480})
        page.emulate_media(reduced_motion="reduce")
        page.goto(address)
        page.set_input_files("#model", Path(export) / "model.tflite")
        page.set_input_files("#image", image)
        page.locator("#result:visible").wait_for()
        page.screenshot(path=screenshot, full_page=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
