"""Plots of a load test: latency over time, its distribution, and the search for the knee.

Where it sits: behind ``page.py``; colours and SVG are ``svg.py``'s.

Design decisions

* Errors stand on the line of the timeout with a marker of their own, so that nothing is told by
  colour alone and nothing that failed is missing.
* A long run is thinned to what an eye can tell apart; errors are thinned last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from neural_condense_core.loadtest.figures import Figures
from neural_condense_core.loadtest.generator import Outcome
from neural_condense_core.loadtest.plan import Report
from neural_condense_core.svg import MARK, render

MAX_POINTS = 2000
MAX_ERRORS = 500
WIDTH, HEIGHT = 4.8, 3.4


@dataclass(frozen=True)
class Drawing:
    """An ``<svg>`` element with the sentence below it."""

    svg: str
    caption: str


def drawings(report: Report) -> Iterator[Drawing]:
    """Yield the plots of a report."""
    timeout_s = report.plan.tier.timeout_s
    outcomes = report.outcomes
    yield Drawing(
        render(
            lambda: _over_time(outcomes, timeout_s),
            "over-time",
            f"Plot: latency of each request against the time it was due; timeout {timeout_s:g} s.",
        ),
        "Latency from the moment a request was due; crosses are requests without a valid reply.",
    )
    if any(each.is_good for each in outcomes):
        yield Drawing(
            render(
                lambda: _distribution(outcomes, timeout_s),
                "distribution",
                "Plot: share of all scheduled requests that had a valid reply within a time.",
            ),
            "Share of all scheduled requests with a valid reply within so many seconds.",
        )
    if report.knee is not None:
        steps = sorted(report.knee.steps, key=lambda step: step.offered_rps)
        yield Drawing(
            render(
                lambda: _goodput(steps),
                "goodput",
                "Plot: valid replies a second against requests a second.",
            ),
            "Valid replies a second; on the diagonal every request is served.",
        )
        yield Drawing(
            render(
                lambda: _latencies(steps, timeout_s),
                "latencies",
                "Plot: latency at its median and 95th percentile against requests a second.",
            ),
            "Latency as the rate rises.",
        )


def _blank(title: str, x_label: str, y_label: str) -> tuple[Canvas, Axes]:
    canvas = Canvas(figsize=(WIDTH, HEIGHT), layout="constrained")
    canvas.patch.set_alpha(0)
    axes = canvas.add_subplot()
    axes.patch.set_alpha(0)
    axes.set_title(title, loc="left")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(visible=True, linewidth=0.6)
    return canvas, axes


def _over_time(outcomes: Sequence[Outcome], timeout_s: float) -> Canvas:
    canvas, axes = _blank("Latency over time", "due after (s)", "latency (s)")
    good = [(each.due_s, each.latency_s or 0.0) for each in outcomes if each.is_good]
    bad = [each.due_s for each in outcomes if not each.is_good]
    good = good[:: 1 + len(good) // MAX_POINTS]
    bad = bad[:: 1 + len(bad) // MAX_ERRORS]
    axes.axhline(timeout_s, color=MARK["muted"], linewidth=1.0, linestyle="--")
    axes.plot(
        [due for due, _ in good],
        [latency for _, latency in good],
        linestyle="none",
        marker=".",
        markersize=4,
        color=MARK["series-0"],
        label="valid",
    )
    if bad:
        axes.plot(
            bad,
            [timeout_s] * len(bad),
            linestyle="none",
            marker="x",
            markersize=5,
            color=MARK["series-5"],
            label="failed",
        )
        canvas.legend(loc="outside lower center", ncols=2, fontsize=8)
    axes.set_ylim(bottom=0)
    return canvas


def _distribution(outcomes: Sequence[Outcome], timeout_s: float) -> Canvas:
    canvas, axes = _blank("Served within", "seconds", "share of requests")
    latencies = np.sort([each.latency_s for each in outcomes if each.is_good])
    shares = np.arange(1, len(latencies) + 1) / len(outcomes)
    keep = slice(None, None, 1 + len(latencies) // MAX_POINTS)
    axes.step(latencies[keep], shares[keep], where="post", color=MARK["series-0"], linewidth=1.8)
    axes.axvline(timeout_s, color=MARK["muted"], linewidth=1.0, linestyle="--")
    _log_x(axes)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    return canvas


def _goodput(steps: Sequence[Figures]) -> Canvas:
    canvas, axes = _blank("Served", "requests a second", "valid replies a second")
    offered = [step.offered_rps for step in steps]
    axes.plot(offered, offered, color=MARK["muted"], linewidth=1.0, linestyle="--", label="all")
    axes.plot(
        offered,
        [step.goodput_rps for step in steps],
        color=MARK["series-0"],
        linewidth=1.2,
        label="valid within the timeout",
    )
    for is_pass, marker, label in ((True, "o", "good step"), (False, "x", "step not good")):
        chosen = [step for step in steps if step.is_pass == is_pass]
        axes.plot(
            [step.offered_rps for step in chosen],
            [step.goodput_rps for step in chosen],
            linestyle="none",
            marker=marker,
            color=MARK["series-0" if is_pass else "series-5"],
            label=label,
        )
    _log_x(axes)
    axes.set_yscale("symlog", linthresh=max(min(offered) / 2, 1e-3))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    axes.set_ylim(bottom=0)
    canvas.legend(loc="outside lower center", ncols=2, fontsize=8)
    return canvas


def _latencies(steps: Sequence[Figures], timeout_s: float) -> Canvas:
    canvas, axes = _blank("Latency by rate", "requests a second", "latency (s)")
    known = [(step.offered_rps, step.latency) for step in steps if step.latency is not None]
    rates = [rate for rate, _ in known]
    axes.axhline(timeout_s, color=MARK["muted"], linewidth=1.0, linestyle="--")
    for values, name, marker, color in (
        ([spread.p50_s for _, spread in known], "median", "o", "series-0"),
        ([spread.p95_s for _, spread in known], "95th percentile", "s", "series-1"),
    ):
        axes.plot(rates, values, marker=marker, color=MARK[color], linewidth=1.5, label=name)
    _log_x(axes)
    axes.set_ylim(bottom=0)
    canvas.legend(loc="outside lower center", ncols=2, fontsize=8)
    return canvas


def _log_x(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
