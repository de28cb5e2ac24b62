from __future__ import annotations

import pytest

from neural_condense_core.condensers.stride import StrideCondenser


@pytest.mark.parametrize(
    ("n_context", "n", "expected"),
    [(8, 2, [1, 5]), (7, 3, [0, 2, 5]), (5, 1, [2]), (4, 4, [0, 1, 2, 3])],
)
def test_tokens_are_spread_evenly(fake_target, n_context, n, expected):
    assert StrideCondenser(fake_target).select([9] * n_context, n, None).tolist() == expected
