"""When requests are due and what they hold: arrivals and contexts, both from a seed.

Where it sits: at the start of the load test; ``generator.py`` sends what is planned here.

Design decisions

* Arrivals are computed before the first is sent. What a backend does cannot slow them down.
* Given how many arrivals a Poisson process has in a window, they lie there independently and
  uniformly. So their number is fixed to what the rate says: bursts are as random as they should be,
  and the offered rate is the one asked for.
* Contexts are drawn by the very code that draws a validator's, lengths included.
* No two requests hold the same text, and none begins as another does: neither a cache of answers
  nor a cache of prefixes makes a backend look faster than it is.
"""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import numpy.typing as npt

from neural_condense_core.constants import EPOCH_LENGTH_S, TierConfig
from neural_condense_core.scoring.challenges import make_contexts
from neural_condense_core.scoring.texts import TextSource

POOL = 256
"""Texts that are drawn at most; further ones are these behind other openings."""
_OPENING = "Entry {:010d}. "


def tier_rate(tier: TierConfig, n_validators: int) -> float:
    """Return the requests a second that so many validators send to one miner of a tier."""
    return n_validators * tier.requests_per_epoch / EPOCH_LENGTH_S


def poisson_arrivals(
    rng: np.random.Generator, rate_rps: float, duration_s: float
) -> npt.NDArray[np.float64]:
    """Return the times of a Poisson process, given that it has as many as are expected of it.

    Parameters
    ----------
    rng : draws the times
    rate_rps : requests a second
    duration_s : all times are from 0 to below it, seconds

    Returns
    -------
    (n,) ascending; n is the rate times the duration, rounded, at least 1
    """
    n = max(1, round(rate_rps * duration_s))
    return np.sort(rng.uniform(0.0, duration_s, n))


class Contexts:
    """An endless row of contexts within a tier's limits.

    Parameters
    ----------
    seed : same seed, same contexts
    max_chars : the tier's limit, kept by every context
    texts : where they come from
    is_full_length : whether each is exactly as long as the limit allows
    pool : texts to draw
    """

    def __init__(
        self,
        seed: int,
        max_chars: int,
        texts: TextSource,
        *,
        is_full_length: bool = False,
        pool: int = POOL,
    ) -> None:
        self._seed = seed
        self._max_chars = max_chars
        self._pool = [draft.context for draft in make_contexts(seed, pool, max_chars, texts)]
        if is_full_length:
            self._pool = [_filled(self._pool, i, max_chars) for i in range(pool)]
        self._index = itertools.count()

    def draw(self) -> str:
        """Return the next context."""
        index = next(self._index)
        text = self._pool[index % len(self._pool)]
        digest = hashlib.blake2b(f"{self._seed}/{index}".encode(), digest_size=8).digest()
        opening = _OPENING.format(int.from_bytes(digest) % 10**10)
        return (opening + text)[: max(len(text), len(opening))]


def _filled(pool: list[str], start: int, n_chars: int) -> str:
    pieces: list[str] = []
    left = n_chars
    for offset in itertools.count():
        if left <= 0:
            break
        pieces.append(pool[(start + offset) % len(pool)])
        left -= len(pieces[-1]) + 1
    return "\n".join(pieces)[:n_chars]
