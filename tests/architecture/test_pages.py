"""What a browser is served is whole by itself: nothing of it comes from an outside address."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from neural_condense_core.dashboard.app import create_app as dashboard
from neural_condense_core.gateway.app import create_app as gateway
from neural_condense_core.miner.axon import Axon
from neural_condense_core.miner.axon import create_app as axon
from neural_condense_core.scoring.app import create_app as scoring
from neural_condense_core.serving.app import create_app as backend
from neural_condense_core.serving.settings import ServeSettings
from neural_condense_core.validator.gate import create_app as gate

PACKAGE = Path(__file__).resolve().parents[2] / "neural_condense_core"
PAGE_FILES = sorted(
    path for ending in ("html", "css", "js", "svg", "j2") for path in PACKAGE.rglob(f"*.{ending}")
)
ADDRESS = re.compile(r"""https?://[^\s"'<>)`]*|(?<=["'(=`])//[\w.-]+""")
KNOWN = re.compile(r"http://www\.w3\.org/|http://127\.0\.0\.1[:/]")
"""The name of SVG, which nobody loads, and this machine itself."""


class Part:
    """Stands for whatever an application is made of: it has every attribute, each another part."""

    def __getattr__(self, name: str) -> Part:
        if name.startswith("__"):
            raise AttributeError(name)
        return Part()


APPS = {
    "axon": lambda: axon(Axon.__new__(Axon)),
    "backend": lambda: backend(Part(), ServeSettings("echo")),
    "dashboard": lambda: dashboard(Part()),
    "gate": lambda: gate(Part()),
    "gateway": lambda: gateway(Part()),
    "scoring": lambda: scoring(Part(), Part()),
}
WITH_OPENAPI = {"backend", "gate", "gateway"}


def outside(text: str) -> list[str]:
    return [found for found in ADDRESS.findall(text) if not KNOWN.match(found)]


def test_what_counts_as_outside():
    assert outside('<script src="https://cdn.example/a.js">') == ["https://cdn.example/a.js"]
    assert outside("<link href='//cdn.example/a.css'>") == ["//cdn.example"]
    assert outside("@import url(//cdn.example/a.css);") == ["//cdn.example"]
    assert (
        outside('ns = "http://www.w3.org/2000/svg"; // a remark\nurl = "http://127.0.0.1:1/"') == []
    )


def test_no_file_of_a_page_names_an_outside_address():
    assert len(PAGE_FILES) > 10
    found = {path.name: outside(path.read_text(encoding="utf-8")) for path in PAGE_FILES}
    assert {name: addresses for name, addresses in found.items() if addresses} == {}


def test_every_application_of_ours_is_looked_at():
    makers = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.FunctionDef) and call.name == "create_app"
    }
    assert len(makers) == len(APPS), makers


@pytest.mark.parametrize("name", APPS)
def test_no_application_serves_the_frameworks_own_pages(name):
    app: FastAPI = APPS[name]()
    client = TestClient(app)
    for path in ("/docs", "/redoc", "/docs/oauth2-redirect"):
        assert client.get(path).status_code == 404, path
    assert (client.get("/openapi.json").status_code == 200) == (name in WITH_OPENAPI)
    assert client.get("/no/such/route").json()["error"]["code"]


@pytest.mark.parametrize("name", ["dashboard", "gateway"])
def test_no_page_that_is_served_names_an_outside_address(name):
    app: FastAPI = APPS[name]()
    client = TestClient(app)
    pages = [route.path for route in app.routes if "asset" in getattr(route, "name", "")]
    assert len(pages) > 3
    for path in pages:
        reply = client.get(path)
        assert outside(reply.text) == [], path
        assert "default-src 'none'" in reply.headers["content-security-policy"], path
