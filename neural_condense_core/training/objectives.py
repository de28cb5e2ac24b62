"""What training lowers: sums over labelled tokens and rows, weighted once over the whole step.

Design decisions

* On continuation and answers the frozen model with the full text is the teacher: KL to it carries
  what the context changes, where cross-entropy mostly carries the text's own entropy.
* Everything is a sum over rows with weights that are known beforehand, so gradients of parts of a
  batch, computed one after the other or on several machines, add up to those of the whole.
* The tokens that the teacher ranks low are one class in the KL: it stays a KL, never below zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, softplus

from neural_condense_core.training.batches import IGNORED, Batch

_TINY = 1e-8


@dataclass(frozen=True, eq=False)
class Teacher:
    """What the target says with the full text.

    Parameters
    ----------
    ids : (n_labels, k) int64, its likeliest tokens; None = the whole vocabulary, in order
    logprobs : (n_labels, k) float32, theirs
    """

    ids: Tensor | None
    logprobs: Tensor

    @classmethod
    def of(cls, logits: Tensor, top_k: int) -> Teacher:
        """Keep the ``top_k`` likeliest tokens of (n_labels, vocab) logits; 0 = all."""
        logprobs = log_softmax(logits, dim=-1)
        if not 0 < top_k < logprobs.shape[-1]:
            return cls(None, logprobs)
        kept = logprobs.topk(top_k)
        return cls(kept.indices, kept.values)


@dataclass(frozen=True, eq=False)
class Weights:
    """How much each labelled token and each row counts; over a whole step each adds up to one.

    Parameters
    ----------
    tokens : (n_labels,), what the loss goes by
    even : (n_labels,), all equal, what is shown goes by
    rows : (n_rows,)
    """

    tokens: Tensor
    even: Tensor
    rows: Tensor


def counted_labels(batch: Batch) -> Tensor:
    """Return the labels that count, (n_labels,)."""
    return batch.labels[batch.labels != IGNORED]


def label_logprobs(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the log-probability of each label, (n_labels,) float32."""
    return -cross_entropy(logits, labels.to(logits.device), reduction="none")


def gap(full_logits: Tensor, bare_logits: Tensor, labels: Tensor) -> Tensor:
    """Return max(0, log p_full - log p_none) of each label: how much the context says there."""
    difference = label_logprobs(full_logits, labels) - label_logprobs(bare_logits, labels)
    return difference.clamp(min=0)


def token_weights(
    gaps: Tensor | None, labels: Tensor, share: float, n_labels: int, gap_total: float
) -> Tensor:
    """Return the weight of each labelled token, (n_labels here,); over the step they add up to one.

    Parameters
    ----------
    gaps : (n_labels here,) nats, or None for even weights
    labels : (n_labels here,)
    share : share of the weight that follows the gaps
    n_labels, gap_total : over the whole step; without any gap the weights are even
    """
    even = even_weights(labels, n_labels)
    if gaps is None or gap_total <= _TINY:
        return even
    return (1 - share) * even + share * gaps / gap_total


def even_weights(labels: Tensor, n_labels: int) -> Tensor:
    """Return one over ``n_labels``, the step's, for each labelled token, (n_labels here,)."""
    return torch.full((len(labels),), 1 / n_labels, device=labels.device)


def ce_sum(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum of cross-entropies, nats."""
    return -(label_logprobs(logits, labels) * weights).sum()


def kl_sum(logits: Tensor, teacher: Teacher, weights: Tensor) -> Tensor:
    """Return the weighted sum of KL(teacher || student), nats.

    The teacher's other tokens are one class, of what its likeliest leave.
    """
    student = log_softmax(logits, dim=-1)
    if teacher.ids is not None:
        student = student.gather(-1, teacher.ids)
    known = teacher.logprobs.exp()
    kl = (known * (teacher.logprobs - student)).sum(-1)
    if teacher.ids is not None:
        rest = (1 - known.sum(-1)).clamp(min=_TINY)
        left = (1 - student.exp().sum(-1)).clamp(min=_TINY)
        kl = kl + rest * (rest.log() - left.log())
    return (kl * weights).sum()


def imitation_sum(embeds: Tensor, wanted: Tensor, scale: float, row_weights: Tensor) -> Tensor:
    """Return the weighted sum of rows' squared errors, in units of the mean embedding's square.

    Parameters
    ----------
    embeds, wanted : (batch, n, hidden)
    scale : mean RMS of the target's embeddings
    row_weights : (batch,)
    """
    errors = (embeds.float() - wanted.float()).square().mean((1, 2)) / scale**2
    return (errors * row_weights).sum()


def partners(n_rows: int) -> Tensor:
    """Return the row whose condensed tokens each row is to be told from, (n_rows,).

    Rows are paired, so parts of a batch with an even number of rows have the pairs of the whole.
    """
    rows = torch.arange(n_rows)
    paired = rows ^ 1
    return torch.where(paired < n_rows, paired, torch.zeros_like(rows))


def swap_weights(batch: Batch, other: Tensor, rows: Tensor) -> Tensor:
    """Return the weights of rows, (n_rows,), zero where the partner's context is a row's own.

    Parameters
    ----------
    other : (n_rows,) ``partners``
    rows : (n_rows,) weights
    """
    ids = batch.context_ids
    return rows * (ids != ids[other]).any(-1)


def swap_sum(own: Tensor, swapped: Tensor, batch: Batch, margin: float, rows: Tensor) -> Tensor:
    """Return how far another document's condensed tokens are from being worse by a margin.

    What condensed tokens of any document achieve is style; this asks that they say what *this*
    one says. Softplus of ``margin`` less the difference, row by row, summed by weight.

    Parameters
    ----------
    own, swapped : (n_labels, vocab) logits behind the right and another document's tokens
    batch : with the labels
    margin : nats per token
    rows : (batch,) weights
    """
    counted = batch.labels != IGNORED
    labels = counted_labels(batch)
    row = counted.nonzero()[:, 0].to(own.device)
    difference = label_logprobs(own, labels) - label_logprobs(swapped, labels)
    sums = torch.zeros(len(counted), device=own.device).index_add(0, row, difference)
    means = sums / counted.sum(-1).clamp(min=1).to(own.device)
    return (softplus(margin - means) * rows).sum()
