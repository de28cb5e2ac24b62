"""What a reader of a load test should know beside its figures.

Where it sits: ``session.py`` puts these into the report.
"""

from __future__ import annotations

from collections.abc import Iterator

from neural_condense_core.loadtest.figures import Figures
from neural_condense_core.loadtest.plan import Plan, Subject
from neural_condense_core.loadtest.replies import UNCHECKED
from neural_condense_core.loadtest.search import Knee

FEW_REQUESTS = 100

_ENDINGS = {
    "max_rate": "the highest rate that was tried was served; --max_rate goes further",
    "generator": "the search ended at the load generator's own limit, not at the backend's",
    "time": "the search ran out of time; the backend may serve more",
    "nothing": "not even the lowest rate of the search was served",
}


def remarks(plan: Plan, subject: Subject, figures: Figures, knee: Knee | None) -> Iterator[str]:
    """Yield a sentence for everything that stands out.

    Parameters
    ----------
    plan, subject : what was asked of whom
    figures : what came of it
    knee : of the search, None without one
    """
    tier = plan.tier
    if subject.target_model != tier.target_model:
        yield (
            f"on other networks than dev tier {tier.name} asks for {tier.target_model}; this "
            f"backend was asked for {subject.target_model}"
        )
    if subject.hidden_size is None:
        yield "how wide a reply must be is not known, so any width passed; --hidden_size says it"
    if figures.is_generator_late:
        yield (
            f"the load generator was late itself, by {figures.lag.p99_s:.2f} s at its 99th "
            "percentile: run it on another machine or a less busy one"
        )
    if UNCHECKED in figures.errors:
        yield (
            "replies came faster than they could be checked; a binary format is cheaper: "
            "--accept application/vnd.safetensors"
        )
    if figures.n_cached:
        yield f"{figures.n_cached} replies came from the backend's cache: it has seen this seed"
    if figures.n_scheduled < FEW_REQUESTS:
        yield f"{figures.n_scheduled} requests tell little about 99 %; --duration gives more"
    if knee is not None and knee.ending in _ENDINGS:
        yield _ENDINGS[knee.ending]
