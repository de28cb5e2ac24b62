"""The page: self-contained, escaped, complete, and right in what it says."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from report_fakes import NASTY, report, row

from neural_condense_core.evaluation.html_report import beside_best, findings, to_html
from neural_condense_core.evaluation.metrics import Margin

VOID = {"meta", "br", "img", "input", "link", "hr"}


class Page(HTMLParser):
    """Elements, ids, links; refuses elements that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        found = dict(attrs)
        if "id" in found:
            self.ids.append(str(found["id"]))
        self.links += [str(found[name]) for name in ("href", "xlink:href", "src") if name in found]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def text() -> str:
    return to_html(report())


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_nothing_is_fetched_and_nothing_runs(text: str, page: Page) -> None:
    assert not {"script", "link", "img", "iframe", "object", "embed", "form"} & set(page.names)
    assert all(link.startswith("#") for link in page.links)
    assert set(re.findall(r"https?://[^\s\"']+", text)) <= {
        "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink",
    }  # fmt: skip
    assert "@import" not in text
    assert "default-src 'none'" in text
    assert re.findall(r"\son\w+=", text) == []


def test_ids_are_distinct_and_links_lead_to_them(page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links} <= set(page.ids)


def test_texts_of_the_report_are_escaped(text: str, page: Page) -> None:
    assert "<script" not in text
    assert page.texts.count(NASTY) == 2  # context and reply, whole
    assert f"answer: {NASTY}" in page.texts


def test_every_part_is_there(page: Page) -> None:
    assert {
        "short",
        "methods",
        "ratio",
        "length",
        "cost",
        "share",
        "costs",
        "examples",
        "table",
    } <= {*page.ids}
    assert page.names.count("svg") == 11
    assert page.names.count("h1") == 1
    assert "a note" in page.texts
    assert {"Who & why?", "a <b>"} <= {part.strip() for part in page.texts}


def test_tables_hold_all_rows_and_scroll_by_keyboard(text: str, page: Page) -> None:
    assert text.count('<th scope="row" class="text">pooled (int8)</th>') == 1
    # two tasks at two ratios; a baseline stands nowhere else than here
    assert text.count('<th scope="row" class="text">head-tail</th>') == 4
    tables = page.names.count("table")
    assert tables == text.count('<div class="wide" tabindex="0" role="region"') - 1


def test_it_is_for_phones_and_for_the_dark(text: str) -> None:
    assert 'name="viewport" content="width=device-width' in text
    assert "prefers-color-scheme: dark" in text
    assert '<html lang="en">' in text


def test_an_empty_report_is_a_page_too() -> None:
    bare = Page(to_html(report(rows=(), examples=(), notes=(), costs=None, seeds=())))
    assert "Nothing is compared here but training-free methods." in bare.texts
    assert not {"costs", "examples"} & set(bare.ids)


@pytest.mark.parametrize(
    ("interval", "says"),
    [
        ((0.1, 0.3), "above it: +0.20 (0.10 to 0.30)"),
        ((-0.3, -0.1), "below it: "),
        ((-0.1, 0.3), "not told apart from it: "),
        (None, "C = 0.20, +0.20"),
    ],
)
def test_words_follow_from_intervals(interval: tuple[float, float] | None, says: str) -> None:
    assert says in beside_best(row("pooled", best_baseline=Margin("spans", 0.2, 0.2, interval)))


def test_findings_are_of_compared_condensers_undisturbed() -> None:
    found = list(findings(report()))
    assert len(found) == 4
    assert found[0] == (
        "pooled, answer at 4x: C = 0.40 (0.30 to 0.50); best baseline spans, C = 0.20, "
        "above it: +0.20 (0.10 to 0.30); 12 items, 6 documents."
    )


def test_when_it_pays_is_said(page: Page) -> None:
    said = (
        "pooled at 4x pays at the first use in time from 512 context tokens on, in operations at "
        "none of these lengths (measured up to 1024)."
    )
    assert said in page.texts
