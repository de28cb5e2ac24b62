"""Rows beside other rows: best baselines, falls, seeds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from neural_condense_core.evaluation.comparisons import compared, difference, with_seeds
from neural_condense_core.evaluation.metrics import Evidence, Margin, Row

GAINS = np.array([3.0, 1.0, 1.0])
SPREADS = np.array([5.0, 5.0, 2.0])
EVIDENCE = Evidence(GAINS, SPREADS, np.full(3, 2.0), ("d1", "d2", "d3"))
BASE = Row(
    condenser="pooled", ratio=4.0, task="answer", source="all", positions="plain",
    perturbation="none", query_aware=False, n=3, n_documents=3, dropped=0, n_condensed=12.0,
    recovery=None, content_recovery=5 / 12, ci=None, loss=None, loss_none=None, loss_full=None,
    loss_other=None, loss_full_other=None, accuracy=None, greedy_accuracy=None, encode_ms=None,
    budgets=(10, 12, 14), evidence=EVIDENCE,
)  # fmt: skip


def baseline(name: str, c: float | None, **changes: Any) -> Row:
    return replace(BASE, condenser=name, content_recovery=c, **changes)


def worse(row: Row, by: float) -> Row:
    """The same items, every gain smaller by a share of what the full text changes."""
    return replace(
        row,
        content_recovery=(row.content_recovery or 0) - by,
        evidence=replace(EVIDENCE, gains=GAINS - by * SPREADS),
    )


def test_best_baseline_is_the_best_at_exactly_equal_length() -> None:
    rows = [
        BASE,
        baseline("head-tail", 0.3),
        baseline("spans", 0.4),
        baseline("stride", None),
        baseline("random", 0.9, budgets=(10, 13, 13)),
        baseline("random", 0.9, ratio=8.0),
        baseline("random", 0.9, task="continuation"),
        baseline("random", 0.9, by="source", source="s1"),
        baseline("random", 0.9, perturbation="int8"),
        baseline("random", 0.9, positions="explicit"),
        baseline("sentence-retrieval", 0.95, query_aware=True),
        baseline("icae", 0.99),
        baseline("full", 1.0, ratio=None, budgets=()),
    ]
    found = compared(rows, 0)
    best = found[0].best_baseline
    assert best is not None
    assert (best.condenser, best.content_recovery) == ("spans", 0.4)
    assert best.margin == pytest.approx(5 / 12 - 0.4)
    by_name = {row.condenser: row.best_baseline for row in found}
    assert by_name["spans"] is None
    assert by_name["full"] is None
    assert by_name["icae"] is not None
    assert compared([BASE], 0) == [BASE]


def test_a_margin_is_paired_by_document() -> None:
    (row, _) = compared([BASE, replace(worse(BASE, 0.1), condenser="spans")], 0)
    assert isinstance(row.best_baseline, Margin)
    assert row.best_baseline.margin == pytest.approx(0.1)
    # every document gives the same difference, so that nothing is uncertain
    assert row.best_baseline.margin_ci == pytest.approx((0.1, 0.1))


def test_a_difference_needs_the_same_items_for_an_interval() -> None:
    other = worse(BASE, 0.1)
    moved = replace(other, evidence=replace(EVIDENCE, documents=("d1", "d2", "d4")))
    assert difference(BASE, moved, 0) == (pytest.approx(0.1), None)
    reader = replace(other, evidence=replace(EVIDENCE, spreads=SPREADS + 1))
    assert difference(BASE, reader, 0) == (pytest.approx(0.1), None)
    assert difference(BASE, replace(other, content_recovery=None), 0) == (None, None)


def test_the_fall_stands_in_rows_with_a_disturbance() -> None:
    noisy = replace(worse(BASE, 0.25), perturbation="noise")
    elsewhere = replace(noisy, positions="explicit")
    plain, fallen, alone = compared([BASE, noisy, elsewhere], 0)
    assert (plain.fall, plain.fall_ci) == (None, None)
    assert fallen.fall == pytest.approx(0.25)
    assert fallen.fall_ci == pytest.approx((0.25, 0.25))
    assert alone.fall is None


def test_seeds_stand_side_by_side_in_the_rows_of_the_first() -> None:
    longer = replace(BASE, budgets=(20, 24, 28), content_recovery=0.7)
    first = [BASE, longer, baseline("none", 0.0)]
    second = [replace(BASE, content_recovery=0.5), replace(longer, content_recovery=0.8)]
    rows = with_seeds([first, second])
    assert [row.c_by_seed for row in rows] == [(5 / 12, 0.5), (0.7, 0.8), (0.0, None)]
    assert with_seeds([first]) == first
