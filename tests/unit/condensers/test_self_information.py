from __future__ import annotations

import numpy as np
import pytest

from neural_condense_core.condensers.self_information import (
    SelfInformationCondenser,
    most_surprising,
    surprisal,
)


@pytest.mark.parametrize(
    ("scores", "n", "expected"),
    [
        ([1.0, 5.0, 2.0, 4.0], 2, [1, 3]),
        ([1.0, 5.0, 2.0, 4.0], 4, [0, 1, 2, 3]),
        ([3.0, 3.0, 3.0], 2, [0, 1]),
    ],
)
def test_the_highest_scores_in_order(scores, n, expected):
    assert most_surprising(np.asarray(scores, np.float32), n).tolist() == expected


def test_the_target_says_what_is_surprising(fake_target):
    found = SelfInformationCondenser(fake_target).select([5, 1, 9, 2, 8], 3, None)
    assert found.tolist() == [0, 2, 4]  # the first token takes the highest value


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 24, 25, 100])
def test_a_context_longer_than_the_target_is_scored_in_windows(short_target, length):
    ids = [(7 * i) % 50 + 1 for i in range(length)]
    expected = np.asarray(ids, np.float32) / 100
    expected[0] = expected[:16].max()
    np.testing.assert_array_equal(surprisal(short_target, ids), expected)
    assert max(short_target.windows) <= 16


def test_the_same_context_is_scored_once(fake_target):
    for _ in range(3):
        surprisal(fake_target, [1, 2, 3])
    assert len(fake_target.windows) == 1
