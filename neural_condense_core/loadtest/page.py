"""One page that shows a load test: verdict, plots, figures, the machine.

Where it sits: drawn from a ``Report`` alone.

Design decisions

* One file without a script and without anything to be fetched; its own policy forbids both.
* Names that come from outside are escaped.
* What a plot shows is in a table too.
"""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from neural_condense_core.loadtest.drawings import drawings
from neural_condense_core.loadtest.figures import Figures, Spread
from neural_condense_core.loadtest.plan import Report
from neural_condense_core.svg import stylesheet

TEMPLATES = Path(__file__).resolve().parent / "templates"
TEMPLATE = "loadtest.html"

STEP_HEAD = (
    "offered a second", "served", "achieved", "good", "p50", "p95", "p99", "longest", "verdict",
    "errors",
)  # fmt: skip


def to_html(report: Report) -> str:
    """Return the page.

    Parameters
    ----------
    report : of a load test
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    shown = [
        (Markup(drawing.svg), drawing.caption)  # noqa: S704 - svg.py escapes its texts
        for drawing in drawings(report)
    ]
    return environment.get_template(TEMPLATE).render(
        report=report,
        figures=report.figures,
        tier=report.plan.tier,
        stylesheet=Markup(stylesheet()),  # noqa: S704 - our own constants
        drawings=shown,
        spreads=_spreads(report.figures),
        step_head=STEP_HEAD,
        steps=[_step(step) for step in report.knee.steps] if report.knee else [],
        settings=_settings(report),
    )


def _spreads(figures: Figures) -> list[tuple[str, tuple[str, ...]]]:
    named = {
        "latency": figures.latency,
        "in the backend's queue, as it says": figures.queue,
        "computing, as it says": figures.inference,
        "lateness of the load generator": figures.lag,
    }
    return [(name, _cells(spread)) for name, spread in named.items() if spread is not None]


def _cells(spread: Spread | None) -> tuple[str, ...]:
    if spread is None:
        return ("-",) * 5
    values = (spread.p50_s, spread.p90_s, spread.p95_s, spread.p99_s, spread.max_s)
    return tuple(f"{value:.3f}" for value in values)


def _step(step: Figures) -> tuple[str, ...]:
    p50, _, p95, p99, most = _cells(step.latency)
    return (
        f"{step.offered_rps:.2f}",
        f"{step.goodput_rps:.2f}",
        f"{step.achieved_rps:.2f}",
        f"{step.good_share:.1%}",
        p50,
        p95,
        p99,
        most,
        "good" if step.is_pass else "not good",
        ", ".join(f"{code} {n}" for code, n in step.errors.items()),
    )


def _settings(report: Report) -> list[tuple[str, str]]:
    plan, tier, subject = report.plan, report.plan.tier, report.subject
    length = "exactly" if plan.is_full_length else "at most"
    rows = {
        "backend": f"{plan.url}{subject.api_path}",
        "condenser": subject.condenser or "not said",
        "target model": subject.target_model,
        "width of a reply": str(subject.hidden_size or "not known"),
        "tier": f"{tier.name}: {tier.timeout_s:g} s, at most {tier.max_condensed_tokens} condensed "
        f"tokens, contexts of {length} {tier.max_context_chars} characters",
        "rate": f"{plan.rate_rps:.4g} a second on average, {plan.n_validators} validators",
        "window": f"{plan.duration_s:g} s after {plan.warm_up_s:g} s of warm-up",
        "seed": str(plan.seed),
        "started": report.started_at,
    }
    return [*rows.items(), *((key, str(value)) for key, value in report.machine.items())]
