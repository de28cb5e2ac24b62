"""Contrast of every pair of colours on the pages, in both themes, by WCAG 2.2 level AA."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

SHARED = files("neural_condense_core.pages") / "page.css"
OWN = [
    files("neural_condense_core.gateway") / "pages" / "playground.css",
    files("neural_condense_core.dashboard") / "pages" / "dashboard.css",
]
SURFACES = ("paper", "panel")
TEXTS = ("ink", "muted", "link", "good", "bad")
MARKED = ("kept", "partly", "lost", "misled", "bar")
"""Behind text in the colour of ink."""
DRAWN = ("series", "second", "before", "link", "muted")
"""Lines, bars, outlines of focus and borders of fields."""
DECORATION = {"line"}
"""Parts what is parted by space too."""
TEXT_RATIO, DRAWN_RATIO = 4.5, 3.0


def themes():
    text = SHARED.read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", text, re.DOTALL)
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", each)) for each in blocks)
    return {"light": light, "dark": dark}


def luminance(colour):
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def pairs():
    found = [(text, on, TEXT_RATIO) for text in TEXTS for on in SURFACES]
    found += [("ink", on, TEXT_RATIO) for on in MARKED]
    found += [("button-ink", "button", TEXT_RATIO)]
    found += [(drawn, on, DRAWN_RATIO) for drawn in DRAWN for on in SURFACES]
    return found


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("front", "back", "least"), pairs())
def test_contrast(theme, front, back, least):
    colours = themes()[theme]
    assert contrast(colours[front], colours[back]) >= least


def test_black_on_white_is_as_the_standard_says():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_every_colour_has_a_use_that_is_measured():
    used = {name for pair in pairs() for name in pair[:2]} | DECORATION
    light, dark = themes().values()
    assert set(light) == set(dark) == used


def test_colours_are_named_in_the_shared_stylesheet_alone():
    raw = re.compile(r"#[0-9a-fA-F]{3,8}\b(?=[\s;,)])|rgba?\(|hsla?\(|oklch\(")
    shared = re.sub(r":root \{.*?\}", "", SHARED.read_text(encoding="utf-8"), flags=re.DOTALL)
    for text in (shared, *(each.read_text(encoding="utf-8") for each in OWN)):
        assert raw.findall(text) == []


def test_text_stands_on_the_surfaces_that_are_measured():
    """A rule that sets both says a pair of its own: that pair is measured too."""
    measured = {pair[:2] for pair in pairs()}
    for sheet in (SHARED, *OWN):
        for rule in re.findall(r"\{([^{}]*)\}", sheet.read_text(encoding="utf-8")):
            front = re.search(r"(?<![\w-])color: var\(--([\w-]+)\)", rule)
            back = re.search(r"background: var\(--([\w-]+)\)", rule)
            if front and back:
                assert (front.group(1), back.group(1)) in measured


@pytest.mark.parametrize("sheet", [SHARED, *OWN], ids=lambda path: path.name)
def test_what_moves_can_be_stilled(sheet):
    text = sheet.read_text(encoding="utf-8")
    moving = re.findall(r"(?:animation|transition)(?:-\w+)?:(?! none)", text)
    assert moving == []
    assert "prefers-reduced-motion: reduce" in SHARED.read_text(encoding="utf-8")
