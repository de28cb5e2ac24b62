from __future__ import annotations

import numpy as np

from neural_condense_core.condensers.random_tokens import RandomTokensCondenser


def test_the_choice_belongs_to_the_context(fake_target):
    first, second = (RandomTokensCondenser(fake_target) for _ in range(2))
    ids = list(range(200))
    np.testing.assert_array_equal(first.select(ids, 50, None), second.select(ids, 50, None))
    other = first.select([*ids[:-1], 7], 50, None)
    assert other.tolist() != first.select(ids, 50, None).tolist()


def test_the_choice_is_the_same_in_every_release(fake_target):
    found = RandomTokensCondenser(fake_target).select([1, 2, 3, 4, 5, 6, 7, 8], 3, None)
    assert found.tolist() == [0, 1, 7]


def test_no_token_twice_and_all_places_used(fake_target):
    condenser = RandomTokensCondenser(fake_target)
    seen = np.zeros(20, dtype=int)
    for row in range(300):
        chosen = condenser.select([row] * 20, 5, None)
        assert (np.diff(chosen) > 0).all()
        seen[chosen] += 1
    assert seen.min() > 40  # 75 expected of each
    assert seen.max() < 115


def test_fewer_tokens_are_a_part_of_more(fake_target):
    condenser = RandomTokensCondenser(fake_target)
    few, more = (set(condenser.select(list(range(64)), n, None).tolist()) for n in (8, 16))
    assert few < more
