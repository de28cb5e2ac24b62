"""What a load test is to do, and what it found: plain values and their JSON.

Where it sits: ``session.py`` turns a ``Plan`` into a ``Report``; the command, the page and
``condense bench`` read it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from neural_condense_core.constants import TierConfig
from neural_condense_core.loadtest.figures import Figures, Spread
from neural_condense_core.loadtest.generator import Outcome
from neural_condense_core.loadtest.search import Knee

SCHEMA = 1
MAX_IN_FLIGHT = 1024
MAX_RATE_RPS = 1000.0
DURATION_S = 60.0
WARM_UP_S = 5.0
WAIT_S = 120.0
SEARCH_S = 600.0


@dataclass(frozen=True)
class Plan:
    """What to do.

    Parameters
    ----------
    url : where the backend is
    tier : its limits, timeout and rate
    rate_rps : requests a second on average
    seed : of arrivals and contexts
    n_validators : that the rate stands for
    api_path : of the condensing route; None = what ``/info`` says, else ``/condense``
    duration_s, warm_up_s : the window that counts, and what comes before it
    texts : as ``open_texts`` takes it
    is_full_length : contexts exactly as long as the tier allows
    hidden_size : width of a reply; None = what ``/info`` says, the model's, the first reply's
    target_model : None = what ``/info`` says, else the tier's
    accept : ``Accept`` header; None = what a miner sends
    max_in_flight : requests that may be under way at once
    finds_max : whether to search for the knee
    max_rate_rps : no rate of the search is above it
    search_s : no step of the search begins later
    wait_s : how long a backend may load
    """

    url: str
    tier: TierConfig
    rate_rps: float
    seed: int
    n_validators: int = 1
    api_path: str | None = None
    duration_s: float = DURATION_S
    warm_up_s: float = WARM_UP_S
    texts: str | None = None
    is_full_length: bool = False
    hidden_size: int | None = None
    target_model: str | None = None
    accept: str | None = None
    max_in_flight: int = MAX_IN_FLIGHT
    finds_max: bool = False
    max_rate_rps: float = MAX_RATE_RPS
    search_s: float = SEARCH_S
    wait_s: float = WAIT_S


@dataclass(frozen=True)
class Subject:
    """The backend as it was found.

    Parameters
    ----------
    api_path : of the condensing route
    target_model : that requests name
    hidden_size : that replies must have; None = not known
    condenser : as ``/info`` names it; None where it does not
    """

    api_path: str
    target_model: str
    hidden_size: int | None
    condenser: str | None


@dataclass(frozen=True)
class Report:
    """What was found.

    Parameters
    ----------
    plan : what was done
    subject : the backend
    figures : at the plan's rate
    outcomes : of that run, warm-up left out
    knee : None where it was not searched for
    notes : what a reader should know
    machine : that the load came from
    started_at : ISO 8601, UTC
    """

    plan: Plan
    subject: Subject
    figures: Figures
    outcomes: tuple[Outcome, ...] = field(repr=False)
    knee: Knee | None
    notes: tuple[str, ...]
    machine: dict[str, Any]
    started_at: str

    @property
    def verdict(self) -> str:
        """``"PASS"`` or ``"FAIL"``."""
        return "PASS" if self.figures.is_pass else "FAIL"

    def as_json(self) -> dict[str, Any]:
        """Return JSON-ready values; the names of the specification first."""
        plan, figures = self.plan, self.figures
        return {
            "verdict": self.verdict,
            **_rates(figures),
            **_spread(figures.latency),
            "errors": figures.errors,
            "max_good_rps": None if self.knee is None else self.knee.max_good_rps,
            "schema": SCHEMA,
            "faults": figures.faults,
            "notes": list(self.notes),
            "url": plan.url,
            "api_path": self.subject.api_path,
            "condenser": self.subject.condenser,
            "target_model": self.subject.target_model,
            "hidden_size": self.subject.hidden_size,
            "tier": plan.tier.name,
            "timeout_s": plan.tier.timeout_s,
            "max_condensed_tokens": plan.tier.max_condensed_tokens,
            "max_context_chars": plan.tier.max_context_chars,
            "validators": plan.n_validators,
            "rate_rps": plan.rate_rps,
            "duration_s": plan.duration_s,
            "warm_up_s": plan.warm_up_s,
            "seed": plan.seed,
            "full_length": plan.is_full_length,
            "accept": plan.accept,
            "max_in_flight": plan.max_in_flight,
            **_counts(figures),
            "search": None if self.knee is None else _search(self.knee),
            "machine": self.machine,
            "started_at": self.started_at,
        }


def _rates(figures: Figures) -> dict[str, float]:
    return {
        "offered_rps": figures.offered_rps,
        "achieved_rps": figures.achieved_rps,
        "goodput_rps": figures.goodput_rps,
    }


def _counts(figures: Figures) -> dict[str, Any]:
    return {
        "n_scheduled": figures.n_scheduled,
        "n_answered": figures.n_answered,
        "n_good": figures.n_good,
        "good_share": figures.good_share,
        "latency_growth_s": figures.growth_s,
        "send_lag": _spread(figures.lag),
        "server_queue": None if figures.queue is None else _spread(figures.queue),
        "server_inference": None if figures.inference is None else _spread(figures.inference),
        "n_cached": figures.n_cached,
    }


def _spread(spread: Spread | None) -> dict[str, float | None]:
    names = ("p50_s", "p90_s", "p95_s", "p99_s", "max_s")
    return {name: None if spread is None else getattr(spread, name) for name in names}


def _search(knee: Knee) -> dict[str, Any]:
    steps = [
        {
            "rate_rps": step.rate_rps,
            "is_good": step.is_pass,
            "duration_s": step.duration_s,
            **_rates(step),
            **_spread(step.latency),
            "errors": step.errors,
            **_counts(step),
        }
        for step in knee.steps
    ]
    return {"ending": knee.ending, "steps": steps}
