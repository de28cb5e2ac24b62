"""Costs on a tiny model: what is counted is what a formula says, what is timed is interleaved."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from neural_condense_core.condensers.base import LoadOptions
from neural_condense_core.condensers.self_information import SelfInformationCondenser
from neural_condense_core.condensers.truncate import HeadTailCondenser
from neural_condense_core.errors import ConfigError
from neural_condense_core.evaluation.break_even import Costs
from neural_condense_core.evaluation.costs import Grid, count_operations, measure_costs
from neural_condense_core.llm.base import TokenIds
from neural_condense_core.llm.hf import HFTarget, load_target


@pytest.fixture(scope="module")
def target(tiny_llama: str) -> HFTarget:
    return load_target(tiny_llama, "cpu", "float32")


class Noted(HeadTailCondenser):
    """Notes what it condensed."""

    def __init__(self, target: HFTarget) -> None:
        super().__init__(target)
        self.seen: list[tuple[int, ...]] = []

    def condense(
        self, contexts: Sequence[Sequence[int]], ratio: float, *, queries: Any = None
    ) -> Any:
        self.seen += [tuple(ids) for ids in contexts]
        return super().condense(contexts, ratio, queries=queries)


def measured(target: HFTarget, grid: Grid) -> tuple[Costs, Noted]:
    condenser = Noted(target)
    ticks = itertools.count()
    return measure_costs(target, [condenser], grid, lambda: float(next(ticks))), condenser


def reading_operations(target: HFTarget, n: int) -> int:
    """Multiplications and additions of a Llama over n tokens, and of one token's logits."""
    config = target.model.config
    hidden, heads = config.hidden_size, config.num_attention_heads
    width = config.head_dim
    linear = 2 * heads * width * hidden + 2 * config.num_key_value_heads * width * hidden
    linear += 3 * hidden * config.intermediate_size
    attention = 2 * n * heads * width
    return 2 * (config.num_hidden_layers * n * (linear + attention) + hidden * config.vocab_size)


@pytest.mark.parametrize("n", [5, 64])
def test_operations_are_those_of_the_models_config(target: HFTarget, n: int) -> None:
    prompt = (TokenIds(tuple(range(10, 10 + n))),)
    text, found = count_operations(lambda: target.generate([prompt], 1))
    assert isinstance(text[0], str)
    assert found == reading_operations(target, n)


def test_a_row_a_ratio_and_length(target: HFTarget) -> None:
    grid = Grid((2.0, 8.0), (256, 128), repeats=2)
    costs, condenser = measured(target, grid)
    assert [(row.n_context, row.ratio, row.n_condensed) for row in costs.rows] == [
        (128, 2.0, 64), (128, 8.0, 16), (256, 2.0, 128), (256, 8.0, 32),
    ]  # fmt: skip
    for row in costs.rows:
        assert row.bytes == row.n_condensed * 64 * 2
        assert row.encode_ms == row.use_ms == row.full_ms == 1000.0
        assert row.encode_flops == 0  # it looks embeddings up
        assert row.use_flops == reading_operations(target, row.n_condensed + costs.n_prompt)
        assert row.full_flops == reading_operations(target, row.n_context + costs.n_prompt)
    assert costs.machine["device"] == "cpu"
    assert costs.machine["dtype"] == "float32"
    # a warm-up and two rounds of four jobs, no text twice: nothing may be found in a cache
    assert len(condenser.seen) == len(set(condenser.seen)) == 3 * 4


def test_a_method_that_keeps_what_it_computed_pays_at_each_ratio(target: HFTarget) -> None:
    condenser = SelfInformationCondenser(target)
    ticks = itertools.count()
    grid = Grid((2.0, 4.0), (128,), repeats=1)
    costs = measure_costs(target, [condenser], grid, lambda: float(next(ticks)))
    first, second = (row.encode_flops for row in costs.rows)
    assert first == second > 0


def test_ratios_that_are_not_offered_are_left_out(target: HFTarget) -> None:
    condenser = HeadTailCondenser.load(LoadOptions(target.name, dtype="float32"))
    condenser.ratios = (4,)
    costs = measure_costs(
        target, [condenser], Grid((2.0, 4.0), (128,), repeats=1), iter(range(99)).__next__
    )
    assert [row.ratio for row in costs.rows] == [4.0]


def test_lengths_that_do_not_fit_are_left_out(target: HFTarget) -> None:
    costs, _ = measured(target, Grid((4.0,), (128, target.max_positions), repeats=1))
    assert [row.n_context for row in costs.rows] == [128]
    with pytest.raises(ConfigError, match="give other --lengths"):
        measured(target, Grid((4.0,), (target.max_positions,), repeats=1))
