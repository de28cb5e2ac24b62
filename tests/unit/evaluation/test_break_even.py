"""When condensing pays: the arithmetic."""

from __future__ import annotations

import pytest
from report_fakes import cost, costs

from neural_condense_core.evaluation.break_even import Costs, costs_of, pays_from, uses_until_paid


@pytest.mark.parametrize(
    ("once", "use", "full", "expected"),
    [
        (0.0, 1.0, 2.0, 1),
        (0.9, 1.0, 2.0, 1),
        (1.0, 1.0, 2.0, 2),  # equal at the first use is not less
        (5.0, 1.0, 3.0, 3),
        (0.0, 2.0, 2.0, None),
        (0.0, 3.0, 2.0, None),
    ],
)
def test_the_fewest_uses_that_cost_less(
    once: float, use: float, full: float, expected: int | None
) -> None:
    assert uses_until_paid(once, use, full) == expected
    if expected is not None:
        assert once + expected * use < expected * full
        assert expected == 1 or once + (expected - 1) * use >= (expected - 1) * full


def test_time_and_operations_are_told_apart() -> None:
    row = cost()
    assert (row.share("ms"), row.share("flops")) == (pytest.approx(5 / 6), 1.15)
    assert (row.uses("ms"), row.uses("flops")) == (1, 2)
    found = row.as_json()
    assert (found["break_even_ms"], found["break_even_flops"]) == (1, 2)
    assert found["bytes_per_token"] == 16


@pytest.mark.parametrize(
    ("pays", "expected"),
    [
        ((False, True, True), 512),
        ((True, True, True), 256),
        ((True, False, True), 1024),
        ((True, True, False), None),
    ],
)
def test_the_length_from_which_on_it_pays(pays: tuple[bool, ...], expected: int | None) -> None:
    rows = [
        cost(n=n, encode_ms=1.0 if good else 99.0)
        for n, good in zip((256, 512, 1024), pays, strict=True)
    ]
    assert pays_from(rows[::-1], "ms") == expected


def test_json_and_back() -> None:
    found = costs().as_json()
    assert found["pays_from"] == [{"condenser": "pooled", "ratio": 4.0, "ms": 512, "flops": None}]
    assert costs_of(found) == costs()


def test_the_table_says_never_where_it_never_pays() -> None:
    table = Costs({"device": "cpu"}, 1, 9, (cost(use_ms=99.0),)).to_table()
    assert list(table.columns[9].cells) == ["never"]
    assert list(table.columns[10].cells) == ["2"]
