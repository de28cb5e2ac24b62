"""What a batch asks for."""

from __future__ import annotations

import random

import pytest
import torch

from neural_condense_core.evaluation.tasks import BRIDGE_TOKENS, TARGET_TOKENS
from neural_condense_core.llm.base import token_ids
from neural_condense_core.llm.hf import HFTarget
from neural_condense_core.llm.prompt import continuation_prompt
from neural_condense_core.training.batches import ANSWER_ROWS, IGNORED, Batch, BatchMaker

CONTEXT_TOKENS = 256
OBJECTIVES = ("continuation", "reconstruction", "answer", "imitation")


def parts_of(batch: Batch) -> tuple[torch.Tensor, ...]:
    return batch.context_ids, batch.suffix_ids, batch.labels


def test_a_continuation_is_what_follows_the_context_and_the_bridge(
    maker: BatchMaker, target: HFTarget
) -> None:
    batch = maker.draw("continuation", random.Random(0), 3, CONTEXT_TOKENS)
    assert batch.context_ids.shape == (3, CONTEXT_TOKENS)
    for suffix, labels in zip(batch.suffix_ids, batch.labels, strict=True):
        counted = labels != IGNORED
        assert int(counted.sum()) == TARGET_TOKENS
        assert bool(counted[-TARGET_TOKENS:].all())
        # each label is the next token of the suffix
        assert torch.equal(labels[-TARGET_TOKENS:-1], suffix[-TARGET_TOKENS + 1 :])
        bridge = suffix[-TARGET_TOKENS - BRIDGE_TOKENS + 1 : -TARGET_TOKENS + 1].tolist()
        whole = token_ids(continuation_prompt(target, None, bridge)[-1])
        assert suffix[: len(whole)].tolist() == list(whole)


def test_a_reconstruction_comes_from_its_own_context(maker: BatchMaker) -> None:
    batch = maker.draw("reconstruction", random.Random(0), 8, CONTEXT_TOKENS)
    for context, labels in zip(batch.context_ids, batch.labels, strict=True):
        wanted = labels[labels != IGNORED].tolist()
        assert len(wanted) == TARGET_TOKENS
        ids = context.tolist()
        assert any(ids[i : i + TARGET_TOKENS] == wanted for i in range(len(ids)))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_objective_has_one_shape_a_length(maker: BatchMaker, objective: str) -> None:
    for n_context in (16, 64, 192):
        shapes = {
            tuple(part.shape for part in parts_of(
                maker.draw(objective, random.Random(seed), 2, n_context)
            ))
            for seed in range(6)
        }  # fmt: skip
        assert len(shapes) == 1
        assert next(iter(shapes))[0] == (2, n_context)


def test_answers_stand_in_their_contexts(maker: BatchMaker, target: HFTarget) -> None:
    batch = maker.draw("answer", random.Random(0), 4, CONTEXT_TOKENS)
    assert batch.suffix_ids.shape == (4, ANSWER_ROWS)
    for context, labels in zip(batch.context_ids, batch.labels, strict=True):
        answer = target.decode(labels[labels != IGNORED].tolist())
        assert answer in target.decode(context.tolist())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_rows_of_a_part_are_those_of_the_whole(maker: BatchMaker, objective: str) -> None:
    """What a process draws for itself is what one process would have drawn there."""
    whole = parts_of(maker.draw(objective, random.Random(3), 4, 64))
    halves = [
        parts_of(maker.draw(objective, random.Random(3), 4, 64, own))
        for own in (slice(0, 2), slice(2, 4))
    ]
    for one, *two in zip(whole, *halves, strict=True):
        assert torch.equal(one, torch.cat(two))


def test_parts_add_up(maker: BatchMaker) -> None:
    batch = maker.draw("answer", random.Random(0), 5, 64)
    parts = list(batch.split(2))
    assert [len(part) for part in parts] == [2, 2, 1]
    assert torch.equal(torch.cat([part.labels for part in parts]), batch.labels)
    assert [len(part) for part in batch.split(0)] == [5]
