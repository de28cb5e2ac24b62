"""What the site needs beyond this folder's files: README.md as a page, and links that lead there.

A hook of mkdocs, named in ``mkdocs.yml``. The documents are written for a checkout, where README.md
stands beside this folder; on the site it is the page ``overview.md``.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
OVERVIEW = "overview.md"
LICENCE = "LICENSE.txt"

_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add README.md and the licence."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    files.append(File.generated(config, OVERVIEW, content=_LINK.sub(_from_the_root, readme)))
    files.append(File.generated(config, LICENCE, content=licence))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to README.md lead to its page."""
    return _LINK.sub(lambda link: link[0].replace("(../README.md", f"({OVERVIEW}"), markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Show a bar in a table's code as a bar: forges need it escaped there, this parser does not."""
    return html.replace(r"\|", "|")


def _from_the_root(link: re.Match[str]) -> str:
    target = link["target"].removeprefix("docs/")
    return f"]({LICENCE if target == 'LICENSE' else target})"
