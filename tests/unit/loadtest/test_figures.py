"""What counts as good, as kept up with, and as latency."""

from dataclasses import replace

import numpy as np
import pytest

from neural_condense_core.loadtest.figures import Spread, figures_of, growth
from neural_condense_core.loadtest.generator import Outcome

TIMEOUT_S = 4.0


def outcomes(n, latency=lambda i: 0.2, code=lambda i: "ok", duration_s=60.0):
    found = []
    for i in range(n):
        is_timeout = code(i) == "timeout"
        found.append(
            Outcome(i * duration_s / n, code(i), 0.001, None if is_timeout else latency(i))
        )
    return found


def measure(found, duration_s=60.0):
    return figures_of(found, len(found) / duration_s, duration_s, TIMEOUT_S)


def test_a_backend_that_serves_all_passes():
    found = measure(outcomes(120))
    assert found.is_pass
    assert found.faults == []
    assert (found.offered_rps, found.achieved_rps, found.goodput_rps) == (2.0, 2.0, 2.0)
    assert found.latency == Spread(0.2, 0.2, 0.2, 0.2, 0.2)
    assert found.errors == {}
    assert found.queue is None


@pytest.mark.parametrize(("n_bad", "is_pass"), [(0, True), (1, True), (2, False)])
@pytest.mark.parametrize("code", ["http_500", "malformed_not_finite", "timeout", "unchecked"])
def test_one_in_a_hundred_may_fail_and_no_more(n_bad, is_pass, code):
    found = measure(outcomes(100, code=lambda i: code if i < n_bad else "ok"))
    assert found.is_pass is is_pass
    assert found.n_good == 100 - n_bad
    assert found.errors == ({code: n_bad} if n_bad else {})


def test_errors_at_once_do_not_make_a_backend_look_fast():
    slow = measure(outcomes(100, latency=lambda i: 2.0))
    with_errors = outcomes(
        100, lambda i: 0.001 if i % 2 else 2.0, lambda i: ("ok", "http_429")[i % 2]
    )
    found = measure(with_errors)
    assert found.latency == slow.latency
    assert found.achieved_rps == slow.achieved_rps
    assert found.goodput_rps == slow.goodput_rps / 2


def test_timeouts_are_in_the_percentiles_at_the_timeout():
    found = measure(outcomes(100, code=lambda i: "timeout" if i % 4 == 0 else "ok"))
    assert found.latency.p50_s == 0.2
    assert found.latency.p90_s == found.latency.max_s == TIMEOUT_S
    assert found.n_answered == 75


@pytest.mark.parametrize("overload", [1.05, 1.3, 2.0])
def test_a_growing_queue_is_seen_before_anything_times_out(overload):
    rng = np.random.default_rng(0)
    rise = 1 - 1 / overload
    found = outcomes(
        200, lambda i: 0.2 + rise * i / 20 + float(rng.exponential(0.1)), duration_s=10.0
    )
    found = figures_of(found, 20, 10.0, 60.0)
    assert found.good_share == 1.0
    assert not found.is_pass
    assert found.achieved_rps == pytest.approx(20 / (1 + rise), rel=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_scatter_and_a_slow_end_are_no_growth(seed):
    rng = np.random.default_rng(seed)
    scattered = [(float(t), float(rng.gamma(2, 0.3))) for t in range(200)]
    assert growth(scattered, 200.0) == 0.0
    slow_end = [(float(t), 0.1 if t < 195 else 5.0) for t in range(200)]
    assert growth(slow_end, 200.0) == 0.0


def test_a_queue_that_empties_is_no_growth():
    assert growth([(float(t), 10.0 - t / 20) for t in range(200)], 200.0) == 0.0
    assert growth([(0.0, 1.0), (1.0, 2.0)], 2.0) == 0.0


def test_a_late_generator_is_told():
    found = measure([replace(each, lag_s=0.5) for each in outcomes(100)])
    assert found.is_generator_late
    assert not measure(outcomes(100)).is_generator_late


def test_what_the_backend_says_of_itself_is_apart():
    found = [replace(each, queue_s=0.05, inference_s=0.1) for each in outcomes(50)]
    found[0] = replace(found[0], is_cached=True)
    figures = measure(found)
    assert (figures.queue.p50_s, figures.inference.p99_s, figures.n_cached) == (0.05, 0.1, 1)
