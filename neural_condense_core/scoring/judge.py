"""The judge: condensed tokens x challenge items x target model -> score.

Where it sits: the evaluation calls it offline, the validator for a miner's reply; the demo shows
its numbers.

Design decisions

* The evaluation, the validator and the demo measure losses here, by the same prompts and in the
  same batches; what the losses mean is arithmetic (``scoring/recovery.py``, offered here too).
* Each target is scored behind the condensed tokens of its own document and behind those of
  another one, in one call.
* Items that the full text hardly helps (``MIN_GAP``) are dropped by what the target model does
  without any condensed tokens (``Reference``), so before a condenser can influence the choice.
* Prompts come from ``llm/prompt.py``, tier numbers from ``constants.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from neural_condense_core.llm.base import (
    Likelihood,
    Prompt,
    Segment,
    TargetLLM,
    TokenIds,
    as_segment,
)
from neural_condense_core.llm.prompt import (
    answer_prompt,
    continuation_prompt,
    prompt_length,
    reconstruction_prompt,
)
from neural_condense_core.scoring.recovery import (
    Floats,
    bootstrap,
    content_recovery,
    derangement,
    ratio_of_sums,
    recovery,
    score,
)
from neural_condense_core.tokens import CondensedTokens

__all__ = [
    "MIN_GAP",
    "Item",
    "Losses",
    "Reference",
    "Score",
    "bootstrap",
    "content_recovery",
    "derangement",
    "judge",
    "measure",
    "measure_reference",
    "prompt_for",
    "recovery",
    "score",
]

Mask = npt.NDArray[np.bool_]
Task = Literal["continuation", "answer", "reconstruction"]

MIN_GAP = 0.1
"""Nats per target token that the full text must help at least; other items are dropped."""

MIN_SHARED_ROWS = 512
"""Rows saved from which on a context of several items gets a batch of its own."""


@dataclass(frozen=True)
class Item:
    """One thing to say about a context, and the text that counts as having said it.

    Parameters
    ----------
    task : how the target model is asked
    document : what the context is a part of, by a name that is unique over all sources; another
        document shares no text with it
    source : collection that the item is from; the swapped context comes from the same one
    context_ids : (n_context,) token ids of the context
    target_ids : (n_target,) token ids that the reply should have
    question : for ``answer``
    bridge_ids : text before the target with which the reply already begins, seen by every variant;
        of a ``continuation``, what stands between context and target
    """

    task: Task
    document: str
    source: str
    context_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    question: str = ""
    bridge_ids: tuple[int, ...] = ()


def prompt_for(target: TargetLLM, item: Item, context: Segment | None) -> Prompt:
    """Return the prompt of an item around a context in any form; None = no context."""
    if item.task == "answer":
        return answer_prompt(target, context, item.question, item.bridge_ids)
    if item.task == "continuation":
        return continuation_prompt(target, context, item.bridge_ids)
    return reconstruction_prompt(target, context, item.bridge_ids)


@dataclass(frozen=True, eq=False)
class Losses:
    """Teacher-forced likelihood of the targets of some items.

    Parameters
    ----------
    nats : (n_items,) summed negative log-likelihood
    n_tokens : (n_items,) target tokens
    n_correct : (n_items,) target tokens that were the most likely one
    """

    nats: Floats
    n_tokens: Floats
    n_correct: Floats

    def per_token(self, mask: Mask) -> float | None:
        """Return nats per target token over the masked items; None without any."""
        return ratio_of_sums(self.nats[mask], self.n_tokens[mask])

    def accuracy(self, mask: Mask) -> float | None:
        """Return the share of target tokens that were the most likely; None without any."""
        return ratio_of_sums(self.n_correct[mask], self.n_tokens[mask])


def measure(
    target: TargetLLM,
    items: Sequence[Item],
    contexts: Sequence[Segment | None],
    *,
    min_shared_rows: int = MIN_SHARED_ROWS,
) -> Losses:
    """Score each item's target behind its prompt with the given context.

    Parameters
    ----------
    contexts : one an item: full text, condensed tokens, or None for no context
    min_shared_rows : rows saved from which on a context gets a batch of its own; 0 = always, so
        that no context is ever in a batch with another
    """
    prompts = [
        prompt_for(target, item, context) for item, context in zip(items, contexts, strict=True)
    ]
    found: dict[int, Likelihood] = {}
    for shared, members in _shared_beginnings(prompts, min_shared_rows):
        likelihoods = target.loglikelihood(
            [prompts[i][len(shared) :] for i in members],
            [items[i].target_ids for i in members],
            prefix=target.prefill(shared),
        )
        found.update(zip(members, likelihoods, strict=True))
    ordered = [found[i] for i in range(len(prompts))]
    return Losses(
        np.array([likelihood.loss for likelihood in ordered]),
        np.array([float(likelihood.logprobs.size) for likelihood in ordered]),
        np.array([float(likelihood.top1.sum()) for likelihood in ordered]),
    )


def _shared_beginnings(
    prompts: Sequence[Prompt], min_shared_rows: int
) -> Iterator[tuple[Prompt, list[int]]]:
    """Yield what prompts have in common in front, to be computed once, and which prompts.

    Prompts about one context, condensed or not, share all of it if that saves enough rows;
    of the rest the common head of the chat is cut off.
    """
    by_beginning: dict[tuple[object, ...], list[int]] = {}
    for i, prompt in enumerate(prompts):
        key = tuple(
            segment.ids
            if isinstance(segment, TokenIds)
            else (id(segment.embeds), id(segment.positions), segment.span)
            for segment in prompt[:-1]
        )
        by_beginning.setdefault(key, []).append(i)
    by_head: dict[Segment, list[int]] = {}
    for members in by_beginning.values():
        beginning = prompts[members[0]][:-1]
        if (len(members) - 1) * prompt_length(beginning) >= min_shared_rows:
            yield beginning, members
        else:
            by_head.setdefault(beginning[0], []).extend(members)
    for head, members in by_head.items():
        yield (head,), members


@dataclass(frozen=True, eq=False)
class Reference:
    """What the target model makes of the items without condensed tokens.

    Parameters
    ----------
    none : losses without any context
    full : losses behind the full text
    full_other : losses behind the full text of the other document
    """

    none: Losses
    full: Losses
    full_other: Losses

    @property
    def kept(self) -> Mask:
        """(n_items,), True where the full text helps by at least ``MIN_GAP`` a token."""
        gap: Floats = (self.none.nats - self.full.nats) / self.none.n_tokens
        return gap >= MIN_GAP


def measure_reference(
    target: TargetLLM, items: Sequence[Item], others: Sequence[Sequence[int]]
) -> Reference:
    """Measure once what every condenser is compared with.

    Parameters
    ----------
    others : per item the token ids of another document's context
    """
    own_text = [TokenIds(item.context_ids) for item in items]
    other_text = [TokenIds(tuple(ids)) for ids in others]
    return Reference(
        measure(target, items, [None] * len(items)),
        measure(target, items, own_text),
        measure(target, items, other_text),
    )


@dataclass(frozen=True, eq=False)
class Score:
    """What some condensed tokens were worth.

    Parameters
    ----------
    own : losses behind the condensed tokens of the items' own contexts
    other : losses behind the same condenser's tokens of the other documents
    reference : what they are measured against
    """

    own: Losses
    other: Losses
    reference: Reference

    @property
    def recovery(self) -> float | None:
        """R over the kept items."""
        return self.recovery_over(self.reference.kept)

    @property
    def content_recovery(self) -> float | None:
        """C over the kept items."""
        return self.content_recovery_over(self.reference.kept)

    def recovery_over(self, mask: Mask) -> float | None:
        """R over the masked items."""
        ref = self.reference
        return recovery(
            ref.none.nats[mask],
            ref.full.nats[mask],
            self.own.nats[mask],
            n_target=ref.full.n_tokens[mask],
        )

    def content_recovery_over(self, mask: Mask) -> float | None:
        """C over the masked items."""
        ref = self.reference
        return content_recovery(
            self.own.nats[mask],
            self.other.nats[mask],
            ref.full.nats[mask],
            ref.full_other.nats[mask],
            n_target=ref.full.n_tokens[mask],
        )

    def interval_over(
        self, mask: Mask, documents: Sequence[str], seed: int
    ) -> tuple[float, float] | None:
        """95 % interval of C over the masked items, by document; one document name an item."""
        ref = self.reference
        return bootstrap(
            (self.other.nats - self.own.nats)[mask],
            (ref.full_other.nats - ref.full.nats)[mask],
            [name for name, kept in zip(documents, mask, strict=True) if kept],
            seed,
            n_target=ref.full.n_tokens[mask],
        )


def judge(
    target: TargetLLM,
    items: Sequence[Item],
    own: Sequence[CondensedTokens],
    other: Sequence[CondensedTokens],
    reference: Reference,
    *,
    explicit_positions: bool = False,
    min_shared_rows: int = MIN_SHARED_ROWS,
) -> Score:
    """Score a condenser's tokens.

    Parameters
    ----------
    target : the model that reads them
    items : what is asked, at least one
    own : one an item, the tokens of its context
    other : one an item, the same condenser's tokens of another document, the same document whose
        full text stands in ``reference``
    reference : of the same items
    explicit_positions : place the tokens where their text stood, if they say where
    min_shared_rows : as for ``measure``

    Raises
    ------
    ValueError
        The tokens are not one an item or not of the target model's width.
    """
    if len(own) != len(items) or len(other) != len(items):
        raise ValueError(f"{len(items)} items need as many own and other condensed tokens")
    if any(tokens.hidden_size != target.hidden_size for tokens in (*own, *other)):
        raise ValueError(f"condensed tokens for {target.name} are {target.hidden_size} wide")
    segments = [
        as_segment(tokens, explicit_positions=explicit_positions) for tokens in (*own, *other)
    ]
    both = measure(target, [*items, *items], segments, min_shared_rows=min_shared_rows)
    n = len(items)
    halves = [
        Losses(both.nats[part], both.n_tokens[part], both.n_correct[part])
        for part in (slice(None, n), slice(n, None))
    ]
    return Score(halves[0], halves[1], reference)
