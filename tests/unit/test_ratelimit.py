import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neural_condense_core.ratelimit import ARRIVAL_GRACE, RateLimiter, shares


def test_a_window_that_slides():
    limiter = RateLimiter(10.0, {"v": 2})
    assert limiter.check("v", 0.0) == 0
    assert limiter.check("v", 4.0) == 0
    assert limiter.check("v", 5.0) == pytest.approx(5.0)
    assert limiter.check("v", 10.0) == 0
    assert limiter.check("v", 11.0) == pytest.approx(3.0)


def test_trap_7_allowance_returns_in_the_next_window():
    limiter = RateLimiter(600.0, {"v": 100})
    for window in range(3):
        start = window * 600.0
        assert all(limiter.check("v", start + i) == 0 for i in range(100))
        assert limiter.check("v", start + 100) > 0


def test_refusals_do_not_push_the_turn_away():
    limiter = RateLimiter(10.0, {"v": 1})
    limiter.check("v", 0.0)
    for now in range(1, 10):
        assert limiter.check("v", float(now)) == pytest.approx(10.0 - now)
    assert limiter.check("v", 10.0) == 0


def test_keys_do_not_share_and_the_unknown_get_the_default():
    limiter = RateLimiter(10.0, {"a": 1}, default=0)
    assert limiter.check("a", 0.0) == 0
    assert limiter.check("b", 0.0) == 10.0
    open_house = RateLimiter(10.0, default=1)
    assert [open_house.check(key, 0.0) == 0 for key in "aab"] == [True, False, True]


def test_new_allowances_keep_the_count():
    limiter = RateLimiter(10.0, {"v": 4})
    for now in range(4):
        limiter.check("v", float(now))
    limiter.set_allowances({"v": 2})
    assert limiter.left("v", 4.0) == 0
    wait_s = limiter.check("v", 4.0)
    assert wait_s == pytest.approx(8.0)
    assert limiter.check("v", 4.0 + wait_s) == 0
    limiter.set_allowances({})
    assert limiter.check("v", 100.0) == 10.0


def test_left_counts_nothing():
    limiter = RateLimiter(10.0, {"v": 3})
    limiter.check("v", 0.0)
    assert [limiter.left("v", 1.0) for _ in range(3)] == [2, 2, 2]
    assert limiter.left("v", 10.0) == 3
    assert limiter.left("nobody", 0.0) == 0


def test_the_number_of_keys_is_bounded():
    limiter = RateLimiter(10.0, default=1, max_keys=3)
    for key in "abcd":
        limiter.check(key, 0.0)
    assert limiter.check("d", 1.0) > 0
    assert limiter.check("a", 1.0) == 0, "the least recently seen was forgotten"


@pytest.mark.parametrize("window_s", [0, -1, float("inf"), float("nan")])
def test_a_window_is_a_number_of_seconds(window_s):
    with pytest.raises(ValueError, match="window_s"):
        RateLimiter(window_s)


@given(
    st.lists(st.floats(0, 5), min_size=1, max_size=80),
    st.integers(1, 8),
    st.floats(0.5, 20),
)
def test_never_more_than_the_allowance_in_any_window(gaps, allowance, window_s):
    limiter = RateLimiter(window_s, {"v": allowance})
    now, allowed = 0.0, []
    for gap in gaps:
        now += gap
        wait_s = limiter.check("v", now)
        if wait_s == 0:
            allowed.append(now)
        else:
            assert 0 < wait_s <= window_s + 1e-3
    for first, last in itertools.pairwise([allowed[i:] for i in (0, allowance)]):
        assert all(
            late - early >= window_s - 1e-9 for early, late in zip(first, last, strict=False)
        )


@given(st.lists(st.floats(0, 25.0), min_size=1, max_size=40), st.integers(0, 3))
def test_trap_32_a_sender_within_its_allowance_is_not_refused_when_windows_are_not_aligned(
    delays, phase
):
    # Ten requests in every 600 s, each up to 25 s on its way; the receiver began to count earlier.
    sender = RateLimiter(600.0, {"v": 10})
    receiver = RateLimiter(600.0 * (1 - ARRIVAL_GRACE), {"v": 10})
    now, arrivals = 100.0 * phase, []
    for delay in delays:
        if (wait_s := sender.check("v", now)) > 0:
            now += wait_s + 1e-6
            assert sender.check("v", now) == 0
        arrivals.append(now + delay)
        now += 1.0
    assert all(receiver.check("v", at) == 0 for at in sorted(arrivals))


def test_shares_follow_stake():
    assert shares(1000, {"a": 700.0, "b": 300.0}) == {"a": 700, "b": 300}


def test_everyone_gets_the_minimum():
    assert shares(100, {"a": 1e6, "b": 1.0}) == {"a": 99, "b": 10}
    assert shares(100, {"a": 1e6, "b": 1.0}, minimum=2)["b"] == 2


def test_trap_32_nobody_has_stake():
    assert shares(100, {"a": 0.0, "b": 0.0}) == {"a": 50, "b": 50}
    assert shares(100, {}) == {}


@given(st.dictionaries(st.text(max_size=3), st.floats(), max_size=8), st.integers(0, 10**6))
def test_shares_hold_for_any_stake(stakes, total):
    found = shares(total, stakes)
    assert found.keys() == stakes.keys()
    assert all(share >= 10 for share in found.values())
    assert sum(share for share in found.values() if share > 10) <= total
