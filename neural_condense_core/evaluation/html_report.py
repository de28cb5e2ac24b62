"""One page that shows an evaluation: plots, tables, costs, examples.

Where it sits: drawn from a report alone, be it fresh or read from its JSON.

Design decisions

* One file without a script and without anything to be fetched; its own policy forbids both.
* Texts of the report (names, contexts, what a model wrote) are escaped, whoever wrote them.
* What a plot shows is in a table too; tables that are wider than a screen scroll by themselves,
  also by keyboard.
* What is said in words follows from the figures and their intervals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from neural_condense_core.evaluation import break_even
from neural_condense_core.evaluation.break_even import Costs
from neural_condense_core.evaluation.figures import compared_condensers, figures_of
from neural_condense_core.evaluation.metrics import Row
from neural_condense_core.evaluation.plots import draw
from neural_condense_core.evaluation.report import (
    COLUMNS,
    DETAILS,
    DETAILS_LEGEND,
    LEGEND,
    NAME,
    PART,
    PARTS,
    Column,
    Report,
    filled,
    number,
    with_interval,
)
from neural_condense_core.svg import stylesheet

TEMPLATES = Path(__file__).resolve().parent / "templates"
TEMPLATE = "report.html"
_TEXT_COLUMNS = {"condenser", "by", "part"}


@dataclass(frozen=True)
class Line:
    """A row of a table; ``marked`` are compared condensers."""

    cells: tuple[str, ...]
    marked: bool = False


@dataclass(frozen=True)
class Grid:
    """A table of texts; the first ``n_text`` columns are words, the others figures."""

    title: str
    head: tuple[str, ...]
    lines: tuple[Line, ...]
    n_text: int = 1


def to_html(report: Report) -> str:
    """Return the page.

    Parameters
    ----------
    report : of an evaluation
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(
        TEMPLATE
    ).render(
        report=report,
        stylesheet=Markup(stylesheet()),  # noqa: S704 - our own constants
        legend=LEGEND,
        details_legend=DETAILS_LEGEND,
        findings=list(findings(report)),
        figures=list(_drawn(report)),
        costs=_cost_grid(report.costs) if report.costs else None,
        pays=list(_when_it_pays(report.costs)) if report.costs else [],
        machine=_machine(report.costs) if report.costs else [],
        examples=[_example(example) for example in report.examples],
        tables=list(_grids(report, report.shown(), (NAME, *COLUMNS[1:]))),
        details=list(_grids(report, _detailed(report), (NAME, *DETAILS))),
        parts=list(_grids(report, report.by_part(), (*PART, NAME, *PARTS))),
    )


def findings(report: Report) -> Iterator[str]:
    """Yield what the figures say, a sentence a compared condenser, task and ratio."""
    compared = compared_condensers(report.rows)
    for row in report.shown():
        undisturbed = (row.positions, row.perturbation) == ("plain", "none")
        if row.condenser not in compared or not undisturbed or row.content_recovery is None:
            continue
        about = with_interval(row.content_recovery, row.ci)
        start = f"{row.condenser}, {row.task} at {row.ratio:g}x: C = {about}"
        yield f"{start}{beside_best(row)}; {row.n} items, {row.n_documents} documents."


def beside_best(row: Row) -> str:
    """Return how a row stands beside the best baseline at its length, as the rest of a sentence."""
    best = row.best_baseline
    if best is None or best.margin is None:
        return ""
    start = f"; best baseline {best.condenser}, C = {number(best.content_recovery)}, "
    distance = with_interval(best.margin, best.margin_ci, signed=True)
    if best.margin_ci is None:
        return f"{start}{distance}"
    low, high = best.margin_ci
    verdict = "above it" if low > 0 else "below it" if high < 0 else "not told apart from it"
    return f"{start}{verdict}: {distance}"


def _drawn(report: Report) -> Iterator[dict[str, Any]]:
    for figure in figures_of(report):
        drawings = [
            Markup(draw(panel, f"{figure.name}-{panel.name}"))  # noqa: S704 - escapes its texts
            for panel in figure.panels
        ]
        yield {
            "name": figure.name,
            "title": figure.title,
            "caption": figure.caption,
            "drawings": drawings,
        }


def _grids(report: Report, rows: Sequence[Row], columns: Sequence[Column]) -> Iterator[Grid]:
    """Yield a table a task and ratio, with ``none`` and ``full`` in each."""
    compared = set(compared_condensers(report.rows))
    for task, ratio in dict.fromkeys((row.task, row.ratio) for row in rows if row.ratio):
        chosen = [row for row in rows if row.task == task and row.ratio in {None, ratio}]
        shown = filled(columns, chosen)
        lines = tuple(
            Line(tuple(cell(row) for _, cell in shown), row.condenser in compared) for row in chosen
        )
        counted = f"{chosen[0].n} items, {chosen[0].dropped} dropped"
        title = f"{task} at {ratio:g}x" + (f", {counted}" if chosen[0].by == "all" else "")
        n_text = sum(name in _TEXT_COLUMNS for name, _ in shown)
        yield Grid(title, tuple(name for name, _ in shown), lines, n_text)


def _detailed(report: Report) -> list[Row]:
    return [row for row in report.shown() if row.choice or row.written]


def _cost_grid(costs: Costs) -> Grid:
    lines = tuple(Line((row.condenser, *break_even.cells(row))) for row in costs.rows)
    title = (
        f"Medians of {costs.repeats} interleaved runs; a use is one question to the first token "
        f"of its answer, {costs.n_prompt} tokens of prompt around the context"
    )
    return Grid(title, ("condenser", *break_even.COLUMNS), lines)


def _when_it_pays(costs: Costs) -> Iterator[str]:
    for (name, ratio), rows in costs.by_setting():
        told = []
        for unit, word in zip(break_even.UNITS, ("time", "operations"), strict=True):
            length = break_even.pays_from(rows, unit)
            told.append(
                f"in {word} from {length} context tokens on"
                if length
                else f"in {word} at none of these lengths"
            )
        longest = rows[-1].n_context
        yield (
            f"{name} at {ratio:g}x pays at the first use {', '.join(told)} "
            f"(measured up to {longest})."
        )


def _machine(costs: Costs) -> list[tuple[str, str]]:
    return [(str(key), str(value)) for key, value in costs.machine.items()]


def _example(example: dict[str, Any]) -> dict[str, Any]:
    replies = [
        {
            **reply,
            "ratio": f"{reply['ratio']:g}x" if reply["ratio"] else "",
            "f1": number(reply["f1"]),
        }
        for reply in example["replies"]
    ]
    return {**example, "replies": replies}
