"""From the scores of replies to a miner's rating.

Where it sits: after the judge, before the weights; the validator keeps the ratings by hotkey.

Design decisions

* A round's score is a mean over *every* context that the miner was asked: a reply that failed or
  never came scores 0 there, so answering only the easy ones earns nothing extra.
* Content recovery C alone can be won by tokens that mislead: where they make the target model
  worse on *other* documents, the difference that C measures grows although nothing is known about
  the own one. Two things stand against that. The scoring service, which ``condense bench`` runs
  too, caps what the other document's loss can count (``parts.py``); the evaluation's C is without
  the cap. And tokens that are worse than no context at all are of no use to anybody: S is 0 where
  R is below 0 (averaged embeddings of common words are such: C 0.09 with R far below 0).
* A rating is the mean of a miner's first rounds and from then on a moving average: one lucky round
  does not last, and a newcomer is judged by what it did, not by an arbitrary start.
* A round in which a miner was not asked changes nothing.
* Pure functions of frozen values; rounds and hotkeys are arguments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from neural_condense_core.constants import TierConfig
from neural_condense_core.scoring.recovery import score

ALPHA = 0.1
"""Share of a rating that one round decides, once there are enough of them."""


@dataclass(frozen=True)
class Rating:
    """What a miner is worth so far.

    Parameters
    ----------
    hotkey : whose it is; never a uid, which changes hands
    value : in [0, 1]
    n : rounds that it was made of
    updated_round : the last of them
    """

    hotkey: str
    value: float
    n: int
    updated_round: int


def score_reply(c: float | None, r: float | None, elapsed_s: float, tier: TierConfig) -> float:
    """Return the score S of a reply, in [0, 1].

    Parameters
    ----------
    c : content recovery; None (nothing could be measured) scores 0
    r : recovery; below 0 the reply misleads and scores 0; None = not known
    elapsed_s : seconds from request to reply
    tier : gives the timeout and lambda
    """
    # Written so that a NaN is no excuse.
    if r is not None and not r >= 0:
        return 0.0
    return score(c, elapsed_s, tier)


def round_score(
    c: float | None, r: float | None, elapsed_s: Sequence[float | None], tier: TierConfig
) -> float:
    """Return a miner's score of a round, in [0, 1].

    Parameters
    ----------
    c, r : content recovery and recovery over its good replies; None = nothing could be measured
    elapsed_s : one a context that it was asked, seconds; None = the reply failed or never came
    tier : gives the timeout and lambda
    """
    if not elapsed_s:
        return 0.0
    scores = [0.0 if taken is None else score_reply(c, r, taken, tier) for taken in elapsed_s]
    return math.fsum(scores) / len(scores)


def rate(
    old: Rating | None,
    score: float,
    alpha: float = ALPHA,
    *,
    hotkey: str,
    updated_round: int,
) -> Rating:
    """Return the rating after one more round.

    Parameters
    ----------
    old : the rating before; None, or one of another hotkey, starts afresh
    score : of the round; what is not finite counts as 0
    alpha : the share that the round decides; more while there are few rounds
    hotkey : whose rating it is
    updated_round : the round's number
    """
    value = min(max(score, 0.0), 1.0) if math.isfinite(score) else 0.0
    if old is None or old.hotkey != hotkey:
        return Rating(hotkey, value, 1, updated_round)
    share = max(alpha, 1 / (old.n + 1))
    return Rating(hotkey, old.value + share * (value - old.value), old.n + 1, updated_round)
