"""A step's gradients: the same in parts, and each flag does what it says."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from neural_condense_core.training.config import Recipe
from neural_condense_core.training.schedule import StepPlan
from neural_condense_core.training.sources import DataFiles
from neural_condense_core.training.trainer import RunSettings, Trainer

SETTINGS = RunSettings("float32", prefetched_steps=0)
ALL_FLAGS = {
    "batch": 4,
    "gap_share": 0.7,
    "kl_top_k": 16,
    "swap_weight": 0.5,
    "swap_margins": {"continuation": 0.5, "reconstruction": 3.0, "answer": 1.0},
}


def gradients(recipe: Recipe, files: DataFiles, out: Path, **plan: object) -> dict[str, float]:
    """Return what a step adds to the gradients, and what it reports."""
    trainer = Trainer(recipe, files, out, settings=SETTINGS)
    chosen = {"step": 0, "objective": "continuation", "ratio": 4, "n_context": 64,
              "is_robust": False, "has_positions": False, **plan}  # fmt: skip
    step = StepPlan(**chosen)
    batch = trainer._maker.draw(step.objective, random.Random(11), recipe.batch, step.n_context)
    loss, shown = trainer._supervisor.backward(step, batch)
    found = {
        name: float(p.grad.double().norm())
        for name, p in trainer.condenser.module.named_parameters()
        if p.grad is not None
    }
    return {**found, "loss": loss, "shown": shown}


@pytest.mark.parametrize("objective", ["continuation", "reconstruction", "answer", "imitation"])
def test_parts_of_a_batch_add_up_to_the_whole(
    tiny_recipe: Recipe, files: DataFiles, tmp_path: Path, objective: str
) -> None:
    # pooled begins as a perfect imitation of the span that it keeps
    method = "icae" if objective == "imitation" else "pooled"
    recipe = replace(tiny_recipe, **ALL_FLAGS, method=method)
    whole = gradients(recipe, files, tmp_path, objective=objective)
    parts = gradients(replace(recipe, micro_batch=2), files, tmp_path, objective=objective)
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        assert parts[name] == pytest.approx(value, rel=2e-4, abs=1e-6), name
    assert any(value > 0 for name, value in whole.items() if name not in ("loss", "shown"))


@pytest.mark.parametrize(
    ("change", "plan"),
    [
        ({"gap_share": 0.9}, {}),
        ({"kl_top_k": 2}, {}),
        ({"kl_weight": 0.0}, {}),
        ({"swap_weight": 1.0, "swap_margins": {"continuation": 1.0}}, {}),
        ({}, {"is_robust": True}),
        ({}, {"has_positions": True}),
    ],
    ids=["gap", "top k", "no kl", "swap", "robust", "positions"],
)
def test_every_flag_changes_the_loss(
    tiny_recipe: Recipe, files: DataFiles, tmp_path: Path,
    change: dict[str, object], plan: dict[str, object],
) -> None:  # fmt: skip
    plain = gradients(tiny_recipe, files, tmp_path)
    other = gradients(replace(tiny_recipe, **change), files, tmp_path, **plan)
    assert abs(plain["loss"] - other["loss"]) > 1e-6
    if not plan:  # what is shown is the same plain cross-entropy under every weighting
        assert other["shown"] == pytest.approx(plain["shown"], abs=1e-5)


def test_what_is_trained_is_float32_beside_a_bfloat16_model(
    tiny_recipe: Recipe, files: DataFiles, tmp_path: Path
) -> None:
    trainer = Trainer(tiny_recipe, files, tmp_path, settings=RunSettings("bfloat16"))
    assert trainer.target.dtype == torch.bfloat16
    trained = [p for p in trainer.condenser.module.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    before = [p.detach().clone() for p in trained]
    steps: list[object] = []
    trainer.train(None, steps.append)
    assert len(steps) == tiny_recipe.steps
    changed = max(float((p.detach() - b).abs().max()) for p, b in zip(trained, before, strict=True))
    assert 0 < changed < 0.02
