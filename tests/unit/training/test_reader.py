"""The differentiable reading is the judge's reading."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from neural_condense_core.llm.base import Embeds, TokenIds
from neural_condense_core.llm.hf import HFTarget
from neural_condense_core.llm.prompt import answer_prompt
from neural_condense_core.training.batches import IGNORED, Batch, BatchMaker
from neural_condense_core.training.objectives import counted_labels
from neural_condense_core.training.reader import Reader


def judged(target: HFTarget, batch: Batch, contexts: list[TokenIds | Embeds | None]) -> float:
    """Return nats per target token as ``loglikelihood`` sees them."""
    head = answer_prompt(target, None, "")[0]
    prompts, targets = [], []
    for context, suffix, labels in zip(contexts, batch.suffix_ids, batch.labels, strict=True):
        first = int((labels != IGNORED).nonzero()[0])
        tail = TokenIds(tuple(suffix[: first + 1].tolist()))
        prompts.append((head, context, tail) if context is not None else (head, tail))
        targets.append(labels[labels != IGNORED].tolist())
    found = target.loglikelihood(prompts, targets)
    return sum(one.loss for one in found) / sum(map(len, targets))


@pytest.mark.parametrize("objective", ["continuation", "reconstruction", "answer"])
def test_text_and_nothing(maker: BatchMaker, target: HFTarget, objective: str) -> None:
    batch = maker.draw(objective, random.Random(0), 2, 128)
    reader, labels = Reader(target), counted_labels(batch)
    texts: list[TokenIds | Embeds | None] = [
        TokenIds(tuple(ids.tolist())) for ids in batch.context_ids
    ]
    full = float(cross_entropy(reader.full_logits(batch), labels))
    assert full == pytest.approx(judged(target, batch, texts), abs=1e-4)
    bare = float(cross_entropy(reader.bare_logits(batch), labels))
    assert bare == pytest.approx(judged(target, batch, [None, None]), abs=1e-4)


@pytest.mark.parametrize("explicit", [False, True])
def test_condensed_tokens_with_and_without_positions(
    maker: BatchMaker, target: HFTarget, explicit: bool
) -> None:
    batch = maker.draw("answer", random.Random(0), 2, 64)
    embeds = target.embed_ids(batch.context_ids[:, ::4])
    places = torch.arange(0, 64, 4).expand(2, -1)
    logits = Reader(target).logits(embeds, batch, places if explicit else None)
    contexts: list[TokenIds | Embeds | None] = [
        Embeds(row.numpy(), np.arange(0, 64, 4) if explicit else None, 64 if explicit else None)
        for row in embeds
    ]
    found = float(cross_entropy(logits, counted_labels(batch)))
    assert found == pytest.approx(judged(target, batch, contexts), abs=1e-4)


def test_gradients_reach_the_condensed_tokens(maker: BatchMaker, target: HFTarget) -> None:
    batch = maker.draw("reconstruction", random.Random(0), 2, 64)
    embeds = target.embed_ids(batch.context_ids[:, ::4]).requires_grad_()
    cross_entropy(Reader(target).logits(embeds, batch), counted_labels(batch)).backward()
    assert embeds.grad is not None
    assert (embeds.grad.abs().sum((1, 2)) > 0).all()
