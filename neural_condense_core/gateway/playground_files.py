"""Text of files that a browser cannot read by itself: HTML pages and PDF documents.

Where it sits: ``playground.py`` calls ``extract``; this module is also what its child process runs.

Design decisions

* Every file is read in a process of its own with bounds on memory, processor and time: a document
  can be made so that reading it takes for ever, and a thread cannot be stopped. That process writes
  no file, nor leaves its memory, with the document in it, behind when it is killed.
* What comes out is bounded too, in pages and characters, and says when it was cut.
* No message quotes the document; a reader's own exception is told by nothing but its type.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import io
import json
import os
import re
import resource
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import NoReturn

from neural_condense_core.errors import (
    DeadlineError,
    NeuralCondenseError,
    RequestError,
    UnsupportedMediaError,
)

HTML = "text/html"
PDF = "application/pdf"
MEDIA_TYPES = (HTML, "application/xhtml+xml", PDF)

MAX_FILE_BYTES = 8_000_000
MAX_PAGES = 300
MAX_CHARS = 1_000_000
TIMEOUT_S = 30.0
CPU_S = 20
MEMORY_BYTES = 1 << 30
NICE = 10
"""How far behind everything else a file's process stands in line for the processor."""

_SKIPPED = frozenset({"script", "style", "template", "noscript", "svg", "head", "iframe", "object"})
_VOID = frozenset({"br", "hr", "img", "input", "meta", "link", "wbr", "area", "col", "source"})
_BLOCKS = frozenset({
    "address", "article", "aside", "blockquote", "dd", "div", "dl", "dt", "fieldset", "figcaption",
    "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main",
    "nav", "ol", "p", "pre", "section", "table", "tr", "ul",
})  # fmt: skip
_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?([\w.:-]{1,40})""", re.IGNORECASE)
_CHARSET_WITHIN = 2048


@dataclass(frozen=True)
class Extracted:
    """Text of a file.

    Parameters
    ----------
    text : what is in it; not only whitespace
    n_pages : of a PDF; 0 of anything else
    is_cut : whether there was more than is read
    """

    text: str = field(repr=False)
    n_pages: int
    is_cut: bool


async def extract(body: bytes, media_type: str, timeout_s: float = TIMEOUT_S) -> Extracted:
    """Read the text of a file, in a process of its own.

    Parameters
    ----------
    body : the file, its size within ``MAX_FILE_BYTES``
    media_type : what it says it is
    timeout_s : most seconds

    Raises
    ------
    UnsupportedMediaError
        It is neither HTML nor PDF.
    DeadlineError
        It takes too long to read.
    RequestError
        It holds no text, or cannot be read.
    """
    if media_type not in MEDIA_TYPES:
        raise UnsupportedMediaError(
            "this file's text cannot be read; give a txt, md, html or pdf file",
            {"supported": list(MEDIA_TYPES)},
        )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", __name__, media_type,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(timeout_s):
            out, _ = await process.communicate(body)
    except TimeoutError:
        raise DeadlineError(
            "the file takes too long to read; send less of it, or its text"
        ) from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    try:
        said = json.loads(out)
    except ValueError:  # it was ended by its bounds on memory or processor
        raise RequestError(
            "the file takes too much to read; send less of it, or its text"
        ) from None
    if "fault" in said:
        raise RequestError(said["fault"])
    return Extracted(said["text"], said["n_pages"], said["is_cut"])


def html_text(body: bytes) -> str:
    """Return the text of an HTML page, a line a block."""
    parser = _Text()
    parser.feed(_decoded(body))
    parser.close()
    return parser.text()


def pdf_text(body: bytes) -> tuple[str, int, bool]:
    """Return the text of a PDF document, its number of pages, and whether some were left out.

    Raises
    ------
    RequestError
        It is protected by a password.
    """
    from pypdf import PdfReader
    from pypdf.errors import FileNotDecryptedError

    try:
        pages = PdfReader(io.BytesIO(body)).pages
        n_pages = len(pages)
        found: list[str] = []
        n_chars = 0
        for index in range(min(n_pages, MAX_PAGES)):
            text = pages[index].extract_text().strip()
            n_chars += len(text)
            found.append(text)
            if n_chars > MAX_CHARS:
                break
    except FileNotDecryptedError:
        raise RequestError("the PDF is protected by a password; remove it first") from None
    return "\n\n".join(filter(None, found)), n_pages, len(found) < n_pages


def _decoded(body: bytes) -> str:
    for mark, name in ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"),
                       (codecs.BOM_UTF16_BE, "utf-16")):  # fmt: skip
        if body.startswith(mark):
            return body.decode(name, "replace")
    said = _CHARSET.search(body[:_CHARSET_WITHIN])
    names = ["utf-8", said.group(1).decode("ascii", "replace") if said else "cp1252"]
    for name in names:
        with contextlib.suppress(LookupError, ValueError):
            return body.decode(name)
    return body.decode("utf-8", "replace")


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._lines: list[list[str]] = [[]]
        self._skipped: list[str] = []
        self._n_pre = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SKIPPED:
            self._skipped.append(tag)
        elif tag == "body":
            self._skipped.clear()  # a head that was never closed
        elif tag == "br" or tag in _BLOCKS:
            self._lines.append([])
        elif tag in {"td", "th"}:
            self._lines[-1].append(" ")
        self._n_pre += tag == "pre"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _VOID:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if self._skipped:
            if tag in self._skipped:
                del self._skipped[self._skipped.index(tag) :]
            return
        self._n_pre -= tag == "pre" and self._n_pre > 0
        if tag in _BLOCKS:
            self._lines.append([])

    def handle_data(self, data: str) -> None:
        if self._skipped:
            return
        if self._n_pre:
            first, *more = data.split("\n")
            self._lines[-1].append(first)
            self._lines += [[line] for line in more]
        else:
            self._lines[-1].append(data)

    def text(self) -> str:
        lines = (" ".join("".join(parts).split()) for parts in self._lines)
        return "\n".join(filter(None, lines))


def _read(body: bytes, media_type: str) -> Extracted:
    if media_type == PDF:
        text, n_pages, is_cut = pdf_text(body)
    else:
        text, n_pages, is_cut = html_text(body), 0, False
    # Surrogates would not survive the way back.
    text = text.encode("utf-8", "replace").decode().replace("\x00", "").strip()
    if not text:
        kind = "PDF (scanned pages are pictures of text)" if media_type == PDF else "page"
        raise RequestError(f"no text is in this {kind}")
    return Extracted(text[:MAX_CHARS], n_pages, is_cut or len(text) > MAX_CHARS)


def main() -> NoReturn:
    """Read a file from stdin and write what was found as JSON to stdout: the child's entry."""
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    body = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    try:
        found = _read(body, sys.argv[1])
        said = {"text": found.text, "n_pages": found.n_pages, "is_cut": found.is_cut}
    except NeuralCondenseError as error:
        said = {"fault": error.message}
    except Exception as error:  # noqa: BLE001 - a file from outside: whatever its reader raises
        said = {"fault": f"the file cannot be read ({type(error).__name__}); is it damaged?"}
    sys.stdout.write(json.dumps(said))
    sys.stdout.flush()
    sys.exit(0)


if __name__ == "__main__":
    main()
