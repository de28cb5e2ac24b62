"""Scores of rounds, and ratings made of them."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neural_condense_core.constants import TIERS
from neural_condense_core.scoring.ratings import ALPHA, Rating, rate, round_score, score_reply

TIER = TIERS["inference_0"]
anything = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))
scores = st.floats(0, 1)


def rated(values, hotkey="h"):
    rating = None
    for number, value in enumerate(values):
        rating = rate(rating, value, hotkey=hotkey, updated_round=number)
    return rating


def test_a_round_is_a_mean_over_everything_that_was_asked():
    assert round_score(0.8, 0.5, [0.0, 0.0], TIER) == pytest.approx(0.8)
    assert round_score(0.8, 0.5, [0.0, None], TIER) == pytest.approx(0.4)
    assert round_score(0.8, 0.5, [None, None], TIER) == 0.0
    assert round_score(0.8, 0.5, [], TIER) == 0.0


def test_time_costs_what_the_tier_says():
    assert round_score(0.8, 0.5, [TIER.timeout_s], TIER) == pytest.approx(0.8 * 0.6)
    assert round_score(0.8, 0.5, [TIER.timeout_s * 1.01], TIER) == 0.0


def test_tokens_that_mislead_score_0_whatever_their_c():
    assert score_reply(0.9, -0.01, 0.0, TIER) == 0.0
    assert score_reply(0.9, None, 0.0, TIER) == pytest.approx(0.9)


@settings(deadline=None)
@given(anything, anything, st.lists(anything, max_size=5))
def test_a_round_score_is_always_a_number_from_0_to_1(c, r, elapsed):
    found = round_score(c, r, elapsed, TIER)
    assert 0.0 <= found <= 1.0


def test_first_rounds_are_a_mean_and_later_ones_a_moving_average():
    assert rated([0.2, 0.4, 0.6]).value == pytest.approx(0.4)
    long = rated([0.5] * 50)
    assert rate(long, 1.0, hotkey="h", updated_round=50).value == pytest.approx(0.5 + ALPHA * 0.5)


# Trap 12: reputation was kept by uid and went to the next owner.
def test_trap_12_another_hotkey_starts_afresh():
    old = rated([1.0] * 20)
    assert rate(old, 0.25, hotkey="new", updated_round=20) == Rating("new", 0.25, 1, 20)


# Trap 4: arguments of the update could be swapped.
def test_trap_4_whose_rating_it_is_must_be_named():
    with pytest.raises(TypeError):
        rate(None, 0.5, 0.1, "h", 1)


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=40))
def test_a_rating_is_always_a_number_from_0_to_1(values):
    found = rated(values)
    assert 0.0 <= found.value <= 1.0
    assert found.n == len(values)
    assert math.isfinite(found.value)


@settings(deadline=None)
@given(st.lists(scores, min_size=1, max_size=30), scores)
def test_a_rating_moves_towards_the_round_and_never_past_it(values, score):
    before = rated(values)
    after = rate(before, score, hotkey="h", updated_round=99)
    low, high = sorted((before.value, score))
    assert low - 1e-12 <= after.value <= high + 1e-12
    assert after.updated_round == 99


@settings(deadline=None)
@given(st.lists(scores, min_size=1, max_size=30), scores, scores)
def test_a_better_round_never_gives_a_worse_rating(values, one, two):
    before = rated(values)
    low, high = sorted((one, two))
    worse = rate(before, low, hotkey="h", updated_round=1).value
    assert worse <= rate(before, high, hotkey="h", updated_round=1).value + 1e-12
