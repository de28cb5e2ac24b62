"""Non-uniform budgets: exact totals, snapped ratios, and where the tokens go."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neural_condense_core.condensers.base import LoadOptions
from neural_condense_core.condensers.budgets import (
    RATIOS,
    SEGMENT_TOKENS,
    Piece,
    UnevenCondenser,
    allot,
    merge,
)
from neural_condense_core.condensers.checkpoints import load_condenser
from neural_condense_core.condensers.echo import EchoCondenser
from neural_condense_core.condensers.options import BUDGETS
from neural_condense_core.condensers.pooled import PooledCondenser
from neural_condense_core.errors import ConfigError, RequestError
from neural_condense_core.llm.hf import load_target
from neural_condense_core.tokens import n_condensed_for

TINY = {"n_layers": 1, "lora_r": 4, "lora_alpha": 8}


def ids_of(n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(3, 250, n).tolist()


@pytest.fixture(scope="module")
def pooled(tiny_llama: str) -> PooledCondenser:
    condenser = PooledCondenser.create(LoadOptions(tiny_llama, dtype="float32"), TINY)
    condenser.fit_statistics([ids_of(4000)])
    return condenser


@pytest.fixture(params=BUDGETS)
def uneven(request: pytest.FixtureRequest, pooled: PooledCondenser) -> UnevenCondenser:
    return UnevenCondenser(pooled, request.param, pooled.target)


@settings(max_examples=60, deadline=None)
@given(
    weights=st.lists(st.floats(0.1, 10), min_size=1, max_size=4),
    costs=st.lists(st.integers(1, 9), min_size=3, max_size=3),
    total=st.integers(0, 24),
)
def test_the_allotment_is_the_best_of_all(weights, costs, total):
    table = np.tile(np.array(costs), (len(weights), 1))
    worth = np.sqrt(table.astype(float))
    found = allot(np.array(weights), table, worth, total)

    def value(choice):
        return sum(
            weight * worth[0, column] for weight, column in zip(weights, choice, strict=True)
        )

    every = [
        choice
        for choice in product(range(3), repeat=len(weights))
        if sum(costs[column] for column in choice) == total
    ]
    if found is None:
        assert not every
    else:
        assert sum(costs[column] for column in found) == total
        assert value(found) == pytest.approx(max(map(value, every)))


@settings(max_examples=80, deadline=None)
@given(n=st.integers(1, 700), ratio=st.sampled_from(RATIOS))
def test_a_plan_covers_the_text_and_spends_exactly_the_uniform_number(pooled, n, ratio):
    for kind in BUDGETS:
        plan = UnevenCondenser(pooled, kind, pooled.target).plan(ids_of(n), ratio)
        assert plan[0].start == 0
        assert plan[-1].end == n
        assert all(left.end == right.start for left, right in pairwise(plan))
        assert {piece.ratio for piece in plan} <= set(RATIOS)
        spent = sum(pooled.n_condensed_tokens(p.end - p.start, p.ratio) for p in plan)
        assert spent == pooled.n_condensed_tokens(n, ratio)


@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_the_condensed_tokens_are_as_many_as_the_uniform_ones(uneven, pooled, ratio):
    contexts = [ids_of(256), ids_of(250, 1), ids_of(61, 2), ids_of(3, 3)]
    found = uneven.condense(contexts, ratio)
    uniform = pooled.condense(contexts, ratio)
    for ids, mine, other in zip(contexts, found, uniform, strict=True):
        assert mine.embeds.shape == other.embeds.shape
        assert mine.checkpoint == uneven.name == f"pooled+budget={uneven.kind}"
        assert (np.diff(mine.positions) > 0).all()
        assert mine.positions[-1] < len(ids)


def test_dense_spends_on_rare_tokens(pooled):
    ranked = pooled.module.informativeness.argsort().tolist()
    common, rare = ranked[:4], ranked[-20:]
    rng = np.random.default_rng(0)
    ids = [*rng.choice(common, 96).tolist(), *rng.choice(rare, 32).tolist()]
    ids += rng.choice(common, 128).tolist()
    plan = UnevenCondenser(pooled, "dense", pooled.target).plan(ids, 4)
    ratios = {start: piece.ratio for piece in plan for start in range(piece.start, piece.end)}
    assert ratios[100] < min(ratios[0], ratios[200])


def test_text_of_one_density_is_condensed_evenly(pooled):
    plan = UnevenCondenser(pooled, "dense", pooled.target).plan([7] * 256, 4)
    assert plan == [Piece(0, 256, 4)]


def test_recent_never_spends_less_towards_the_end(pooled):
    plan = UnevenCondenser(pooled, "recent", pooled.target).plan(ids_of(512), 4)
    ratios = [piece.ratio for piece in plan]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[0] > ratios[-1]


def test_tail_keeps_half_of_the_tokens_raw(pooled):
    ids = ids_of(256)
    condenser = UnevenCondenser(pooled, "tail", pooled.target)
    (found,) = condenser.condense([ids], 4)
    np.testing.assert_array_equal(found.embeds[-32:], pooled.target.embed(ids[-32:]))
    np.testing.assert_array_equal(found.positions[-32:], np.arange(224, 256))


@pytest.mark.parametrize("method", ["spans", "stride"])
def test_methods_of_any_ratio_and_the_targets_own_surprisal(tiny_llama, method):
    condenser = load_condenser(f"{method}+budget=dense", tiny_llama, dtype="float32")
    (found,) = condenser.condense([ids_of(200)], 2.5)
    assert found.n_condensed_tokens == n_condensed_for(200, 2.5)


def test_neighbours_are_merged_only_where_that_costs_nothing():
    pieces = [
        Piece(0, 32, 4),
        Piece(32, 64, 4),
        Piece(64, 70, 4),
        Piece(70, 75, 4),
        Piece(75, 80, 8),
    ]
    assert merge(pieces, n_condensed_for) == [
        Piece(0, 70, 4),
        Piece(70, 75, 4),
        Piece(75, 80, 8),
    ]


def test_long_texts_are_planned_in_time(pooled):
    plan = UnevenCondenser(pooled, "dense", pooled.target).plan(ids_of(16_383), 4)
    assert sum(pooled.n_condensed_tokens(p.end - p.start, p.ratio) for p in plan) == 4096
    assert all(piece.start % SEGMENT_TOKENS == 0 for piece in plan[:-1])


def test_what_cannot_be_wrapped_is_refused(pooled, tiny_llama):
    with pytest.raises(ConfigError, match="Did you mean 'dense'"):
        UnevenCondenser(pooled, "dens", pooled.target)
    with pytest.raises(ConfigError, match="one question"):
        load_condenser("sentence-retrieval+budget=tail", tiny_llama, dtype="float32")
    with pytest.raises(ConfigError, match="width 4"):
        UnevenCondenser(EchoCondenser(tiny_llama, 4), "tail", load_target(tiny_llama))
    with pytest.raises(ConfigError, match="NAME"):
        UnevenCondenser.load(LoadOptions(tiny_llama))


def test_a_ratio_that_the_condenser_does_not_offer_is_refused(uneven):
    with pytest.raises(RequestError):
        uneven.condense([ids_of(50)], 3)
