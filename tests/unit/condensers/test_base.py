from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neural_condense_core.condensers.base import check_contexts
from neural_condense_core.condensers.echo import EchoCondenser
from neural_condense_core.errors import RequestError


class FixedRatios(EchoCondenser):
    name = "fixed"
    ratios = (1, 2, 4, 8, 16)


@pytest.mark.parametrize("contexts", [[], [[]], [[1, 2], []]])
def test_contexts_without_tokens_are_refused(contexts):
    with pytest.raises(RequestError):
        check_contexts(contexts)


def test_contexts_with_tokens_pass():
    check_contexts([[1], [2, 3]])


@pytest.mark.parametrize(
    ("condenser", "n_context", "ratio", "limit", "expected"),
    [
        (EchoCondenser(), 100, 4.0, None, 4.0),
        (EchoCondenser(), 100, 2.5, None, 2.5),
        (EchoCondenser(), 100, 4.0, 25, 4.0),
        (EchoCondenser(), 100, 4.0, 10, 10.0),
        (EchoCondenser(), 100, 1.0, 33, 100 / 33),
        (FixedRatios(), 100, 4.0, None, 4.0),
        (FixedRatios(), 100, 4.0, 25, 4.0),
        (FixedRatios(), 100, 4.0, 24, 8.0),
        (FixedRatios(), 100, 1.0, 7, 16.0),
    ],
)
def test_fit_ratio(condenser, n_context, ratio, limit, expected):
    assert condenser.fit_ratio(n_context, ratio, limit) == expected


@pytest.mark.parametrize(
    ("condenser", "ratio", "limit"),
    [
        (EchoCondenser(), 0.5, None),
        (FixedRatios(), 3.0, None),
        (FixedRatios(), 4.0, 6),
    ],
)
def test_fit_ratio_refuses(condenser, ratio, limit):
    with pytest.raises(RequestError):
        condenser.fit_ratio(100, ratio, limit)


@given(st.integers(1, 20_000), st.integers(1, 20_000))
def test_any_limit_can_be_met_exactly_where_any_ratio_is_offered(n_context, limit):
    condenser = EchoCondenser()
    ratio = condenser.fit_ratio(n_context, 1.0, limit)
    assert condenser.n_condensed_tokens(n_context, ratio) == min(n_context, limit)
