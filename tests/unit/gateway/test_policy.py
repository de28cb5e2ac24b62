"""What is condensed, in which order and how far."""

from __future__ import annotations

import pytest

from neural_condense_core.errors import ContextWindowError, RequestError
from neural_condense_core.gateway.policy import Rules, Sizes, eligible, ladder, plan

STEPS = (4.0, 8.0)


def rules(**changed):
    given = {"mode": "auto", "ratio": 4.0, "threshold": 50, "keep_tokens": 0, "budget": 1000}
    return Rules(**{**given, **changed})


def test_auto_leaves_what_fits_as_it_is():
    assert plan(Sizes((400, 400, 10), 20), rules(), STEPS).ratios == {}


def test_auto_condenses_the_oldest_first_and_only_as_many_as_it_takes():
    sizes = Sizes((400, 400, 400, 10), 20)
    assert plan(sizes, rules(), STEPS).ratios == {0: 4.0}
    assert plan(sizes, rules(budget=700), STEPS).ratios == {0: 4.0, 1: 4.0}


def test_what_is_above_its_budget_comes_down_to_its_aim_by_the_first_ratio_alone():
    sizes = Sizes((400, 400, 400, 10), 20)
    assert plan(sizes, rules(budget=1230, aim=300), STEPS).ratios == {}
    assert plan(sizes, rules(budget=1229, aim=700), STEPS).ratios == {0: 4.0, 1: 4.0}
    assert plan(sizes, rules(budget=400, aim=200), STEPS).ratios == dict.fromkeys(range(3), 4.0)
    assert plan(sizes, rules(budget=300, aim=200), STEPS).ratios == {0: 8.0, 1: 4.0, 2: 4.0}


def test_ratios_rise_oldest_first_where_all_are_condensed():
    sizes = Sizes((400, 400, 10), 20)
    assert plan(sizes, rules(budget=190), STEPS).ratios == {0: 8.0, 1: 4.0}
    assert plan(sizes, rules(budget=140), STEPS).ratios == {0: 8.0, 1: 8.0}


def test_what_cannot_fit_is_refused_with_numbers():
    with pytest.raises(ContextWindowError) as caught:
        plan(Sizes((400, 400, 10), 20), rules(budget=100), STEPS)
    assert caught.value.detail["budget"] == 100
    assert caught.value.status == 400


def test_always_condenses_every_long_part_once():
    sizes = Sizes((400, 40, 60, 10), 20)
    assert plan(sizes, rules(mode="always"), STEPS).ratios == {0: 4.0, 2: 4.0}


def test_never_condenses_nothing_and_says_what_would_help():
    with pytest.raises(ContextWindowError, match=r"condense\.mode auto"):
        plan(Sizes((4000, 10), 20), rules(mode="never"), STEPS)
    assert plan(Sizes((400, 10), 20), rules(mode="never"), STEPS).ratios == {}


def test_the_question_and_the_newest_tokens_stay_text():
    sizes = Sizes((300, 300, 100, 5000), 0)
    assert eligible(sizes, rules(keep_tokens=5_100, budget=40_000)) == [0, 1]
    assert eligible(sizes, rules(keep_tokens=5_400, budget=40_000)) == [0]
    assert eligible(sizes, rules(keep_tokens=5_400, budget=8_000)) == [0, 1, 2]
    assert eligible(sizes, rules()) == [0, 1, 2]
    assert eligible(sizes, rules(mode="always", keep_tokens=9_999)) == [0, 1, 2]


def test_known_sizes_replace_the_estimate():
    sizes = Sizes((400, 400, 10), 20)
    known = {(0, 4.0): 395}
    assert plan(sizes, rules(budget=760), STEPS).ratios == {0: 4.0}
    assert plan(sizes, rules(budget=760), STEPS, known).ratios == {0: 4.0, 1: 4.0}


def test_barred_parts_stay_text():
    sizes = Sizes((400, 400, 10), 20)
    found = plan(sizes, rules(budget=700), STEPS, barred=frozenset({0}))
    assert found.ratios == {1: 4.0}


def test_the_ladder_keeps_to_what_is_offered():
    assert ladder((2.0, 4.0, 8.0, 32.0), rules(), 16.0) == (4.0, 8.0)
    assert ladder(None, rules(ratio=3.0), 16.0) == (3.0, 6.0, 12.0)
    with pytest.raises(RequestError, match="one of"):
        ladder((2.0, 8.0), rules(), 16.0)
    with pytest.raises(RequestError, match="at most"):
        ladder(None, rules(ratio=40.0), 16.0)
