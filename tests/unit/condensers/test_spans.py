from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neural_condense_core.condensers.spans import SPAN, SpansCondenser, best_spans


def scores_with(*hot: int, length: int = 32) -> np.ndarray:
    scores = np.ones(length, np.float32)
    scores[list(hot)] = 10
    return scores


@pytest.mark.parametrize(
    ("scores", "n", "expected"),
    [
        (scores_with(18), 8, range(16, 24)),
        (scores_with(18, 3, 4), 16, [*range(8), *range(16, 24)]),
        (scores_with(18, 3, 4), 10, [*range(8), 17, 18]),
        (scores_with(10), 1, [10]),
        (scores_with(33, length=34), 3, [0, 32, 33]),
        (scores_with(length=11), 11, range(11)),
    ],
)
def test_the_best_spans(scores, n, expected):
    found = best_spans(scores, n).tolist()
    assert found == list(expected)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))), st.data())
def test_exactly_n_in_whole_spans_but_one(lengths, data):
    length, n = lengths
    seed = data.draw(st.integers(0, 1000))
    found = best_spans(np.random.default_rng(seed).random(length).astype(np.float32), n)
    assert len(found) == n
    assert (np.diff(found) > 0).all()
    assert found[0] >= 0
    assert found[-1] < length
    spans, counts = np.unique(found // SPAN, return_counts=True)
    whole = np.minimum(SPAN, length - spans * SPAN)
    cut = counts < whole
    assert cut.sum() <= 1
    for span in spans[cut]:
        assert (np.diff(found[found // SPAN == span]) == 1).all()


def test_the_condenser_uses_the_targets_surprisal(fake_target):
    ids = [1] * 24
    ids[17] = 90
    ids[3] = 50
    found = SpansCondenser(fake_target).select(ids, 8, None)
    assert found.tolist() == list(range(8))  # the first token takes the highest value
    assert SpansCondenser(fake_target).select(ids, 16, None).tolist() == [
        *range(8),
        *range(16, 24),
    ]
