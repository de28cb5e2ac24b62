"""Which tokens are kept: exact optimum, exact number, whatever the padding."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neural_condense_core.condensers.span_plan import RUN_COST, SpanPlan, best_runs


def scores_of(n: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).gamma(1.0, 1.0, (1, n))).float()


def n_runs(chosen: list[int]) -> int:
    return sum(i - 1 not in chosen for i in chosen)


def worth(scores: list[float], chosen: list[int], run_cost: float) -> float:
    return sum(scores[i] for i in chosen) - run_cost * n_runs(chosen)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 9), k=st.integers(1, 9), seed=st.integers(0, 99), cost=st.floats(0, 3))
def test_no_other_choice_is_worth_more(n: int, k: int, seed: int, cost: float) -> None:
    k = min(k, n)
    scores = scores_of(n, seed)
    is_real = torch.ones(1, n, dtype=torch.bool)
    found = best_runs(scores, is_real, torch.tensor([k]), cost)[0].nonzero()[:, 0].tolist()
    values = scores[0].tolist()
    best = max(worth(values, list(c), cost) for c in itertools.combinations(range(n), k))
    assert len(found) == k
    assert worth(values, found, cost) == pytest.approx(best, abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=4),
    ratio=st.sampled_from([2, 4, 8, 16]),
    seed=st.integers(0, 20),
    padding=st.integers(0, 30),
)
def test_each_row_is_planned_as_if_alone(
    lengths: list[int], ratio: int, seed: int, padding: int
) -> None:
    n_padded = max(lengths) + padding
    scores = torch.cat([scores_of(n_padded, seed + i) for i in range(len(lengths))])
    plan = SpanPlan(scores, torch.tensor(lengths), ratio)
    for row, n in enumerate(lengths):
        alone = SpanPlan(scores[row : row + 1, :n], torch.tensor([n]), ratio)
        n_kept = -(-n // ratio)
        kept = plan.kept[row, :n_kept].tolist()
        assert kept == alone.kept[0].tolist() == sorted(set(kept))
        assert plan.slot[row, :n].tolist() == alone.slot[0].tolist()
        assert plan.slot[row, n:].tolist() == [-1] * (n_padded - n)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 100), ratio=st.sampled_from([2, 4, 8, 16]), seed=st.integers(0, 20))
def test_every_token_has_a_slot_and_dropped_ones_keep_their_order(
    n: int, ratio: int, seed: int
) -> None:
    plan = SpanPlan(scores_of(n, seed), torch.tensor([n]), ratio)
    kept, slot = plan.kept[0].tolist(), plan.slot[0].tolist()
    assert [slot[i] for i in kept] == list(range(len(kept)))
    dropped = [slot[i] for i in range(n) if i not in kept]
    assert dropped == sorted(dropped)
    assert not dropped or 0 <= dropped[0] <= dropped[-1] < len(kept)
    counts = np.bincount(dropped, minlength=len(kept))
    assert counts.max(initial=0) - counts.min() <= 1


def test_a_run_is_worth_its_cost_or_is_not_begun() -> None:
    scores = torch.full((1, 32), 0.1)
    scores[0, 8:12] = 1.0
    scores[0, 20] = 0.1 + 0.9 * RUN_COST  # alone not worth a run
    plan = SpanPlan(scores, torch.tensor([32]), 4)
    assert n_runs(plan.kept[0].tolist()) == 1
    scores[0, 20:24] = 1.0
    plan = SpanPlan(scores, torch.tensor([32]), 4)
    assert plan.kept[0].tolist() == [8, 9, 10, 11, 20, 21, 22, 23]


@pytest.mark.parametrize("tail_eighths", [0, 2, 5, 8])
@pytest.mark.parametrize("n", [1, 7, 64])
def test_the_end_of_a_window_is_kept_whatever_its_scores(n: int, tail_eighths: int) -> None:
    scores = torch.zeros(1, n + 3)
    scores[0, : n // 2] = 5.0  # what is worth something stands at the beginning
    n_kept = -(-n // 4)
    plan = SpanPlan(scores, torch.tensor([n]), 4, tail_eighths)
    kept = plan.kept[0, :n_kept].tolist()
    n_tail = n_kept * tail_eighths // 8
    assert kept == [*range(n_kept - n_tail), *range(n - n_tail, n)]
