"""What a step does, from the recipe and its number alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from neural_condense_core.training.config import Recipe, Stage
from neural_condense_core.training.schedule import (
    IMITATION,
    lr_factor,
    objectives_at,
    plan_step,
    ratios_at,
    texts_rng,
)

RECIPE = Recipe(
    name="r",
    method="pooled",
    steps=100,
    ratios={4: 1.0, 8: 1.0, 16: 1.0},
    curriculum=(1, 2, 4),
    curriculum_share=0.15,
)


def test_ratios_rise_one_after_the_other_and_then_mix() -> None:
    drawn = [plan_step(RECIPE, step).ratio for step in range(100)]
    assert drawn[:15] == [1] * 5 + [2] * 5 + [4] * 5
    assert set(drawn[15:]) == {4, 8, 16}
    assert ratios_at(replace(RECIPE, curriculum=()), 0) == RECIPE.ratios


def test_stages_have_objectives_of_their_own() -> None:
    stages = (Stage(0.2, {"reconstruction": 1.0}), Stage(0.8, {"continuation": 1.0}))
    recipe = replace(RECIPE, stages=stages, objectives={"answer": 1.0})
    drawn = [plan_step(recipe, step).objective for step in range(100)]
    assert drawn == ["reconstruction"] * 20 + ["continuation"] * 60 + ["answer"] * 20
    assert objectives_at(RECIPE, 50) == RECIPE.objectives


def test_imitation_comes_first() -> None:
    recipe = replace(RECIPE, imitation_steps=3)
    objectives = [plan_step(recipe, step).objective for step in range(5)]
    assert objectives[:3] == [IMITATION] * 3
    assert IMITATION not in objectives[3:]


@pytest.mark.parametrize(
    ("setting", "field"), [("robust_share", "is_robust"), ("position_share", "has_positions")]
)
def test_shares_of_batches(setting: str, field: str) -> None:
    def share(value: float) -> float:
        recipe = replace(RECIPE, **{setting: value})
        return sum(getattr(plan_step(recipe, step), field) for step in range(400)) / 400

    assert share(0.0) == 0
    assert share(1.0) == 1
    assert 0.4 < share(0.5) < 0.6


def test_a_plan_depends_on_seed_and_step_alone() -> None:
    assert plan_step(RECIPE, 7) == plan_step(RECIPE, 7)
    other = [plan_step(replace(RECIPE, seed=1), step) for step in range(20)]
    assert other != [plan_step(RECIPE, step) for step in range(20)]
    assert texts_rng(RECIPE, 1).random() == texts_rng(RECIPE, 1).random()
    assert texts_rng(RECIPE, 1).random() != texts_rng(RECIPE, 2).random()


def test_learning_rates_rise_then_fall_and_adapters_may_rest() -> None:
    recipe = replace(RECIPE, warmup=10, head_warmup=20, final_lr=0.1)
    head = [lr_factor(recipe, step, "head") for step in range(101)]
    assert head[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert head[10] == 1.0
    assert head[100] == pytest.approx(0.1)
    assert head[10:] == sorted(head[10:], reverse=True)
    adapter = [lr_factor(recipe, step, "adapter") for step in range(101)]
    assert adapter[:20] == [0.0] * 20
    assert 0 < adapter[20] < adapter[29] <= 1
    assert adapter[30:] == head[30:]
    assert lr_factor(replace(recipe, warmup=0), 0, "head") == 1.0
