"""What a condenser is trained for: batches of one fixed shape per objective, and their loss.

* *continuation*: the text goes on behind the context; a bridge of its next tokens is shown as text,
  as in the evaluation.
* *reconstruction*: the text from a random place in the context on, a few tokens shown as text; in
  some batches from the very start, as in the evaluation.
* *answer*: the gold answer to a question about the context.
* *imitation*: each condensed token becomes the embedding of the context token at its own position,
  a start that the frozen model can read; needs no pass through it.

Design decisions

* Real chat prompts from the start (``llm/prompt.py``), so what is trained is what is used.
* Fixed shapes: on CPU every new shape costs oneDNN a new kernel.
* On continuation and answers the frozen model with the full text is the teacher: KL to it carries
  what the context changes, where cross-entropy mostly carries the text's own entropy.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, mse_loss, softplus

from neural_condense_core.evaluation.tasks import BRIDGE_TOKENS, TARGET_TOKENS
from neural_condense_core.llm.base import Prompt, Segment, token_ids
from neural_condense_core.llm.hf import HFTarget
from neural_condense_core.llm.prefix import HFPrefix, expand_cache
from neural_condense_core.llm.prompt import (
    answer_prompt,
    continuation_prompt,
    reconstruction_prompt,
)
from neural_condense_core.training.data import Prose, Questions

CUE_TOKENS = 16
FROM_START_SHARE = 0.3
"""Share of reconstructions that begin at the context's start, without a cue."""
ANSWER_ROWS = 96
"""Rows for a question's prompt and answer; longer ones are cut."""
IGNORED = -100
IMITATION = "imitation"


@dataclass(frozen=True, eq=False)
class Batch:
    """Contexts and what to predict behind them.

    Parameters
    ----------
    objective : name
    context_ids : (batch, n_context) int64
    suffix_ids : (batch, n_suffix) int64, all text behind the context, targets included
    labels : (batch, n_suffix) int64, the token that follows each suffix token where it counts,
        else ``IGNORED``
    """

    objective: str
    context_ids: Tensor
    suffix_ids: Tensor
    labels: Tensor


Drawn = tuple[tuple[int, ...], Prompt, tuple[int, ...]]
"""Context ids, the prompt without its context, target ids."""


class BatchMaker:
    """Draws batches; the same generator state gives the same batch.

    Parameters
    ----------
    target : the model that will read them
    prose : needed for continuation and reconstruction
    questions : needed for answers
    """

    def __init__(self, target: HFTarget, prose: Prose | None, questions: Questions | None) -> None:
        self._draw: dict[str, Callable[[random.Random, int], Drawn]] = {}
        if prose is not None:
            self._draw["continuation"] = partial(_continuation, target, prose)
            self._draw["reconstruction"] = partial(_reconstruction, target, prose)
            self._draw[IMITATION] = partial(_imitation, target, prose)
        if questions is not None:
            self._draw["answer"] = partial(_answer, target, questions)

    def draw(self, objective: str, rng: random.Random, size: int, n_context: int) -> Batch:
        """Return a batch of one objective, all contexts ``n_context`` tokens long."""
        contexts, prompts, targets = zip(
            *(self._draw[objective](rng, n_context) for _ in range(size)), strict=True
        )
        n_suffix = ANSWER_ROWS if objective == "answer" else None
        suffix_ids, labels = _lay_out(prompts, targets, n_suffix)
        return Batch(objective, torch.tensor(contexts), suffix_ids, labels)


def _continuation(target: HFTarget, prose: Prose, rng: random.Random, n_context: int) -> Drawn:
    ids = prose.draw(rng, n_context + BRIDGE_TOKENS + TARGET_TOKENS)
    end = n_context + BRIDGE_TOKENS
    prompt = continuation_prompt(target, None, ids[n_context:end])
    return ids[:n_context], prompt, ids[end:]


