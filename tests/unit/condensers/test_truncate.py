from __future__ import annotations

import pytest

from neural_condense_core.condensers.truncate import (
    HeadTailCondenser,
    TruncateHeadCondenser,
    TruncateTailCondenser,
)


@pytest.mark.parametrize(
    ("cls", "n", "expected"),
    [
        (TruncateHeadCondenser, 3, [0, 1, 2]),
        (TruncateTailCondenser, 3, [4, 5, 6]),
        (HeadTailCondenser, 1, [0]),
        (HeadTailCondenser, 2, [0, 6]),
        (HeadTailCondenser, 5, [0, 1, 2, 5, 6]),
        (HeadTailCondenser, 7, [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_kept_tokens(fake_target, cls, n, expected):
    assert cls(fake_target).select([9] * 7, n, None).tolist() == expected
