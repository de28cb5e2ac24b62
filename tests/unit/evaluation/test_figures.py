"""Which figures a report gives."""

from __future__ import annotations

from dataclasses import replace

from report_fakes import report, row

from neural_condense_core.evaluation.figures import Point, compared_condensers, figures_of


def test_a_full_report_gives_every_figure() -> None:
    found = {
        figure.name: [panel.name for panel in figure.panels] for figure in figures_of(report())
    }
    assert found == {
        "methods": ["answer", "needle"],
        "ratio": ["answer", "needle"],
        "length": ["answer-4x", "answer-8x", "needle-4x", "needle-8x"],
        "cost": ["answer", "needle"],
        "share": ["4x"],
    }


def test_a_figure_without_points_is_not_there() -> None:
    bare = report(rows=(row("pooled"), row("spans", encode_ms=None)), costs=None)
    assert [figure.name for figure in figures_of(bare)] == ["methods", "cost"]
    assert figures_of(replace(bare, rows=())) == []
    unknown = report(rows=(row("pooled", content_recovery=None),), costs=None)
    assert figures_of(unknown) == []


def test_methods_are_ranked_and_undisturbed() -> None:
    panel = figures_of(report())[0].panels[0]
    assert [(series.name, series.role) for series in panel.series] == [
        ("head-tail", "baseline"), ("spans", "baseline"), ("pooled", "compared"),
        ("sentence-retrieval *", "query-aware"),
    ]  # fmt: skip
    assert panel.series[2].points == (Point(0.0, 0.4, 0.3, 0.5),)


def test_a_baseline_at_two_lengths_says_which() -> None:
    rows = (row("pooled"), row("spans", n_condensed=64.0), row("spans", n_condensed=80.0))
    panel = figures_of(report(rows=rows, costs=None))[0].panels[0]
    assert [series.name for series in panel.series] == [
        "pooled", "spans, 64 tokens", "spans, 80 tokens",
    ]  # fmt: skip


def test_lines_against_the_ratio_that_was_reached() -> None:
    rows = (row("pooled", 4.0, n_condensed=80.0), row("pooled", 8.0, ci=None))
    panel = figures_of(report(rows=rows, costs=None))[1].panels[0]
    (line,) = panel.series
    assert line.points == (Point(3.2, 0.4, 0.3, 0.5), Point(8.0, 0.4))


def test_lines_against_length_have_the_best_baseline_beside_them() -> None:
    panel = next(f for f in figures_of(report()) if f.name == "length").panels[0]
    assert {series.name: [point.x for point in series.points] for series in panel.series} == {
        "best baseline": [256.0, 1024.0],
        "pooled": [256.0, 1024.0],
    }


def test_shares_are_of_time_and_of_operations() -> None:
    panel = figures_of(report())[-1].panels[0]
    assert panel.line == 1.0
    found = {s.name: [round(point.y, 2) for point in s.points] for s in panel.series}
    assert found == {"pooled, operations": [1.15] * 3, "pooled": [1.17, 0.83, 0.83]}


def test_baselines_and_ends_are_not_compared() -> None:
    assert compared_condensers(report().rows) == ["pooled"]
