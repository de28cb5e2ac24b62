"""Which users' requests the judge sees, and where they wait for it.

Where it sits: ``organic.py`` offers what was served, ``planning.py`` takes it for the miner's next
round.

Design decisions

* A user must not choose what a miner is scored on: a request that names its miner is never kept,
  nor is a text shorter than those of a test, and of one caller a miner is judged on one request an
  epoch at most.
* What is kept stays in memory, bounded in number and bytes, and never reaches the disk.
"""

from __future__ import annotations

from collections import deque
from random import Random

from neural_condense_core.constants import EPOCH_LENGTH_S, TierConfig
from neural_condense_core.scoring.challenges import SHORTEST_SHARE
from neural_condense_core.validator.rounds import Sample

SAMPLE_SHARE = 0.1
MAX_SAMPLES_A_MINER = 2
MAX_SAMPLE_BYTES = 256 * 1024 * 1024
MAX_CALLERS = 100_000
"""Most pairs of caller and miner that are sampled in one epoch."""


class SamplePool:
    """Replies to users that wait for the judge; bounded."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, str], deque[Sample]] = {}
        self._n_bytes = 0

    def add(self, tier: str, sample: Sample) -> bool:
        """Keep a sample if there is room.

        Parameters
        ----------
        tier : that the user asked
        sample : request and reply
        """
        size = _size(sample)
        kept = self._samples.setdefault((tier, sample.reply.hotkey), deque())
        if len(kept) >= MAX_SAMPLES_A_MINER or self._n_bytes + size > MAX_SAMPLE_BYTES:
            return False
        kept.append(sample)
        self._n_bytes += size
        return True

    def take(self, tier: str, hotkey: str) -> tuple[Sample, ...]:
        """Return a miner's samples and forget them."""
        taken = tuple(self._samples.pop((tier, hotkey), ()))
        self._n_bytes -= sum(map(_size, taken))
        return taken


class Sampler:
    """Decides what is kept.

    Parameters
    ----------
    pool : where samples wait
    rng : decides
    """

    def __init__(self, pool: SamplePool, rng: Random) -> None:
        self._pool = pool
        self._rng = rng
        self._epoch = -1
        self._seen: set[tuple[str, str]] = set()

    def offer(self, tier: TierConfig, sample: Sample, caller: str, wall: float) -> bool:
        """Keep a sample perhaps; return whether it is.

        Parameters
        ----------
        tier : that the user asked
        sample : request and reply; of a request that named no miner
        caller : id of the user
        wall : seconds since 1970
        """
        epoch = int(wall // EPOCH_LENGTH_S)
        if epoch != self._epoch:
            self._epoch = epoch
            self._seen.clear()
        pair = (caller, sample.reply.hotkey)
        if (
            len(sample.context) < SHORTEST_SHARE * tier.max_context_chars
            or pair in self._seen
            or len(self._seen) >= MAX_CALLERS
            or self._rng.random() >= SAMPLE_SHARE
            or not self._pool.add(tier.name, sample)
        ):
            return False
        self._seen.add(pair)
        return True


def _size(sample: Sample) -> int:
    tokens = sample.reply.tokens
    return len(sample.context) * 4 + (tokens.nbytes if tokens else 0)
