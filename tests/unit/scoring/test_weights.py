"""Weights: tiers' shares exactly, nobody paid for nothing, no NaN."""

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from neural_condense_core.constants import MIN_RATING, TIERS
from neural_condense_core.scoring.weights import weights_for

OWNER = 1000
uids = st.integers(0, 255)
ratings = st.dictionaries(uids, st.floats(allow_nan=True, allow_infinity=True), max_size=20)
good_ratings = st.dictionaries(uids, st.floats(MIN_RATING, 1), min_size=1, max_size=20)
by_tier = st.fixed_dictionaries({name: ratings for name in TIERS})


# Trap 18: shares were not used, and all zero became all one.
def test_trap_18_tiers_get_exactly_their_shares():
    found = weights_for(
        {"research": {1: 0.9, 2: 0.3}, "inference_0": {3: 0.03}, "inference_1": {4: 1.0}},
        TIERS,
        OWNER,
    )
    assert found[1] + found[2] == pytest.approx(0.5)
    assert (found[3], found[4]) == (pytest.approx(0.25), pytest.approx(0.25))
    assert found[1] / found[2] == pytest.approx(3.0**3)
    assert found.get(OWNER, 0.0) == pytest.approx(0.0, abs=1e-12)


def test_trap_18_all_zero_pays_nobody_but_the_owner():
    zeros = {name: {1: 0.0, 2: 0.0} for name in TIERS}
    assert weights_for(zeros, TIERS, OWNER) == {OWNER: 1.0}
    assert weights_for(zeros, TIERS, None) == {}
    assert weights_for({}, TIERS, None) == {}


def test_an_unearned_share_goes_to_the_owner():
    found = weights_for({"research": {1: 0.5}}, TIERS, OWNER)
    assert found == {1: pytest.approx(0.5), OWNER: pytest.approx(0.5)}


def test_without_an_owner_the_earned_shares_keep_their_proportion():
    found = weights_for({"research": {1: 0.5}, "inference_0": {2: 0.5}}, TIERS, None)
    assert found == {1: pytest.approx(2 / 3), 2: pytest.approx(1 / 3)}


def test_shares_below_1_leave_the_rest_to_the_owner():
    tiers = {"research": replace(TIERS["research"], incentive_share=0.2)}
    assert weights_for({"research": {7: 1.0}}, tiers, OWNER) == {
        7: pytest.approx(0.2), OWNER: pytest.approx(0.8),
    }  # fmt: skip


def test_an_owner_that_mines_gets_both():
    found = weights_for({"research": {OWNER: 1.0}}, TIERS, OWNER)
    assert found == {OWNER: pytest.approx(1.0)}


def test_a_uid_in_two_tiers_earns_in_both():
    found = weights_for({name: {5: 0.3} for name in TIERS}, TIERS, OWNER)
    assert found[5] == pytest.approx(1.0)


def test_no_number_is_worth_nothing_and_spoils_nothing():
    bad = {1: float("nan"), 2: float("inf"), 3: -1.0, 4: 0.5}
    found = weights_for({"research": bad}, TIERS, None)
    assert found == {4: 1.0}


def test_an_unknown_tier_pays_nothing():
    assert weights_for({"gold": {1: 1.0}}, TIERS, OWNER) == {OWNER: 1.0}


# A lone miner of noise was paid a whole tier.
def test_a_rating_that_chance_reaches_earns_nothing_even_alone():
    found = weights_for({"research": {1: 0.004}}, TIERS, OWNER)
    assert found == {OWNER: 1.0}
    beside = weights_for({"research": {1: 0.0199, 2: MIN_RATING}}, TIERS, OWNER)
    assert beside == {2: pytest.approx(0.5), OWNER: pytest.approx(0.5)}


def test_tiny_ratings_do_not_vanish():
    tiers = {"research": replace(TIERS["research"], incentive_share=1.0, sharpness=100.0)}
    assert weights_for({"research": {1: 0.02, 2: 0.02}}, tiers, None) == {1: 0.5, 2: 0.5}


@settings(deadline=None)
@given(by_tier, st.one_of(st.none(), uids))
def test_weights_are_finite_and_sum_to_1_or_there_are_none(given_ratings, owner):
    found = weights_for(given_ratings, TIERS, owner)
    assert all(math.isfinite(value) and value > 0 for value in found.values())
    assert list(found) == sorted(found)
    if owner is not None:
        assert found
    if found:
        assert math.fsum(found.values()) == pytest.approx(1.0, abs=1e-9)


@settings(deadline=None)
@given(good_ratings)
def test_a_better_rating_never_earns_less(values):
    found = weights_for({"research": values}, TIERS, OWNER)
    ordered = sorted(values, key=lambda uid: values[uid])
    earned = [found.get(uid, 0.0) for uid in ordered]
    assert earned == sorted(earned)


@settings(deadline=None)
@given(good_ratings, good_ratings)
def test_tiers_do_not_touch_each_other(one, two):
    assume(not one.keys() & two.keys())
    alone = weights_for({"research": one}, TIERS, OWNER)
    both = weights_for({"research": one, "inference_0": two}, TIERS, OWNER)
    for uid in one:
        assert both.get(uid, 0.0) == pytest.approx(alone.get(uid, 0.0))


@settings(deadline=None)
@given(good_ratings, st.floats(1, 100))
def test_only_relative_ratings_count(values, factor):
    scaled = {uid: value * factor for uid, value in values.items()}
    one = weights_for({"research": values}, TIERS, OWNER)
    two = weights_for({"research": scaled}, TIERS, OWNER)
    assert one.keys() == two.keys()
    for uid, weight in one.items():
        assert two[uid] == pytest.approx(weight, rel=1e-6)
