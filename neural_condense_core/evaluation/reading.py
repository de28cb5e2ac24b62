"""What a target model makes of contexts in one form: losses, and which choice it would take.

Where it sits: between the evaluation and the judge, which measures every loss.

Design decisions

* The right choice and the wrong ones stand behind the same context in one call, so that a long
  context is computed once for all of them.
* A choice is taken by its whole likelihood: choices of one item are of about equal length, and none
  begins as another one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from neural_condense_core.evaluation.probes import Probe
from neural_condense_core.llm.base import Segment, TargetLLM, TokenIds
from neural_condense_core.scoring.judge import Losses, Reference, measure
from neural_condense_core.scoring.recovery import Floats

Segments = Sequence[Segment | None]


@dataclass(frozen=True, eq=False)
class Reading:
    """What the target model makes of contexts.

    Parameters
    ----------
    losses : of the items' targets behind the items' own contexts
    hits : (n_items,) 1 where the right choice is the likeliest, else 0; NaN without choices
    other : of the items' targets behind other contexts
    """

    losses: Losses
    hits: Floats
    other: Losses


@dataclass(frozen=True, eq=False)
class Ends:
    """The ends of the scale for some items and one target model.

    Parameters
    ----------
    none, full : without a context and behind the full text; what stands for the other context is
        no context and the full text of the other document
    """

    none: Reading
    full: Reading

    @property
    def reference(self) -> Reference:
        """What scores are measured against."""
        return Reference(self.none.losses, self.full.losses, self.full.other)


def read(target: TargetLLM, probes: Sequence[Probe], own: Segments, other: Segments) -> Reading:
    """Read the items behind their own contexts, and their targets behind other ones.

    Parameters
    ----------
    own, other : one an item; None = no context
    """
    wrong = [(i, ids) for i, probe in enumerate(probes) for ids in probe.distractors]
    n, end = len(probes), len(probes) + len(wrong)
    # behind no context nothing changes with the document
    swapped = [] if all(segment is None for segment in (*own, *other)) else list(probes)
    losses = measure(
        target,
        [*probes, *(replace(probes[i], target_ids=ids) for i, ids in wrong), *swapped],
        [*own, *(own[i] for i, _ in wrong), *(other if swapped else ())],
    )
    right = _part(losses, slice(None, n))
    lowest = np.full(n, np.inf)
    np.minimum.at(lowest, [i for i, _ in wrong], losses.nats[n:end])
    hits = np.where(np.isinf(lowest), np.nan, (right.nats < lowest).astype(float))
    return Reading(right, hits, _part(losses, slice(end, None)) if swapped else right)


def read_ends(target: TargetLLM, probes: Sequence[Probe], others: Sequence[Sequence[int]]) -> Ends:
    """Read the items without a context, and behind full texts.

    Parameters
    ----------
    others : per item the token ids of another document's context
    """
    nothing: list[Segment | None] = [None] * len(probes)
    texts: list[Segment | None] = [TokenIds(probe.context_ids) for probe in probes]
    other_texts: list[Segment | None] = [TokenIds(tuple(ids)) for ids in others]
    return Ends(read(target, probes, nothing, nothing), read(target, probes, texts, other_texts))


def _part(losses: Losses, part: slice) -> Losses:
    return Losses(losses.nats[part], losses.n_tokens[part], losses.n_correct[part])
