"""Which figures a report gives, and the points in them; nothing is drawn here.

Where it sits: between a report and ``plots.py``.

Design decisions

* Only undisturbed rows with plain positions are drawn; the tables hold the others.
* A figure is a handful of panels, one a task (and ratio), each drawn by itself: on a phone they
  stand below each other at a size that can be read.
* A figure without a point is not there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from neural_condense_core.condensers.registry import BASELINES
from neural_condense_core.evaluation.break_even import Costs, Unit
from neural_condense_core.evaluation.metrics import Row
from neural_condense_core.evaluation.report import Report

Kind = Literal["methods", "lines", "points"]
Role = Literal["compared", "dashed", "best", "baseline", "query-aware"]

C_LABEL = "content recovery C"
OTHERS = "other baselines"
BEST = "best baseline"
QUERY_AWARE = "knows the question"
USUAL_RATIO = 4.0
_ENDS = {"none", "full"}

_X = Callable[[Row], float]


@dataclass(frozen=True)
class Point:
    """A place in a panel.

    Parameters
    ----------
    x, y : the place; ``x`` is 0 where a panel has names instead
    low, high : 95 % interval of ``y``, or None
    """

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """Points of one name.

    Parameters
    ----------
    name : in the legend; series of one name share an entry
    role : how it is drawn; ``dashed`` is another quantity of a compared condenser
    index : which of the compared condensers it is, 0 otherwise
    points : in the order in which a line joins them
    """

    name: str
    role: Role
    index: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Panel:
    """One plot.

    Parameters
    ----------
    name : for file names
    title : above it
    kind : ``methods`` = a name a line, ``lines`` = joined points, ``points`` = loose ones
    x_label, y_label : of the axes
    series : what is in it
    x_base : of the logarithmic x axis
    line : height of a line to compare with, or None
    """

    name: str
    title: str
    kind: Kind
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_base: int = 2
    line: float | None = None


@dataclass(frozen=True)
class Figure:
    """Panels under one heading."""

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]


def figures_of(report: Report) -> list[Figure]:
    """Return the figures that a report has points for."""
    view = _View(report)
    found = [
        Figure(
            "methods",
            "Content recovery of every method",
            f"At {view.usual:g}x, every method with the same number of condensed tokens. Bars are "
            "95 % intervals over documents. 0 = says nothing about this text, 1 = as specific as "
            f"the full text. * {QUERY_AWARE} beforehand.",
            tuple(view.methods()),
        ),
        Figure(
            "ratio",
            "Content recovery against compression ratio",
            "Bars are 95 % intervals over documents. The best baseline is the best training-free "
            "method at exactly as many condensed tokens, chosen after the fact.",
            tuple(view.against_ratio()) if len(view.ratios) > 1 else (),
        ),
        Figure(
            "length",
            "Content recovery against context length",
            "Bars are 95 % intervals over documents.",
            tuple(view.against_length()),
        ),
        Figure(
            "cost",
            "Content recovery against the time to condense",
            "Median milliseconds a context on the machine that ran this, each context by itself. "
            "Up and to the left is better.",
            tuple(view.against_time()),
        ),
        Figure(
            "share",
            "Condensing and one use, relative to the full text",
            "Below 1 the first use already pays. Solid: measured time on the machine that ran "
            "this; dashed: counted operations. A use is one question up to the first token of "
            "its answer.",
            tuple(_shares(report.costs, view.compared)) if report.costs else (),
        ),
    ]
    return [figure for figure in found if figure.panels]


def compared_condensers(rows: Sequence[Row]) -> list[str]:
    """Return the names of what is compared: all but baselines, query-aware methods and ends."""
    return list(
        dict.fromkeys(
            row.condenser
            for row in rows
            if row.condenser not in {*_ENDS, *BASELINES} and not row.query_aware
        )
    )


class _View:
    """The rows that are drawn."""

    def __init__(self, report: Report) -> None:
        places = {row.positions for row in report.rows}
        positions = "plain" if "plain" in places else min(places, default="plain")
        self.rows = [
            row
            for row in report.rows
            if row.ratio is not None
            and row.content_recovery is not None
            and (row.positions, row.perturbation) == (positions, "none")
        ]
        self.compared = compared_condensers(report.rows)
        self.ratios = sorted({row.ratio for row in self.rows if row.ratio is not None})
        self.usual = min(
            self.ratios, key=lambda ratio: abs(math.log(ratio / USUAL_RATIO)), default=USUAL_RATIO
        )

    def methods(self) -> Iterator[Panel]:
        for task, rows in self._by_task("all"):
            chosen = [row for row in rows if row.ratio == self.usual]
            series = tuple(
                Series(
                    _length_named(row, chosen), self._role(row), self._index(row), (_point(row),)
                )
                for row in sorted(chosen, key=lambda row: row.content_recovery or 0.0)
            )
            if series:
                title = f"{task} at {self.usual:g}x"
                yield Panel(task, title, "methods", C_LABEL, "", series)

    def against_ratio(self) -> Iterator[Panel]:
        for task, rows in self._by_task("all"):
            series = tuple(self._lines(rows, _real_ratio))
            yield Panel(task, task, "lines", "compression ratio", C_LABEL, series)

    def against_length(self) -> Iterator[Panel]:
        for task, rows in self._by_task("length"):
            for ratio in self.ratios:
                chosen = [row for row in rows if row.ratio == ratio]
                if chosen:
                    yield Panel(
                        f"{task}-{ratio:g}x",
                        f"{task} at {ratio:g}x",
                        "lines",
                        "context tokens",
                        C_LABEL,
                        tuple(self._lines(chosen, _length)),
                    )

    def against_time(self) -> Iterator[Panel]:
        for task, rows in self._by_task("all"):
            timed = [row for row in rows if row.ratio == self.usual and row.encode_ms]
            series = tuple(
                Series(self._legend(row), self._role(row), self._index(row), (_timed(row),))
                for row in sorted(timed, key=lambda row: row.condenser not in BASELINES)
            )
            if series:
                title = f"{task} at {self.usual:g}x"
                yield Panel(task, title, "points", "ms a context", C_LABEL, series, x_base=10)

    def _by_task(self, by: str) -> Iterator[tuple[str, list[Row]]]:
        rows = [row for row in self.rows if row.by == by]
        for task in dict.fromkeys(row.task for row in rows):
            yield task, [row for row in rows if row.task == task]

    def _lines(self, rows: Sequence[Row], x_of: _X) -> Iterator[Series]:
        rows = sorted(rows, key=x_of)
        for name in BASELINES:
            points = tuple(_point(row, x_of(row)) for row in rows if row.condenser == name)
            if points:
                yield Series(OTHERS, "baseline", 0, points)
        best = {
            x_of(row): row.best_baseline.content_recovery
            for row in rows
            if row.best_baseline is not None
        }
        if best:
            yield Series(BEST, "best", 0, tuple(Point(x, y) for x, y in sorted(best.items())))
        for index, name in enumerate(self.compared):
            points = tuple(_point(row, x_of(row)) for row in rows if row.condenser == name)
            if points:
                yield Series(name, "compared", index, points)

    def _role(self, row: Row) -> Role:
        if row.query_aware:
            return "query-aware"
        return "baseline" if row.condenser in BASELINES else "compared"

    def _index(self, row: Row) -> int:
        return self.compared.index(row.condenser) if row.condenser in self.compared else 0

    def _legend(self, row: Row) -> str:
        names: dict[Role, str] = {"baseline": "baselines", "query-aware": QUERY_AWARE}
        return names.get(self._role(row), row.condenser)


def _shares(costs: Costs, compared: Sequence[str]) -> Iterator[Panel]:
    names = list(dict.fromkeys([*compared, *(row.condenser for row in costs.rows)]))
    kinds: tuple[tuple[Unit, Role], ...] = (("flops", "dashed"), ("ms", "compared"))
    for ratio in sorted({row.ratio for row in costs.rows}):
        series = tuple(
            Series(
                name if role == "compared" else f"{name}, operations",
                role,
                names.index(name),
                tuple(Point(row.n_context, row.share(unit)) for row in rows),
            )
            for (name, own), rows in costs.by_setting()
            if own == ratio
            for unit, role in kinds
        )
        label = "cost / cost of the full text"
        title = f"at {ratio:g}x"
        yield Panel(f"{ratio:g}x", title, "lines", "context tokens", label, series, line=1.0)


def _point(row: Row, x: float = 0.0) -> Point:
    low, high = row.ci or (None, None)
    return Point(x, row.content_recovery or 0.0, low, high)


def _timed(row: Row) -> Point:
    return _point(row, row.encode_ms or 0.0)


def _real_ratio(row: Row) -> float:
    """Return the ratio that was reached, which rounding up and fixed lengths keep below."""
    if row.n_context and row.n_condensed:
        return row.n_context / row.n_condensed
    return row.ratio or 1.0


def _length(row: Row) -> float:
    try:
        return float(row.source)
    except ValueError:
        return row.n_context or 1.0


def _length_named(row: Row, rows: Sequence[Row]) -> str:
    """Name a row; one of several of its name, by the number of its tokens too."""
    name = f"{row.condenser} *" if row.query_aware else row.condenser
    twins = [other for other in rows if other.condenser == row.condenser]
    return f"{name}, {row.n_condensed or 0:.0f} tokens" if len(twins) > 1 else name
