from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neural_condense_core.condensers.selection import even_bounds, group_centres
from neural_condense_core.condensers.stride import StrideCondenser
from neural_condense_core.condensers.truncate import TruncateHeadCondenser
from neural_condense_core.errors import RequestError

LENGTHS = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


@given(LENGTHS)
def test_groups_are_even_and_cover_all(lengths):
    n_tokens, n_groups = lengths
    bounds = even_bounds(n_tokens, n_groups)
    sizes = np.diff(bounds)
    assert (bounds[0], bounds[-1], len(sizes)) == (0, n_tokens, n_groups)
    assert sizes.min() >= 1
    assert sizes.max() - sizes.min() <= 1


@given(LENGTHS)
def test_centres_lie_in_their_groups(lengths):
    bounds = even_bounds(*lengths)
    centres = group_centres(bounds)
    assert ((bounds[:-1] <= centres) & (centres < bounds[1:])).all()
    after = bounds[1:] - 1 - centres
    before = centres - bounds[:-1]
    assert set((after - before).tolist()) <= {0, 1}


def test_the_chosen_embeddings_and_their_places(fake_target):
    ids = fake_target.tokenize("abcdefgh")
    (tokens,) = StrideCondenser(fake_target).condense([ids], 4)
    np.testing.assert_array_equal(tokens.embeds, fake_target.embed([ids[1], ids[5]]))
    np.testing.assert_array_equal(tokens.positions, [1, 5])
    assert (tokens.target_model, tokens.checkpoint) == ("fake", "stride")
    assert tokens.n_context_tokens == 8


def test_condense_rounds_the_number_up(fake_target):
    (tokens,) = TruncateHeadCondenser(fake_target).condense([[1] * 9], 4)
    assert tokens.n_condensed_tokens == 3


def test_each_context_has_its_own_number(fake_target):
    found = TruncateHeadCondenser(fake_target).condense_to([[1, 2, 3], [4, 5]], [2, 1])
    assert [tokens.n_condensed_tokens for tokens in found] == [2, 1]


@pytest.mark.parametrize("n", [0, -1, 4])
def test_a_number_out_of_range_is_refused(fake_target, n):
    with pytest.raises(RequestError):
        TruncateHeadCondenser(fake_target).condense_to([[1, 2, 3]], [n])


def test_a_ratio_below_one_is_refused(fake_target):
    with pytest.raises(RequestError):
        TruncateHeadCondenser(fake_target).condense([[1, 2, 3]], 0.5)
