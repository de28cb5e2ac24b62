"""From a batch to gradients: teacher, weights, disturbance, positions, losses, part by part.

Where it sits: between the batches and the optimiser; ``trainer.py`` calls ``backward`` once a step.

Design decisions

* A batch is computed in parts of ``micro_batch`` rows, on as many processes as there are. What all
  parts have to know of each other (how many labels there are, how large the gaps are together) is
  known before the first gradient, so the parts' gradients add up to the whole batch's.
* The teacher's passes come first and leave a few numbers a token behind, never a vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neural_condense_core.condensers.trainable import TrainableCondenser
from neural_condense_core.llm.hf import HFTarget
from neural_condense_core.training.batches import Batch
from neural_condense_core.training.config import Recipe
from neural_condense_core.training.disturbance import disturb
from neural_condense_core.training.objectives import (
    Teacher,
    Weights,
    ce_sum,
    counted_labels,
    even_weights,
    gap,
    imitation_sum,
    kl_sum,
    partners,
    swap_sum,
    swap_weights,
    token_weights,
)
from neural_condense_core.training.reader import Reader
from neural_condense_core.training.schedule import IMITATION, StepPlan
from neural_condense_core.training.workers import Workers

TAUGHT = ("continuation", "answer")
"""Objectives on which the full text is a better reader than no text, and so a teacher."""


@dataclass(frozen=True, eq=False)
class Guide:
    """What the frozen model says of a part of a batch, before the condenser has its turn."""

    teacher: Teacher | None
    gaps: Tensor | None


@dataclass(frozen=True)
class Totals:
    """Of the whole step, over all parts and processes."""

    n_labels: int
    gap_total: float
    n_rows: int


class Supervisor:
    """Computes a step's gradients.

    Parameters
    ----------
    recipe : weights and shares
    target : the frozen model
    condenser : what is trained
    workers : the processes of this run
    """

    def __init__(
        self, recipe: Recipe, target: HFTarget, condenser: TrainableCondenser, workers: Workers
    ) -> None:
        self._recipe = recipe
        self._target = target
        self._condenser = condenser
        self._workers = workers
        self._reader = Reader(target)

    def backward(self, plan: StepPlan, batch: Batch) -> tuple[float, float]:
        """Add a step's gradients to the parameters.

        Parameters
        ----------
        plan : what the step is
        batch : this process's rows

        Returns
        -------
        loss that was lowered, and the figure to show: cross-entropy in nats per target token, or
        imitation's own error; both over all processes
        """
        parts = list(batch.to(self._target.device).split(self._recipe.micro_batch))
        guides = [self._guide(part) for part in parts]
        totals = self._totals(parts, guides)
        sums = torch.zeros(2, dtype=torch.float64)
        for number, (part, guide) in enumerate(zip(parts, guides, strict=True)):
            loss, shown = self.part_loss(plan, part, guide, totals, number)
            loss.backward()  # type: ignore[no-untyped-call]
            sums += torch.stack([loss.detach(), shown.detach()]).double().cpu()
        loss_sum, shown_sum = self._workers.sum_numbers(sums).tolist()
        return loss_sum, shown_sum

    def part_loss(
        self, plan: StepPlan, part: Batch, guide: Guide, totals: Totals, number: int
    ) -> tuple[Tensor, Tensor]:
        """Return a part's share of (loss, figure to show)."""
        rows = torch.full((len(part),), 1 / totals.n_rows, device=part.context_ids.device)
        embeds, places = self._condense(plan, part)
        if plan.objective == IMITATION:
            wanted = self._target.embed_ids(part.context_ids.gather(1, places))
            error = imitation_sum(embeds, wanted, self._target.embedding_scale, rows)
            return error, error
        if plan.is_robust:
            embeds = disturb(embeds, self._recipe.noise, self._noise_seed(plan, number))
        labels = counted_labels(part)
        tokens = token_weights(
            guide.gaps, labels, self._recipe.gap_share, totals.n_labels, totals.gap_total
        )
        weights = Weights(tokens, even_weights(labels, totals.n_labels), rows)
        return self._reading_loss(plan, part, guide.teacher, weights, embeds, places)

    def _reading_loss(
        self,
        plan: StepPlan,
        part: Batch,
        teacher: Teacher | None,
        weights: Weights,
        embeds: Tensor,
        places: Tensor,
    ) -> tuple[Tensor, Tensor]:
        recipe, labels = self._recipe, counted_labels(part)
        stands = places if plan.has_positions else None
        logits = self._reader.logits(embeds, part, stands)
        loss = ce_sum(logits, labels, weights.tokens)
        shown = ce_sum(logits.detach(), labels, weights.even)
        if teacher is not None:
            kl = kl_sum(logits, teacher, weights.tokens)
            loss = recipe.ce_weight * loss + recipe.kl_weight * kl
        margin = recipe.swap_margins.get(part.objective, 0.0)
        if recipe.swap_weight > 0 and margin > 0 and len(part) > 1:
            other = partners(len(part)).to(embeds.device)
            others_stand = None if stands is None else stands[other]
            swapped = self._reader.logits(embeds[other], part, others_stand)
            rows = swap_weights(part, other, weights.rows)
            loss = loss + recipe.swap_weight * swap_sum(logits, swapped, part, margin, rows)
        return loss, shown

    def _condense(self, plan: StepPlan, part: Batch) -> tuple[Tensor, Tensor]:
        ids = part.context_ids
        n_context = torch.full((len(ids),), ids.shape[1], device=ids.device)
        with self._condenser.autocast():
            embeds, places = self._condenser.module(ids, n_context, plan.ratio)
        return embeds, places

    def _guide(self, part: Batch) -> Guide:
        recipe = self._recipe
        has_gaps = recipe.gap_share > 0
        if part.objective not in TAUGHT or not (recipe.kl_weight > 0 or has_gaps):
            return Guide(None, None)
        full = self._reader.full_logits(part)
        labels = counted_labels(part)
        gaps = gap(full, self._reader.bare_logits(part), labels) if has_gaps else None
        return Guide(Teacher.of(full, recipe.kl_top_k) if recipe.kl_weight > 0 else None, gaps)

    def _totals(self, parts: Sequence[Batch], guides: Sequence[Guide]) -> Totals:
        own = torch.tensor(
            [
                sum(len(counted_labels(part)) for part in parts),
                sum(float(guide.gaps.sum()) for guide in guides if guide.gaps is not None),
                sum(map(len, parts)),
            ],
            dtype=torch.float64,
        )
        n_labels, gap_total, n_rows = self._workers.sum_numbers(own).tolist()
        return Totals(round(n_labels), gap_total, round(n_rows))

    def _noise_seed(self, plan: StepPlan, number: int) -> int:
        name = f"{self._recipe.seed}:{plan.step}:noise:{self._workers.rank}:{number}"
        return random.Random(name).getrandbits(63)  # noqa: S311 - sampling, no secret
