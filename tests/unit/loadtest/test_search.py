"""The search for the knee, on backends whose capacity is known."""

import asyncio

import pytest

from neural_condense_core.loadtest.figures import Spread, figures_of
from neural_condense_core.loadtest.generator import Outcome
from neural_condense_core.loadtest.search import MAX_STEPS, RESOLUTION, find_knee


def step(rate, is_good, lag_s=0.0):
    code = "ok" if is_good else "http_503"
    return figures_of([Outcome(0.0, code, lag_s, 0.1)], rate, 1.0, 4.0)


def search(capacity, start=1.7, *, max_rate=1000.0, late_from=1e9, n_steps=99):
    tried = []

    async def measure(rate):
        tried.append(rate)
        is_late = rate >= late_from
        return step(rate, rate <= capacity and not is_late, 1.0 if is_late else 0.0)

    knee = asyncio.run(
        find_knee(
            step(start, start <= capacity),
            measure,
            max_rate_rps=max_rate,
            has_time=lambda: len(tried) < n_steps,
        )
    )
    assert [each.rate_rps for each in knee.steps] == [start, *tried]
    return knee, tried


@pytest.mark.parametrize("capacity", [1.8, 7.0, 48.0, 333.0])
def test_the_knee_is_found_within_the_resolution(capacity):
    knee, tried = search(capacity)
    assert knee.ending == "found"
    assert knee.max_good_rps <= capacity < knee.max_good_rps * RESOLUTION
    assert len(tried) < 14


def test_it_looks_below_a_rate_that_is_not_served():
    knee, tried = search(0.5)
    assert knee.max_good_rps <= 0.5 < knee.max_good_rps * RESOLUTION
    assert tried[0] == 0.85


def test_nothing_is_served():
    knee, tried = search(0.0)
    assert (knee.max_good_rps, knee.ending) == (None, "nothing")
    assert min(tried) >= 1.7 / 64


def test_the_highest_rate_allowed_ends_it():
    knee, tried = search(1e9, max_rate=100.0)
    assert (knee.max_good_rps, knee.ending) == (100.0, "max_rate")
    assert max(tried) == 100.0


def test_a_late_generator_ends_it():
    knee, _ = search(1e9, late_from=50.0)
    assert knee.ending == "generator"
    assert knee.max_good_rps == pytest.approx(1.7 * 16)


def test_a_late_generator_whose_step_is_good_all_the_same_goes_on():
    async def measure(rate):
        return step(rate, rate < 60, 1.0)

    knee = asyncio.run(
        find_knee(step(20.0, True, 1.0), measure, max_rate_rps=50.0, has_time=lambda: True)
    )
    assert (knee.max_good_rps, knee.ending) == (50.0, "max_rate")


def test_time_and_steps_end_it():
    knee, tried = search(1e9, n_steps=3)
    assert (knee.max_good_rps, knee.ending, len(tried)) == (1.7 * 8, "time", 3)
    knee, tried = search(1e9, start=1e-9, max_rate=1e9)
    assert (knee.ending, len(knee.steps)) == ("time", MAX_STEPS)


def test_a_single_outcome_has_a_spread():
    assert Spread.of([1.0]) == Spread(1, 1, 1, 1, 1)
    assert Spread.of([]) is None