def _reconstruction(target: HFTarget, prose: Prose, rng: random.Random, n_context: int) -> Drawn:
    ids = prose.draw(rng, n_context)
    n_target = min(TARGET_TOKENS, n_context // 2)
    start = rng.randint(CUE_TOKENS, n_context - n_target)
    cue = ids[start - CUE_TOKENS : start]
    if rng.random() < FROM_START_SHARE:
        start, cue = 0, ()
    prompt = reconstruction_prompt(target, None, cue)
    return ids, prompt, ids[start : start + n_target]


def _imitation(target: HFTarget, prose: Prose, rng: random.Random, n_context: int) -> Drawn:
    return prose.draw(rng, n_context), continuation_prompt(target, None, ()), ()


def _answer(target: HFTarget, questions: Questions, rng: random.Random, n_context: int) -> Drawn:
    drawn = questions.draw(rng, n_context)
    return drawn.context_ids, answer_prompt(target, None, drawn.question), drawn.answer_ids


def _lay_out(
    prompts: Sequence[Prompt], targets: Sequence[Sequence[int]], n_suffix: int | None
) -> tuple[Tensor, Tensor]:
    """Return suffix ids and labels, padded on the right to one length.

    A row longer than ``n_suffix`` loses its beginning: a long question, never its answer.
    """
    rows = []
    for (_, tail), target in zip(prompts, targets, strict=True):
        ids = [*token_ids(tail), *target]
        rows.append((ids[:-1], [IGNORED] * (len(tail) - 1) + list(target)))
    length = n_suffix or max(len(ids) for ids, _ in rows)
    suffix = torch.zeros(len(rows), length, dtype=torch.long)
    labels = torch.full((len(rows), length), IGNORED)
    for i, (ids, marks) in enumerate(rows):
        kept = min(length, len(ids))
        suffix[i, :kept] = torch.tensor(ids[-kept:])
        labels[i, :kept] = torch.tensor(marks[-kept:])
    return suffix, labels


class Reader:
    """The frozen target model as a differentiable reader of condensed tokens.

    Parameters
    ----------
    target : the target model; what stands before the context in every prompt is computed once
    """

    def __init__(self, target: HFTarget) -> None:
        self._target = target
        head: Segment = continuation_prompt(target, None, ())[0]
        self._prefix: HFPrefix = target.prefill((head,))

    def logits(self, context: Tensor, batch: Batch) -> Tensor:
        """Predict behind a context.

        Parameters
        ----------
        context : (batch, n, hidden), condensed tokens or the text's own embeddings
        batch : whose suffix to read

        Returns
        -------
        (n_labels, vocab) float32, in the order of ``batch.labels`` where they count
        """
        target = self._target
        suffix = target.embed_ids(batch.suffix_ids)
        rows = torch.cat([context.to(target.dtype), suffix], 1)
        n_past, length = self._prefix.n_tokens, rows.shape[1]
        positions = self._prefix.next_position + torch.arange(length, device=rows.device)
        states = target.decoder(
            inputs_embeds=rows,
            attention_mask=torch.ones(
                len(rows), n_past + length, dtype=torch.long, device=rows.device
            ),
            position_ids=positions.expand(len(rows), -1),
            past_key_values=expand_cache(self._prefix, len(rows)),
            use_cache=True,
        ).last_hidden_state
        states = states[:, context.shape[1] :]
        return target.logits(states[batch.labels.to(states.device) != IGNORED])

    def teacher_logprobs(self, batch: Batch) -> Tensor:
        """Return the full-text teacher's log-probabilities, (n_labels, vocab), no gradient."""
        with torch.no_grad():
            context = self._target.embed_ids(batch.context_ids)
            return log_softmax(self.logits(context, batch), dim=-1)


def batch_loss(
    logits: Tensor, batch: Batch, teacher: Tensor | None, ce_weight: float, kl_weight: float
) -> tuple[Tensor, float]:
    """Return (loss to minimise, cross-entropy in nats per token).

    Parameters
    ----------
    logits : (n_labels, vocab)
    batch : with the labels
    teacher : (n_labels, vocab) log-probabilities, or None for cross-entropy alone
    ce_weight, kl_weight : weights where there is a teacher
    """
    labels = batch.labels[batch.labels != IGNORED].to(logits.device)
    ce = cross_entropy(logits, labels)
    if teacher is None:
        return ce, float(ce.detach())
    student = log_softmax(logits, dim=-1)
    kl = kl_div(student, teacher, log_target=True, reduction="batchmean")
    return ce_weight * ce + kl_weight * kl, float(ce.detach())


def imitation_loss(embeds: Tensor, wanted: Tensor, scale: float) -> tuple[Tensor, float]:
    """Return (squared error in units of the mean embedding's square, the same as a number).

    Parameters
    ----------
    embeds, wanted : (batch, n, hidden)
    scale : mean RMS of the target's embeddings
    """
    loss = mse_loss(embeds.float(), wanted.float()) / scale**2
    return loss, float(loss.detach())


def swap_loss(own: Tensor, swapped: Tensor, batch: Batch, margin: float) -> Tensor:
    """Return how far another document's condensed tokens are from being worse by a margin.

    What condensed tokens of any document achieve is style; this asks that they say what *this*
    one says. Softplus of ``margin`` less the difference, row by row, and the mean over rows.

    Parameters
    ----------
    own, swapped : (n_labels, vocab) logits behind the right and another document's tokens
    batch : with the labels
    margin : nats per token
    """
    counted = batch.labels != IGNORED
    labels = batch.labels[counted].to(own.device)
    row = counted.nonzero()[:, 0].to(own.device)
    difference = cross_entropy(swapped, labels, reduction="none") - cross_entropy(
        own, labels, reduction="none"
    )
    sums = torch.zeros(len(counted), device=own.device).index_add(0, row, difference)
    means = sums / counted.sum(-1).clamp(min=1).to(own.device)
    return softplus(margin - means).mean()
