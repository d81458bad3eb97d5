"""The page of examples/browser in headless Chromium, beside onnxruntime."""

import functools
import http.server
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.small import small_checkpoint
from vfn.interop import export_onnx
from vfn.runs import write_checkpoint

PAGE = Path(__file__).parents[2] / "examples" / "browser"
RUNTIME = os.environ.get("VFN_ORT_WEB") or str(PAGE / "node_modules" / "onnxruntime-web")
CHROMIUM = os.environ.get("VFN_CHROMIUM") or shutil.which("chromium")

pytestmark = [
    pytest.mark.skipif(not Path(RUNTIME).is_dir(), reason="no onnxruntime-web (npm install)"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path"),
]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_given):
        """Nothing on standard error."""


@pytest.fixture
def site(tmp_path):
    """The page with a small sampler beside it, on a port of this machine."""
    pytest.importorskip("onnxscript")
    for name in ("index.html", "draw.mjs"):
        shutil.copy(PAGE / name, tmp_path)
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "onnxruntime-web").symlink_to(RUNTIME)
    write_checkpoint(tmp_path / "model.safetensors", small_checkpoint())
    export_onnx(tmp_path / "model.safetensors", tmp_path / "draw.onnx", "abm2", 3)
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", tmp_path / "draw.onnx"
        server.shutdown()
        thread.join()


def test_the_page_draws_what_onnxruntime_draws(site):
    playwright = pytest.importorskip("playwright.sync_api")
    runtime = pytest.importorskip("onnxruntime")
    address, model = site
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(address)
        page.wait_for_function("() => document.getElementById('status').textContent != 'loading'")
        assert "10 pictures in" in page.text_content("#status")
        first = page.evaluate("[...window.drawn.pictures]")
        page.evaluate("window.drawn = null")
        page.select_option("#label", "8")
        page.wait_for_function("() => window.drawn")
        page.evaluate("window.drawn = null")
        page.fill("#guidance", "1.5")
        page.wait_for_function("() => window.drawn")
        assert page.input_value("#weight") == "1.5" or page.text_content("#weight") == "1.5"
        noise, found = (
            np.array(page.evaluate(f"[...window.drawn.{name}]"), np.float32).reshape(10, 1, 8, 8)
            for name in ("noise", "pictures")
        )
        drawn = page.evaluate("document.getElementById('pictures').toDataURL().length")
        browser.close()
    session = runtime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    given = {"noise": noise, "labels": np.full(10, 8), "guidance": np.full(10, 1.5, np.float32)}
    (expected,) = session.run(None, given)
    assert abs(noise.mean()) < 0.2
    assert 0.8 < noise.std() < 1.2
    assert np.abs(found - expected).max() <= 1e-4  # guidance scales what float32 has rounded
    assert np.abs(found.ravel() - first).max() > 0.01
    assert drawn > 500
