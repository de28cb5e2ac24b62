"""The API page is that of today, and the site is whole: strict, and nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LOADED = re.compile(
    r"""<(?:script|img|iframe|audio|video|source)\b[^>]*\bsrc=["']([^"']+)"""
    r"""|<link\b(?![^>]*rel=["']canonical)[^>]*\bhref=["']([^"']+)"""
)
FROM_STYLES = re.compile(r"""url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)""")


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *argv], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )


def test_the_api_page_is_that_of_today():
    done = run("docs/api.py", "--check")
    assert done.returncode == 0, done.stderr


def test_the_api_page_names_every_route_and_error():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for words in ("`POST /condense`", "`POST /v1/chat/completions`", "`DELETE /v1/contexts/"):
        assert words in page
    tree = (ROOT / "neural_condense_core" / "errors.py").read_text(encoding="utf-8")
    classes = re.findall(r"^class (\w+)\(", tree, re.MULTILINE)
    assert [name for name in classes if f"`{name}`" not in page] == []


def pages_in(entry: object) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry
    return [page for part in parts for page in pages_in(part)]


def test_every_page_is_in_the_navigation():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    known = set(pages_in(settings["nav"])) - {"overview.md"}
    assert known == {path.name for path in (ROOT / "docs").glob("*.md")}


@pytest.mark.slow
def test_the_site_is_built_and_loads_nothing_from_elsewhere(tmp_path):
    done = run("-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")}
    assert {"index.html", "overview.html", "privacy.html", "wire.html"} <= set(pages)
    loaded = [found for page in pages.values() for found in LOADED.findall(page)]
    for path in tmp_path.rglob("*.css"):
        loaded += FROM_STYLES.findall(path.read_text(encoding="utf-8"))
    names = {name for pair in loaded for name in pair if name}
    assert len(names) > 5
    assert {name for name in names if re.match(r"(?:https?:)?//", name)} == set()
    assert not [name for name, page in pages.items() if re.search(r"^```", page, re.MULTILINE)]
    assert "<table" in pages["privacy.html"]
    assert "README.md" not in "".join(re.findall(r'href="[^"]*"', pages["architecture.html"]))
