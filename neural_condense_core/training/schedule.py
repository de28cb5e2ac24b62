"""What a step does, as a pure function of (recipe, step): no torch, no clock, no state.

Every process of a run computes the same plan, so processes agree without asking each other, and a
resumed run goes on exactly as the first would have.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

from neural_condense_core.training.config import Recipe

IMITATION = "imitation"


@dataclass(frozen=True)
class StepPlan:
    """One step.

    Parameters
    ----------
    step : counted from 0
    objective, ratio, n_context : what its batch is
    is_robust : its condensed tokens get noise and rounding
    has_positions : its condensed tokens stand at explicit positions
    """

    step: int
    objective: str
    ratio: int
    n_context: int
    is_robust: bool
    has_positions: bool


def plan_step(recipe: Recipe, step: int) -> StepPlan:
    """Return the plan of a step."""
    rng = random.Random(f"{recipe.seed}:{step}")  # noqa: S311 - sampling, no secret
    ratio = _choose(rng, ratios_at(recipe, step))
    objective = _choose(rng, objectives_at(recipe, step))
    n_context = _choose(rng, recipe.context_lengths)
    return StepPlan(
        step,
        IMITATION if step < recipe.imitation_steps else objective,
        ratio,
        n_context,
        rng.random() < recipe.robust_share,
        rng.random() < recipe.position_share,
    )


def texts_rng(recipe: Recipe, step: int) -> random.Random:
    """Return the generator that draws a step's texts."""
    return random.Random(f"{recipe.seed}:{step}:texts")  # noqa: S311 - sampling, no secret


def ratios_at(recipe: Recipe, step: int) -> dict[int, float]:
    """Return ratio -> weight at a step: one of the curriculum, or the recipe's own."""
    taken = recipe.curriculum_share * recipe.steps
    if not recipe.curriculum or step >= taken:
        return recipe.ratios
    return {recipe.curriculum[int(step / taken * len(recipe.curriculum))]: 1.0}


def objectives_at(recipe: Recipe, step: int) -> dict[str, float]:
    """Return objective -> weight at a step: the stage's, or the recipe's own."""
    for stage in recipe.stages:
        if step < stage.until * recipe.steps:
            return stage.objectives
    return recipe.objectives


def lr_factor(recipe: Recipe, step: int, group: str) -> float:
    """Return the share of a group's peak learning rate at a step.

    Linear warm-up, then cosine to ``final_lr`` at the last step. Adapters rest for ``head_warmup``
    steps and have a warm-up of their own behind them.

    Parameters
    ----------
    group : ``"adapter"`` or ``"head"``
    """
    resting = recipe.head_warmup if group == "adapter" else 0
    if step < resting:
        return 0.0
    rising = min(1.0, (step - resting + 1) / max(1, recipe.warmup))
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    cosine = (1 + math.cos(math.pi * min(1.0, max(0.0, progress)))) / 2
    return rising * (recipe.final_lr + (1 - recipe.final_lr) * cosine)


def _choose(rng: random.Random, weights: dict[Any, float]) -> Any:
    """Draw a key by its weight; the order of the recipe's lines does not matter."""
    keys = sorted(weights)
    return rng.choices(keys, [weights[key] for key in keys])[0]
