"""Losses: sums that parts add up to, and what each of them asks for."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax, one_hot

from neural_condense_core.training.batches import IGNORED, Batch
from neural_condense_core.training.objectives import (
    Teacher,
    ce_sum,
    counted_labels,
    gap,
    imitation_sum,
    kl_sum,
    partners,
    swap_sum,
    swap_weights,
    token_weights,
)

VOCAB = 40


@pytest.fixture
def batch() -> Batch:
    labels = torch.full((4, 6), IGNORED)
    generator = torch.Generator().manual_seed(0)
    labels[:, 2:5] = torch.randint(VOCAB, (4, 3), generator=generator)
    return Batch("continuation", torch.zeros(4, 8), torch.zeros(4, 6), labels)


def logits_of(batch: Batch, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(counted_labels(batch)), VOCAB, generator=generator)


def even(batch: Batch) -> torch.Tensor:
    labels = counted_labels(batch)
    return token_weights(None, labels, 0.5, len(labels), 0.0)


def test_even_weights_make_means(batch: Batch) -> None:
    labels, logits = counted_labels(batch), logits_of(batch, 1)
    assert float(ce_sum(logits, labels, even(batch))) == pytest.approx(
        float(cross_entropy(logits, labels))
    )
    teacher = logits_of(batch, 2)
    whole = kl_div(log_softmax(logits, -1), log_softmax(teacher, -1), log_target=True,
                   reduction="batchmean")  # fmt: skip
    assert float(kl_sum(logits, Teacher.of(teacher, 0), even(batch))) == pytest.approx(float(whole))


def test_the_teachers_unlikely_tokens_are_one_class(batch: Batch) -> None:
    logits, teacher = logits_of(batch, 1), logits_of(batch, 2)
    kept = [float(kl_sum(logits, Teacher.of(teacher, k), even(batch))) for k in (1, 8, 39, 0)]
    assert 0 < kept[0] < kept[1] < kept[2] <= kept[3] + 1e-5  # merging classes lowers a KL
    assert kept[2] == pytest.approx(kept[3], rel=0.02)
    assert Teacher.of(teacher, 8).logprobs.shape == (12, 8)
    assert Teacher.of(teacher, 99).ids is None
    for k in (0, 8):
        own = float(kl_sum(teacher, Teacher.of(teacher, k), even(batch)))
        assert own == pytest.approx(0, abs=1e-5)
    # a student that differs only where the teacher is unlikely is not told from it
    moved = teacher.clone()
    low = teacher.argsort(-1)[:, :2]
    swapped = teacher.gather(1, low.flip(1))
    moved.scatter_(1, low, swapped)
    top = Teacher.of(teacher, 8)
    assert float(kl_sum(moved, top, even(batch))) == pytest.approx(0, abs=1e-5)


def test_the_gap_is_what_the_context_adds() -> None:
    labels = torch.tensor([0, 1, 2])
    full = 5.0 * one_hot(torch.tensor([0, 1, 0]), 3).float()
    bare = 5.0 * one_hot(torch.tensor([1, 1, 2]), 3).float()
    gaps = gap(full, bare, labels)
    assert gaps.tolist() == pytest.approx([5.0, 0.0, 0.0], abs=1e-5)


def test_weights_follow_the_gap_by_their_share() -> None:
    gaps, labels = torch.tensor([3.0, 1.0, 0.0, 0.0]), torch.zeros(4)
    shares = {s: token_weights(gaps, labels, s, 4, 4.0).tolist() for s in (0.0, 0.5, 1.0)}
    assert shares[0.0] == [0.25] * 4
    assert shares[1.0] == [0.75, 0.25, 0.0, 0.0]
    assert shares[0.5] == [0.5, 0.25, 0.125, 0.125]
    assert token_weights(torch.zeros(4), labels, 1.0, 4, 0.0).tolist() == [0.25] * 4


def test_imitation_is_perfect_for_the_embeddings_themselves() -> None:
    wanted = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    rows = torch.full((2,), 0.5)
    assert float(imitation_sum(wanted, wanted, 1.0, rows)) == 0
    expected = float(wanted.square().mean()) / 4
    found = float(imitation_sum(torch.zeros_like(wanted), wanted, 2.0, rows))
    assert found == pytest.approx(expected)


def test_rows_have_partners_in_even_parts() -> None:
    assert partners(4).tolist() == [1, 0, 3, 2]
    assert partners(5).tolist() == [1, 0, 3, 2, 0]
    assert partners(2).tolist() == [1, 0]


def test_the_swap_term_falls_as_the_other_document_gets_worse(batch: Batch) -> None:
    labels, rows = counted_labels(batch), torch.full((4,), 0.25)
    right = 9 * one_hot(labels, VOCAB).float()
    wrong = 9 * one_hot((labels + 1) % VOCAB, VOCAB).float()
    equal, good, bad = (
        float(swap_sum(own, other, batch, 2.0, rows))
        for own, other in ((right, right), (right, wrong), (wrong, right))
    )
    assert good < 0.01 < equal < bad
    assert equal == pytest.approx(math.log1p(math.exp(2.0)))


def test_one_row_that_differs_much_does_not_settle_the_others(batch: Batch) -> None:
    labels, rows = counted_labels(batch), torch.full((4,), 0.25)
    right = 50 * one_hot(labels, VOCAB).float()
    half = right.clone()
    half[: len(half) // 2] = 0  # told apart by far in the first rows, not at all in the others
    assert float(swap_sum(right, half, batch, 2.0, rows)) > 1.0


def test_a_row_is_not_told_from_its_own_context(batch: Batch) -> None:
    contexts = torch.zeros(4, 8, dtype=torch.long)
    contexts[3, 2] = 1
    pairs = replace(batch, context_ids=contexts)
    weights = swap_weights(pairs, partners(4), torch.full((4,), 0.25))
    assert weights.tolist() == [0.0, 0.0, 0.25, 0.25]
