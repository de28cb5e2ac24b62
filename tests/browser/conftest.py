"""A real Chromium for the pages; the whole folder is ``make test-browser``.

Every page made here fails its test when the page writes an error to its console, raises, or asks
another host for anything.
"""

import os
import shutil
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / name) for name in ("", "e2e", "integration", "browser")]

playwright = pytest.importorskip("playwright.sync_api", reason="make test-browser installs it")

NAMES = ("chromium", "chromium-browser", "google-chrome")
PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
DESK = {"width": 1200, "height": 800}


@pytest.fixture(scope="session")
def chromium():
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium on this machine; make test-browser installs it")
    with playwright.sync_playwright() as player:
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = player.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def new_page(chromium):
    """Open a page: ``new_page(viewport=, scheme=)``; its faults fail the test."""
    faults, contexts = [], []

    def open_page(viewport=None, scheme="light", allow=()):
        context = chromium.new_context(viewport=viewport or DESK, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)

        def note(text):
            if not any(word in text for word in allow):
                faults.append(text)

        page.on("console", lambda message: message.type == "error" and note(message.text))
        page.on("pageerror", lambda error: note(str(error)))
        page.on(
            "request",
            lambda request: (
                "127.0.0.1" not in request.url
                and not request.url.startswith(("data:", "blob:"))
                and note(request.url)
            ),
        )
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def picture():
    """Keep a screenshot under docs/pictures where KEEP_PICTURES is set."""

    def keep(page, name, *, full_page=True):
        taken = page.screenshot(full_page=full_page)
        assert taken.startswith(b"\x89PNG")
        if os.environ.get("KEEP_PICTURES"):
            PICTURES.joinpath(f"{name}.png").write_bytes(taken)

    return keep


CONTRAST = (Path(__file__).parent / "contrast.js").read_text()


@pytest.fixture
def phone():
    """The size of a small screen."""
    return {"width": 390, "height": 844}


@pytest.fixture
def poor_contrast():
    """Return the elements of a page whose text misses WCAG AA."""
    return lambda page: page.evaluate(CONTRAST)


@pytest.fixture(scope="session")
def toy_gateway():
    """Serve the playground over an engine without a model."""
    from playground_page import serve

    server = serve()
    yield server
    server.process.terminate()
    assert server.process.wait(30) == 0, server.log


@pytest.fixture
def play(toy_gateway, new_page):
    """Open the playground, ready; ``play(**options of new_page)``."""
    from playground_page import said

    def open_it(**options):
        page = new_page(**options)
        page.goto(toy_gateway.url + "/")
        said(page, "ready")
        return page

    return open_it
