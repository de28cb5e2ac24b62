"""Both pages are whole by themselves, and nothing else can run in them."""

from __future__ import annotations

import asyncio
import re
from importlib.resources import files

import httpx
import pytest
from fastapi import FastAPI

from neural_condense_core.dashboard import app as dashboard
from neural_condense_core.gateway import playground
from neural_condense_core.pages.assets import SHARED, add_assets

PAGES = {each.FOLDER: each.ASSETS for each in (dashboard, playground)}
NAMESPACES = {"http://www.w3.org/2000/svg"}
EXAMPLES = {"http://127.0.0.1:8000"}
ROUTES = {"/openapi.json", "/api/overview"}


def texts(folder):
    shared = files("neural_condense_core.pages")
    own = files(folder) / "pages"
    return {
        path: (place / name).read_text(encoding="utf-8")
        for place, assets in ((own, PAGES[folder]), (shared, SHARED))
        for path, (name, _) in assets.items()
    }


def directives(policy):
    return dict(part.strip().partition(" ")[::2] for part in policy.split(";"))


@pytest.mark.parametrize("folder", PAGES)
def test_every_file_comes_with_the_headers(folder):
    app = FastAPI()
    add_assets(app, folder, PAGES[folder])
    paths = [*PAGES[folder], *SHARED]

    async def ask():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://page") as client:
            return [await client.get(path) for path in paths]

    for reply in asyncio.run(ask()):
        assert reply.status_code == 200
        found = directives(reply.headers["content-security-policy"])
        assert found["default-src"] == found["frame-ancestors"] == found["base-uri"] == "'none'"
        assert found["script-src"] == found["style-src"] == found["connect-src"] == "'self'"
        assert (found["require-trusted-types-for"], found["trusted-types"]) == (
            "'script'",
            "'none'",
        )
        assert "unsafe" not in reply.headers["content-security-policy"]
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert reply.headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("folder", PAGES)
def test_a_page_names_no_other_host_and_holds_no_inline_code(folder):
    own = {each.name for each in (files(folder) / "pages").iterdir()}
    assert own == {name for name, _ in PAGES[folder].values()}
    served = {*PAGES[folder], *SHARED}
    for path, text in texts(folder).items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
        assert set(re.findall(r"https?://[^\s\"'`/]+[^\s\"'`]*", text)) <= {
            each for known in (NAMESPACES, {f"{one}/v1" for one in EXAMPLES}) for each in known
        }
        asked = re.findall(r"""(?:href|src|from) ?=? ?"(/[^"]+)\"""", text)
        assert set(asked) <= served | ROUTES, path
        assert len(text.splitlines()) < 400
    html = texts(folder)["/"]
    assert not re.search(r"\son\w+=|style=|<style|<script(?! type=\"module\" src=)", html)
    sheets = re.findall(r'rel="stylesheet" href="([^"]+)"', html)
    assert sheets[0] == "/page.css"


def test_what_both_pages_carry_has_one_home():
    own = [
        {line.strip() for text in texts(folder).values() for line in text.splitlines()}
        for folder in PAGES
    ]
    shared = {
        line.strip()
        for name, _ in SHARED.values()
        for line in (files("neural_condense_core.pages") / name).read_text().splitlines()
    }
    twice = {line for line in own[0] & own[1] - shared if len(line) > 60}
    assert {line for line in twice if not line.startswith("<")} == set()
