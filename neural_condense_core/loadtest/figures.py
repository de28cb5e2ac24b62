"""From outcomes to figures and a verdict; pure.

Where it sits: behind ``session.py``; the JSON and the page show what is computed here.

Design decisions

* PASS: at least 99 % of the scheduled requests got a valid reply within the timeout, and the
  backend kept up, that is, its achieved rate is at least 0.98 of the offered one.
* The achieved rate is the rate at which replies would go on to come: replies over the window,
  the window longer by what latency grew during it. A queue that grows by a tenth of a second every
  second is then seen long before the first request times out. Growth counts only where a test for a
  trend finds one, so that a few slow replies at the end are not taken for it.
* Percentiles are over valid replies and requests that timed out, those at the timeout; an error
  that came at once does not make a backend look fast.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from neural_condense_core.loadtest.generator import Outcome
from neural_condense_core.loadtest.replies import HTTP, MALFORMED, OK, TIMEOUT

MIN_GOOD_SHARE = 0.99
MIN_ACHIEVED_SHARE = 0.98
LATE_S = 0.1
"""Lag of the generator, at its 99th percentile, from which its figures are not to be trusted."""
PERCENTILES = (50, 90, 95, 99)

_BINS = 20
_MIN_BINS = 8
_TREND_Z = 3.0

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Spread:
    """Percentiles and the largest of some seconds."""

    p50_s: float
    p90_s: float
    p95_s: float
    p99_s: float
    max_s: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Return the spread of some values, None if there are none."""
        if not values:
            return None
        found = np.percentile(np.asarray(values, np.float64), [*PERCENTILES, 100])
        return cls(*(float(value) for value in found))


@dataclass(frozen=True)
class Figures:
    """What was measured at one rate.

    Parameters
    ----------
    rate_rps : asked for, on average
    duration_s : the window in which the counted requests were due
    n_scheduled, n_answered, n_good : requests that were due; with a whole HTTP reply; valid in time
    growth_s : by what latency grew during the window
    latency : of valid replies and of timeouts; None without any
    lag : how late the generator was
    errors : code -> requests
    queue, inference : what the backend says of itself; None where it does not
    n_cached : replies that the backend says it had already
    """

    rate_rps: float
    duration_s: float
    n_scheduled: int
    n_answered: int
    n_good: int
    growth_s: float
    latency: Spread | None
    lag: Spread
    errors: dict[str, int]
    queue: Spread | None
    inference: Spread | None
    n_cached: int

    @property
    def offered_rps(self) -> float:
        """Requests that were due, a second."""
        return self.n_scheduled / self.duration_s

    @property
    def achieved_rps(self) -> float:
        """Replies a second that the backend keeps up."""
        return self.n_answered / (self.duration_s + self.growth_s)

    @property
    def goodput_rps(self) -> float:
        """Valid replies within the timeout, a second."""
        return self.n_good / self.duration_s

    @property
    def good_share(self) -> float:
        """Share of the scheduled requests that are valid within the timeout."""
        return self.n_good / self.n_scheduled

    @property
    def is_generator_late(self) -> bool:
        """Whether the generator, not the backend, was the bottleneck."""
        return self.lag.p99_s > LATE_S

    @property
    def faults(self) -> list[str]:
        """Why it is no PASS; empty = it is one."""
        found = []
        if self.good_share < MIN_GOOD_SHARE:
            found.append(
                f"{self.good_share:.1%} of {self.n_scheduled} requests got a valid reply in time; "
                f"{MIN_GOOD_SHARE:.0%} must"
            )
        if self.achieved_rps < MIN_ACHIEVED_SHARE * self.offered_rps:
            found.append(
                f"{self.achieved_rps:.2f} replies a second of {self.offered_rps:.2f} requests: it "
                "does not keep up"
            )
        return found

    @property
    def is_pass(self) -> bool:
        """Whether the tier's rate was served."""
        return not self.faults


def figures_of(
    outcomes: Sequence[Outcome], rate_rps: float, duration_s: float, timeout_s: float
) -> Figures:
    """Count the outcomes of one window.

    Parameters
    ----------
    outcomes : of the requests that count, warm-up left out, by the time they were due; at least one
    rate_rps : asked for
    duration_s : of the window
    timeout_s : the tier's
    """
    codes = Counter(each.code for each in outcomes)
    errors = {code: n for code, n in sorted(codes.items()) if code != OK}
    timed = [(each.due_s, _latency(each, timeout_s)) for each in outcomes if _is_timed(each)]
    whole = [each for each in outcomes if each.latency_s is not None]
    return Figures(
        rate_rps=rate_rps,
        duration_s=duration_s,
        n_scheduled=len(outcomes),
        n_answered=sum(_is_answer(each) for each in outcomes),
        n_good=codes[OK],
        growth_s=growth(timed, duration_s),
        latency=Spread.of([latency for _, latency in timed]),
        lag=Spread.of([max(each.lag_s, 0.0) for each in outcomes]) or Spread(0, 0, 0, 0, 0),
        errors=errors,
        queue=Spread.of([each.queue_s for each in whole if each.queue_s is not None]),
        inference=Spread.of([each.inference_s for each in whole if each.inference_s is not None]),
        n_cached=sum(each.is_cached for each in whole),
    )


def growth(timed: Sequence[tuple[float, float]], duration_s: float) -> float:
    """Return by how many seconds latency grew over a window, 0 where no trend stands out.

    The median of all slopes between medians of 20 equal parts, if Mann and Kendall's test finds a
    trend beyond three standard deviations.

    Parameters
    ----------
    timed : (due, latency) of requests, ascending by due, seconds
    duration_s : of the window
    """
    n_bins = min(_BINS, len(timed))
    if n_bins < _MIN_BINS:
        return 0.0
    parts = np.array_split(np.asarray(timed, np.float64), n_bins)
    due = np.array([part[:, 0].mean() for part in parts])
    latency = np.array([np.median(part[:, 1]) for part in parts])
    first, second = np.triu_indices(n_bins, 1)
    rises = latency[second] - latency[first]
    score = float(np.sign(rises).sum())
    spread = (n_bins * (n_bins - 1) * (2 * n_bins + 5) / 18) ** 0.5
    if score <= _TREND_Z * spread:
        return 0.0
    slope = float(np.median(rises / (due[second] - due[first])))
    return max(0.0, slope * duration_s)


def _is_timed(outcome: Outcome) -> bool:
    return outcome.code in {OK, TIMEOUT}


def _is_answer(outcome: Outcome) -> bool:
    return outcome.code == OK or outcome.code.startswith((HTTP, MALFORMED))


def _latency(outcome: Outcome, timeout_s: float) -> float:
    return timeout_s if outcome.latency_s is None else outcome.latency_s
