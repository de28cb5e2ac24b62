"""Text of HTML and PDF files, and the bounds on reading them."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import time
import zlib

import pytest
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject, StreamObject

from neural_condense_core.errors import DeadlineError, RequestError, UnsupportedMediaError
from neural_condense_core.gateway import playground_files
from neural_condense_core.gateway.playground_files import HTML, PDF, extract, html_text, pdf_text


def document(*pages, locked_with=None):
    writer = PdfWriter()
    for text in pages:
        page = writer.add_blank_page(300, 200)
        if text is None:
            continue
        font = DictionaryObject({
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        })
        fonts = DictionaryObject({NameObject("/F1"): font})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET".encode())
        page[NameObject("/Contents")] = writer._add_object(stream)
    if locked_with:
        writer.encrypt(locked_with, algorithm="RC4-40")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def read(body, media_type=HTML, **options):
    return asyncio.run(extract(body, media_type, **options))


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>One <b>two</b>\n three<br>four", "One two three\nfour"),
        ("<head><title>T</title><style>p{}</style></head><p>x", "x"),
        ("<head><title>T</title><body><p>never closed", "never closed"),
        ("<p>a<script>if (1 < 2) alert('no')</script>b", "ab"),
        ("<ul><li>one<li>two</ul>&amp; &eacute; &#8212;", "one\ntwo\n& é \u2014"),
        ("<table><tr><td>1<td>2<tr><td>3</table>", "1 2\n3"),
        ("<pre>a\n  b</pre>", "a\nb"),
        ("<svg><text>drawn</text></svg>said<svg/>", "said"),
        ("<div><template>no<div>no</div></template>yes</div></div></p>", "yes"),
        ("plain text", "plain text"),
    ],
)
def test_a_page_gives_its_text(html, text):
    assert html_text(html.encode()) == text


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("<p>\u00e9".encode(), "\u00e9"),
        (b"\xef\xbb\xbf<p>\xc3\xa9", "\u00e9"),
        ("<p>\u00e9".encode("utf-16"), "\u00e9"),
        (b'<meta charset="iso-8859-2"><p>\xb1', "\u0105"),
        (b'<meta charset="base64"><p>\xe9', "\ufffd"),
        (b"<p>\xe9", "\u00e9"),
    ],
)
def test_a_page_is_read_in_its_encoding(body, text):
    assert html_text(body) == text


def test_a_document_gives_its_pages():
    text, n_pages, is_cut = pdf_text(document("First page", None, "Third page"))
    assert (text, n_pages, is_cut) == ("First page\n\nThird page", 3, False)


def test_pages_beyond_the_bound_are_left_out(monkeypatch):
    monkeypatch.setattr(playground_files, "MAX_PAGES", 2)
    text, n_pages, is_cut = pdf_text(document("one", "two", "three"))
    assert (text, n_pages, is_cut) == ("one\n\ntwo", 3, True)


def test_files_are_read_in_a_process_of_their_own():
    assert read(b"<p>hello").text == "hello"
    found = read(document("from the pdf"), PDF)
    assert (found.text, found.n_pages) == ("from the pdf", 1)


@pytest.mark.parametrize(
    ("body", "media_type", "message"),
    [
        (b"%PDF-1.4 the vault", PDF, "cannot be read"),
        (b"", PDF, "cannot be read"),
        (document(None), PDF, "scanned pages"),
        (document("secret", locked_with="x"), PDF, "password"),
        (b"<script>the vault</script>", HTML, "no text is in this page"),
    ],
)
def test_what_cannot_be_read_is_said_and_never_quoted(body, media_type, message):
    with pytest.raises(RequestError, match=message) as caught:
        read(body, media_type)
    assert "vault" not in caught.value.message


def test_other_files_are_refused():
    with pytest.raises(UnsupportedMediaError):
        read(b"x", "image/png")


def test_a_file_that_takes_too_long_is_given_up():
    begun_s = time.monotonic()
    with pytest.raises(DeadlineError):
        read(b"<p>x", timeout_s=0.001)
    assert time.monotonic() - begun_s < 5


def test_a_file_that_takes_too_much_is_given_up(monkeypatch):
    """Its process is ended by the bounds that it gave itself."""
    code = "import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, 1))\nwhile True: pass"
    spawn = asyncio.create_subprocess_exec

    async def hungry(program, *_, **options):
        return await spawn(program, "-c", code, **options)

    monkeypatch.setattr(playground_files.asyncio, "create_subprocess_exec", hungry)
    with pytest.raises(RequestError, match="takes too much"):
        read(b"<p>x")


def test_a_very_long_text_is_cut():
    found = read(b"<p>" + b"word " * 250_000)
    assert (len(found.text), found.is_cut) == (playground_files.MAX_CHARS, True)


def bomb(n_bytes):
    """A page whose content unpacks to zeros, a thousand times what it takes."""
    writer = PdfWriter()
    page = writer.add_blank_page(300, 200)
    stream = StreamObject()
    stream._data = zlib.compress(bytes(n_bytes), 9)
    stream[NameObject("/Filter")] = NameObject("/FlateDecode")
    page[NameObject("/Contents")] = writer._add_object(stream)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def test_a_file_that_unpacks_to_far_more_is_given_up():
    body = bomb(300_000_000)
    assert len(body) < playground_files.MAX_FILE_BYTES
    begun_s = time.monotonic()
    with pytest.raises(RequestError, match=r"no text|cannot be read|takes too much"):
        read(body, PDF)
    assert time.monotonic() - begun_s < playground_files.TIMEOUT_S


def test_reading_comes_last_and_leaves_no_memory_and_no_file_behind():
    code = (
        "import os, resource\n"
        "from neural_condense_core.gateway import playground_files as files\n"
        "files._read = lambda *_: files.Extracted(\n"
        "    repr([resource.getrlimit(getattr(resource, f'RLIMIT_{name}'))\n"
        "          for name in ('CORE', 'FSIZE')] + [os.nice(0)]), 0, False)\n"
        "files.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, HTML],
        input=b"<p>x", capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    assert (
        f"[(0, 0), (0, 0), {min(19, os.nice(0) + playground_files.NICE)}]".encode() in done.stdout
    )


@pytest.mark.parametrize("piece", [b"<!--", b"<a b="])
def test_markup_that_takes_the_square_of_its_length_is_given_up(piece):
    begun_s = time.monotonic()
    with pytest.raises(DeadlineError, match="takes too long"):
        read(b"<p>begins" + piece * 1_000_000, timeout_s=1.0)
    assert time.monotonic() - begun_s < 5
