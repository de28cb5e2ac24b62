"""Batches and their loss."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch

from neural_condense_core.evaluation.tasks import BRIDGE_TOKENS, TARGET_TOKENS
from neural_condense_core.llm.base import TokenIds
from neural_condense_core.llm.hf import HFTarget, load_target
from neural_condense_core.llm.prompt import answer_prompt, continuation_prompt
from neural_condense_core.training.data import Prose, Questions
from neural_condense_core.training.objectives import (
    ANSWER_ROWS,
    IGNORED,
    BatchMaker,
    Reader,
    batch_loss,
    imitation_loss,
    swap_loss,
)

CONTEXT_TOKENS = 256


@pytest.fixture(scope="module")
def target(tiny_llama: str) -> HFTarget:
    return load_target(tiny_llama, dtype="float32")


@pytest.fixture(scope="module")
def batches(target: HFTarget, prose_file: Path, qa_file: Path) -> BatchMaker:
    return BatchMaker(target, Prose(prose_file, target, {}), Questions(qa_file, target, 16))


def test_a_continuation_is_what_follows_the_context_and_the_bridge(
    batches: BatchMaker, target: HFTarget
) -> None:
    batch = batches.draw("continuation", random.Random(0), 3, CONTEXT_TOKENS)
    assert batch.context_ids.shape == (3, CONTEXT_TOKENS)
    for suffix, labels in zip(batch.suffix_ids, batch.labels, strict=True):
        counted = labels != IGNORED
        assert int(counted.sum()) == TARGET_TOKENS
        assert bool(counted[-TARGET_TOKENS:].all())
        # each label is the next token of the suffix
        assert torch.equal(labels[-TARGET_TOKENS:-1], suffix[-TARGET_TOKENS + 1 :])
        bridge = suffix[-TARGET_TOKENS - BRIDGE_TOKENS + 1 : -TARGET_TOKENS + 1].tolist()
        whole = continuation_prompt(target, None, bridge)[-1]
        assert isinstance(whole, TokenIds)
        assert suffix[: len(whole)].tolist() == list(whole.ids)


def test_a_reconstruction_comes_from_its_own_context(batches: BatchMaker) -> None:
    batch = batches.draw("reconstruction", random.Random(0), 8, CONTEXT_TOKENS)
    for context, labels in zip(batch.context_ids, batch.labels, strict=True):
        wanted = labels[labels != IGNORED].tolist()
        assert len(wanted) == TARGET_TOKENS
        ids = context.tolist()
        assert any(ids[i : i + TARGET_TOKENS] == wanted for i in range(len(ids)))


@pytest.mark.parametrize("n_context", [64, 128, 192])
def test_contexts_have_the_length_that_is_asked_for(batches: BatchMaker, n_context: int) -> None:
    for objective in ("continuation", "reconstruction", "answer", "imitation"):
        batch = batches.draw(objective, random.Random(0), 2, n_context)
        assert batch.context_ids.shape == (2, n_context)


def test_answers_have_one_shape(batches: BatchMaker, target: HFTarget) -> None:
    shapes = {
        batches.draw("answer", random.Random(s), 2, CONTEXT_TOKENS).suffix_ids.shape
        for s in range(4)
    }
    assert shapes == {(2, ANSWER_ROWS)}
    batch = batches.draw("answer", random.Random(0), 4, CONTEXT_TOKENS)
    for context, labels in zip(batch.context_ids, batch.labels, strict=True):
        answer = target.decode(labels[labels != IGNORED].tolist())
        assert answer in target.decode(context.tolist())


@pytest.mark.parametrize("objective", ["continuation", "reconstruction", "answer"])
def test_the_reader_says_what_the_target_says(
    batches: BatchMaker, target: HFTarget, objective: str
) -> None:
    """Differentiable and cached, the reading is the same as the judge's."""
    batch = batches.draw(objective, random.Random(0), 2, CONTEXT_TOKENS)
    logits = Reader(target).logits(target.embed_ids(batch.context_ids), batch)
    loss, ce = batch_loss(logits, batch, None, 0.0, 0.0)
    prompts, targets = [], []
    head = answer_prompt(target, None, "")[0]
    for context, suffix, labels in zip(
        batch.context_ids, batch.suffix_ids, batch.labels, strict=True
    ):
        first = int((labels != IGNORED).nonzero()[0])
        tail = TokenIds(tuple(suffix[: first + 1].tolist()))
        prompts.append((head, TokenIds(tuple(context.tolist())), tail))
        targets.append(labels[labels != IGNORED].tolist())
    judged = target.loglikelihood(prompts, targets)
    nats = sum(found.loss for found in judged) / sum(map(len, targets))
    assert ce == pytest.approx(nats, abs=1e-4)
    assert float(loss) == pytest.approx(ce)


def test_with_a_teacher_the_loss_is_zero_for_the_teacher_itself(
    batches: BatchMaker, target: HFTarget
) -> None:
    batch = batches.draw("continuation", random.Random(0), 2, CONTEXT_TOKENS)
    reader = Reader(target)
    teacher = reader.teacher_logprobs(batch)
    assert float(batch_loss(teacher, batch, teacher, 0.0, 1.0)[0]) == pytest.approx(0, abs=1e-5)
    swapped = target.embed_ids(batch.context_ids.flip(0))
    other = reader.logits(swapped, batch)
    assert float(batch_loss(other, batch, teacher, 0.0, 1.0)[0]) > 1e-4


def test_imitation_is_perfect_for_the_embeddings_themselves(
    batches: BatchMaker, target: HFTarget
) -> None:
    batch = batches.draw("imitation", random.Random(0), 2, CONTEXT_TOKENS)
    assert not (batch.labels != IGNORED).any()
    wanted = target.embed_ids(batch.context_ids[:, ::4])
    assert imitation_loss(wanted, wanted, target.embedding_scale)[1] == 0
    loss, shown = imitation_loss(torch.zeros_like(wanted), wanted, target.embedding_scale)
    assert shown == pytest.approx(float(loss))
    assert 0.3 < shown < 3  # embeddings are one scale large


def test_the_swap_term_falls_as_the_other_document_gets_worse(
    batches: BatchMaker, target: HFTarget
) -> None:
    batch = batches.draw("reconstruction", random.Random(0), 2, CONTEXT_TOKENS)
    labels = batch.labels[batch.labels != IGNORED]
    right = 9 * torch.nn.functional.one_hot(labels, 259).float()
    wrong = 9 * torch.nn.functional.one_hot((labels + 1) % 259, 259).float()
    equal, good, bad = (
        float(swap_loss(own, other, batch, 2.0))
        for own, other in ((right, right), (right, wrong), (wrong, right))
    )
    assert good < 0.01 < equal < bad
    assert equal == pytest.approx(math.log1p(math.exp(2.0)))


def test_one_row_that_differs_much_does_not_settle_the_others(
    batches: BatchMaker, target: HFTarget
) -> None:
    batch = batches.draw("reconstruction", random.Random(0), 2, CONTEXT_TOKENS)
    labels = batch.labels[batch.labels != IGNORED]
    right = 50 * torch.nn.functional.one_hot(labels, 259).float()
    half = right.clone()
    half[: len(half) // 2] = 0  # the first row's document is told apart by far, the second's not
    assert float(swap_loss(right, half, batch, 2.0)) > 1.0
