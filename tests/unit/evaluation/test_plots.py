"""Plots: well-formed, readable in light and dark, the same every time."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest
from report_fakes import NASTY, report, row

from neural_condense_core.evaluation.figures import Panel, figures_of
from neural_condense_core.evaluation.plots import draw
from neural_condense_core.svg import DARK, LIGHT, stylesheet

PANELS = [
    pytest.param(panel, id=f"{figure.name}-{panel.name}")
    for figure in figures_of(report())
    for panel in figure.panels
]
SVG = "{http://www.w3.org/2000/svg}"
TEXT, GRAPHIC = 4.5, 3.0


def tree_of(drawing: str) -> ET.Element:
    return ET.fromstring(drawing)  # noqa: S314 - what was drawn just now


def texts_of(drawing: str) -> list[str]:
    return ["".join(text.itertext()).strip() for text in tree_of(drawing).iter(f"{SVG}text")]


@pytest.mark.parametrize("panel", PANELS)
def test_every_series_and_axis_is_named_in_text(panel: Panel) -> None:
    found = texts_of(draw(panel, "key"))
    assert {series.name for series in panel.series} <= set(found)
    assert {panel.title, panel.x_label} <= set(found)


@pytest.mark.parametrize("panel", PANELS)
def test_colours_are_variables_of_both_palettes(panel: Panel) -> None:
    drawing = draw(panel, "key")
    assert re.findall(r"#[0-9a-f]{6}\b", drawing) == []
    assert set(re.findall(r"var\(--([\w-]+)\)", drawing)) <= set(LIGHT)
    assert LIGHT.keys() == DARK.keys()


def test_the_same_panel_gives_the_same_bytes() -> None:
    panel = PANELS[0].values[0]
    assert draw(panel, "key") == draw(panel, "key")


def test_two_drawings_of_a_page_share_no_id() -> None:
    panel = PANELS[0].values[0]
    ids = [re.findall(r'\bid="([^"]+)"', draw(panel, key)) for key in ("first", "second")]
    assert len(ids[0]) == len(set(ids[0]))
    assert not set(ids[0]) & set(ids[1])
    drawing = draw(panel, "first")
    used = re.findall(r'(?:url\(#|href="#)([^")]+)', drawing)
    assert used
    assert set(used) <= set(ids[0])


def test_names_are_text_and_nothing_else() -> None:
    rows = (row(NASTY), row("_hidden"), row("a" * 90), row("spans"))
    (panel, _, _) = (p for f in figures_of(report(rows=rows)) for p in f.panels)
    found = texts_of(draw(panel, "key"))
    assert NASTY in found
    assert "\u200b_hidden" in found
    assert f"{'a' * 18}…{'a' * 18}" in found
    assert "<script" not in draw(panel, "key")


def test_a_picture_of_its_own_has_colours_and_a_size() -> None:
    drawing = draw(PANELS[0].values[0], "key", alone=True)
    root = tree_of(drawing)
    assert root.get("width")
    assert root.find(f"{SVG}title") is not None
    assert "prefers-color-scheme: dark" in drawing
    assert tree_of(draw(PANELS[0].values[0], "key")).get("width") is None


def test_a_lone_point_has_a_tick_beside_it() -> None:
    rows = (row("pooled", encode_ms=20.0), row("spans", encode_ms=20.0))
    panel = figures_of(report(rows=rows, costs=None))[-1].panels[0]
    assert panel.kind == "points"
    assert "10" in texts_of(draw(panel, "key"))


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast_meets_wcag_aa(palette: dict[str, str]) -> None:
    paper = palette["paper"]
    assert all(contrast(palette[name], paper) >= TEXT for name in ("ink", "muted", "series-0"))
    assert all(contrast(palette[name], paper) >= GRAPHIC for name in palette if "series" in name)


def test_the_stylesheet_names_every_colour_twice() -> None:
    assert all(stylesheet().count(f"--{name}:") == 2 for name in LIGHT)
