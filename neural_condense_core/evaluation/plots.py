"""Panels as SVG: text stays text, colours follow the page.

Where it sits: behind ``figures.py``, which says what is in a panel; before page and picture files.

Design decisions

* Colours are those of ``svg.py``, so one drawing serves light and dark.
* Nothing is told by colour alone: compared condensers differ in marker and line too, and every
  number is in a table of the page.
* The same panel gives the same bytes with the same matplotlib.
"""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from neural_condense_core.evaluation.figures import Panel, Role, Series
from neural_condense_core.svg import MARK, render

N_COLOURS = 6
_ROLES: tuple[Role, ...] = ("compared", "dashed", "best", "query-aware", "baseline")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (3, 1, 1, 1)))
WIDTH, HEIGHT = 4.8, 3.4
LINE_HEIGHT = 0.23
MAX_NAME = 36


def draw(panel: Panel, key: str, *, alone: bool = False) -> str:
    """Return a panel as an ``<svg>`` element.

    Parameters
    ----------
    panel : what to draw
    key : tells the elements of several drawings in one page apart
    alone : for a file of its own: with colours and a background
    """
    return render(lambda: _canvas(panel), key, described(panel), alone=alone)


def _canvas(panel: Panel) -> Canvas:
    canvas = Canvas(figsize=(WIDTH, _height(panel)), layout="constrained")
    canvas.patch.set_alpha(0)
    axes = canvas.add_subplot()
    axes.patch.set_alpha(0)
    (_draw_methods if panel.kind == "methods" else _draw_places)(axes, panel)
    axes.set_title(_plain(panel.title), loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    if panel.kind != "methods":
        _add_legend(canvas, axes, panel)
    return canvas


def described(panel: Panel) -> str:
    """Return a panel in one sentence, for who does not see it."""
    names = list(dict.fromkeys(series.name for series in panel.series))
    axes = " against ".join(label for label in (panel.y_label, panel.x_label) if label)
    return f"Plot, {panel.title}: {axes}, of {', '.join(names)}."


def _height(panel: Panel) -> float:
    if panel.kind == "methods":
        return 0.9 + LINE_HEIGHT * len(panel.series)
    return HEIGHT + 0.09 * len({series.name for series in panel.series})


def _draw_methods(axes: Axes, panel: Panel) -> None:
    for place, series in enumerate(panel.series):
        point = series.points[0]
        look = _look(series)
        if point.low is not None and point.high is not None:
            axes.plot([point.low, point.high], [place, place], color=look["color"], linewidth=1.5)
        axes.plot([point.y], [place], linestyle="none", **_marker(look, series))
    axes.set_yticks(range(len(panel.series)), [_plain(series.name) for series in panel.series])
    for label, series in zip(axes.get_yticklabels(), panel.series, strict=True):
        if series.role == "compared":
            label.set_fontweight("bold")
    axes.set_ylim(-0.6, len(panel.series) - 0.4)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(panel.x_label)
    axes.grid(visible=True, axis="x", linewidth=0.6)
    axes.axvline(0.0, color=MARK["muted"], linewidth=0.8)


def _draw_places(axes: Axes, panel: Panel) -> None:
    axes.set_xscale("log", base=panel.x_base)
    if panel.line is not None:
        axes.axhline(panel.line, color=MARK["ink"], linewidth=1.0)
    named: set[str] = set()
    for series in panel.series:
        look = _look(series)
        label = "" if series.name in named else _plain(series.name)
        named.add(series.name)
        style = look["linestyle"] if panel.kind == "lines" else "none"
        xs, ys = ([getattr(point, axis) for point in series.points] for axis in "xy")
        axes.plot(
            xs,
            ys,
            linestyle=style,
            linewidth=look["linewidth"],
            **_marker(look, series),
            label=label or "_again",
        )
        if series.role == "compared":
            _add_intervals(axes, series, look["color"])
    _label_axes(axes, panel)


def _label_axes(axes: Axes, panel: Panel) -> None:
    xs = sorted({point.x for series in panel.series for point in series.points})
    if panel.kind == "lines":
        axes.set_xticks(_spaced(xs))
    else:
        axes.xaxis.set_major_locator(LogLocator(panel.x_base, numticks=6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    low, high = _extent(panel)
    axes.set_ylim(low - (0.06 * (high - low) if low < 0 else 0.0), high + 0.06 * (high - low))
    # half a decade on both sides holds a power of ten, which is where ticks are
    beside = 1.25 if panel.kind == "lines" else 10**0.5
    axes.set_xlim(xs[0] / beside, xs[-1] * beside)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.grid(visible=True, axis="y", linewidth=0.6)


def _extent(panel: Panel) -> tuple[float, float]:
    """Return the lowest and highest of all values, bars and 0."""
    points = [point for series in panel.series for point in series.points]
    values = [value for point in points for value in (point.y, point.low, point.high)]
    known = [0.0, *(value for value in values if value is not None)]
    return min(known), max(*known, panel.line or 0.0) or 1.0


def _spaced(xs: list[float]) -> list[float]:
    """Return those of ascending places whose labels do not touch."""
    found: list[float] = []
    for x in xs:
        if not found or x >= found[-1] * 1.3:
            found.append(x)
    return found


def _add_intervals(axes: Axes, series: Series, color: str) -> None:
    for point in series.points:
        if point.low is not None and point.high is not None:
            axes.plot([point.x, point.x], [point.low, point.high], color=color, linewidth=1.2)


def _add_legend(canvas: Canvas, axes: Axes, panel: Panel) -> None:
    shown = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    ranked = sorted(panel.series, key=lambda series: (_ROLES.index(series.role), series.index))
    labels = list(dict.fromkeys(_plain(series.name) for series in ranked))
    columns = 2 if max(map(len, labels)) <= MAX_NAME // 2 else 1
    handles = [shown[label] for label in labels]
    canvas.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8)


def _look(series: Series) -> dict[str, Any]:
    if series.role in {"compared", "dashed"}:
        color = MARK[f"series-{series.index % N_COLOURS}"]
        solid = DASHES[series.index // N_COLOURS % len(DASHES)]
        dashed = series.role == "dashed"
        return {"color": color, "linestyle": ":" if dashed else solid, "linewidth": 1.8}
    if series.role == "best":
        return {"color": MARK["ink"], "linestyle": "--", "linewidth": 1.5}
    return {"color": MARK["muted"], "linestyle": "-", "linewidth": 0.7}


def _marker(look: dict[str, Any], series: Series) -> dict[str, Any]:
    marker = "*" if series.role == "query-aware" else "."
    size = 7.0
    if series.role == "compared":
        marker, size = MARKERS[series.index % len(MARKERS)], 6.0
    return {"color": look["color"], "marker": marker, "markersize": size}


def _plain(text: str) -> str:
    """Return text on one line, cut in its middle."""
    if len(text) > MAX_NAME:
        text = f"{text[: MAX_NAME // 2]}…{text[-MAX_NAME // 2 :]}"
    text = " ".join(text.split())
    return f"\u200b{text}" if text.startswith("_") else text  # matplotlib hides those
