"""What losses of single contexts come to for a miner: capped, joined, and parted by task.

Where it sits: ``service.py`` measures context by context and puts the parts together here. The
evaluation compares condensers of our own, which have no reason to cheat, and uses none of it.

Design decisions

* C measures how much worse another text's tokens serve than the own ones. Whoever makes the tokens
  could widen that from the wrong end, by rows that wreck every answer they do not hold. So the loss
  behind the other tokens counts at most as much as that behind no context, or behind the other full
  text where that misleads more: what tokens of another text must do at worst.
* Item by item, before anything is summed: one wrecked answer must not pay for another item.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from neural_condense_core.scoring.judge import Losses, Reference, Score
from neural_condense_core.wire.scoring import TaskScore


def capped(score: Score) -> Score:
    """Return a score whose ``other`` losses are at most max(none, full_other), item by item."""
    ends = score.reference
    most = np.maximum(ends.none.nats, ends.full_other.nats)
    other = replace(score.other, nats=np.minimum(score.other.nats, most))
    return replace(score, other=other)


def joined(scores: Sequence[Score]) -> Score:
    """Return the scores of several contexts as one, their items in order."""

    def join(parts: Sequence[Losses]) -> Losses:
        return Losses(
            np.concatenate([part.nats for part in parts]),
            np.concatenate([part.n_tokens for part in parts]),
            np.concatenate([part.n_correct for part in parts]),
        )

    reference = Reference(
        join([score.reference.none for score in scores]),
        join([score.reference.full for score in scores]),
        join([score.reference.full_other for score in scores]),
    )
    return Score(
        join([score.own for score in scores]), join([score.other for score in scores]), reference
    )


def by_task(score: Score, tasks: Sequence[str]) -> dict[str, TaskScore]:
    """Return the parts of a score by task.

    Parameters
    ----------
    score : of all items
    tasks : (n_items,) the task of each

    Returns
    -------
    task -> its part; tasks without an item that counts are left out
    """
    names = np.array(tasks)
    found = {}
    for task in dict.fromkeys(tasks):
        mask = score.reference.kept & (names == task)
        per_token = [
            losses.per_token(mask)
            for losses in (score.own, score.other, score.reference.none, score.reference.full)
        ]
        own, other, none, full = per_token
        if own is None or other is None or none is None or full is None:
            continue
        found[task] = TaskScore(
            content_recovery=score.content_recovery_over(mask),
            recovery=score.recovery_over(mask),
            n=int(mask.sum()),
            loss_own=own,
            loss_other=other,
            loss_none=none,
            loss_full=full,
        )
    return found
