"""Find the knee: the highest rate that a backend still serves.

Where it sits: ``session.py`` gives it a way to measure one rate; nothing here waits or sends.

Design decisions

* From a rate that is known, doubling while it is served, or halving while it is not; then the gap
  is halved on a logarithmic scale until it is a tenth.
* A step that failed while the generator itself was late ends the search: that limit is not the
  backend's, and the result says so.
* Steps and time are bounded; what is known when they run out is the result.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from neural_condense_core.loadtest.figures import Figures

RESOLUTION = 1.1
LOWEST_SHARE = 1 / 64
MAX_STEPS = 24

Ending = Literal["found", "max_rate", "generator", "time", "nothing"]


@dataclass(frozen=True)
class Knee:
    """Where a backend ends.

    Parameters
    ----------
    max_good_rps : the highest rate that was served; None if none was
    steps : all that was measured, in order
    ending : ``"found"``: the next rate was not served; ``"max_rate"``, ``"generator"`` and
        ``"time"``: the backend may do more, but the search ended there; ``"nothing"``: not even
        the lowest rate was served
    """

    max_good_rps: float | None
    steps: tuple[Figures, ...]
    ending: Ending


async def find_knee(
    start: Figures,
    measure: Callable[[float], Awaitable[Figures]],
    *,
    max_rate_rps: float,
    has_time: Callable[[], bool],
) -> Knee:
    """Search for the highest rate that is served.

    Parameters
    ----------
    start : what was measured already
    measure : measures another rate, requests a second
    max_rate_rps : no rate above it is tried
    has_time : whether there is time for another step
    """
    steps = [start]
    good = start.rate_rps if start.is_pass else 0.0
    bad = 0.0 if start.is_pass else start.rate_rps
    lowest = start.rate_rps * LOWEST_SHARE
    ending: Ending = "time"
    while len(steps) < MAX_STEPS and has_time():
        rate = _next_rate(good, bad, max_rate_rps)
        if rate is None:
            ending = "found" if bad else "max_rate"
            break
        if rate < lowest:
            ending = "nothing"
            break
        found = await measure(rate)
        steps.append(found)
        if found.is_pass:
            good = rate
        elif found.is_generator_late:
            ending = "generator"
            break
        else:
            bad = rate
    return Knee(good or None, tuple(steps), ending)


def _next_rate(good: float, bad: float, max_rate_rps: float) -> float | None:
    if not bad:
        return None if good >= max_rate_rps else min(2 * good, max_rate_rps)
    if not good:
        return bad / 2
    return None if bad / good <= RESOLUTION else float((bad * good) ** 0.5)
