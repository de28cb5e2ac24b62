"""Who is asked next.

Where it sits: between what the validator knows (``watching.py``, ``state.py``, ``allowances.py``)
and a round (``rounds.py``).

Design decisions

* A round has as many miners as the judge gets through in time: after one that took too long the
  next has half as many, and it grows again while there is time to spare. So a slow judge means
  small rounds, never none.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

from neural_condense_core.chain.base import Peer
from neural_condense_core.constants import TierConfig
from neural_condense_core.validator.allowances import Allowances
from neural_condense_core.validator.rounds import Invitation, RoundPlan
from neural_condense_core.validator.sampling import SamplePool
from neural_condense_core.validator.state import State

SEED_BITS = 62
SPARE_SHARE = 0.3
"""Share of the longest round below which the next one may be larger."""


def draw_seed() -> int:
    """Return a seed that nobody can predict."""
    return secrets.randbits(SEED_BITS)


class Planner:
    """Plans rounds.

    Parameters
    ----------
    state : who waits how long
    allowances : who may be asked
    pool : users' requests that wait for the judge
    n_contexts : contexts a miner and round
    n_miners : most miners a round
    interval_s : least time between two rounds of a miner; None = spread over the epoch
    gap_s : mean time before a context is sent
    """

    def __init__(
        self,
        state: State,
        allowances: Allowances,
        pool: SamplePool,
        *,
        n_contexts: int,
        n_miners: int,
        interval_s: float | None = None,
        gap_s: float = 0.0,
    ) -> None:
        self._state = state
        self._allowances = allowances
        self._pool = pool
        self._n_contexts = n_contexts
        self._most_miners = n_miners
        self.n_miners = n_miners
        self._interval_s = interval_s
        self._gap_s = gap_s

    async def plan(
        self, tier: TierConfig, members: Sequence[Peer], block: int, now: float, wall: float
    ) -> RoundPlan | None:
        """Return the next round of a tier, noted and counted; None while nobody is due.

        Parameters
        ----------
        tier : whose round
        members : its miners
        block : for the records
        now : monotonic seconds
        wall : seconds since 1970
        """
        due = [
            peer
            for peer in members
            if self._allowances.is_due(tier, peer, self._n_contexts, now, self._interval_s)
        ]
        peers = self._state.queue(tier.name, due, draw_seed())[: self.n_miners]
        if not peers:
            return None
        # In a thread: a log that is slow to write holds up no user. Before the rest: where it
        # cannot be written at all, no sample and no allowance is spent.
        made = await asyncio.to_thread(self._state.begin_round, tier.name, block, peers, wall)
        invited = tuple(
            Invitation(
                peer,
                is_dormant=self._state.silence(peer).retry_at > wall,
                samples=self._pool.take(tier.name, peer.hotkey),
            )
            for peer in peers
        )
        self._allowances.reserve(tier, peers, self._n_contexts, now)
        return RoundPlan(made, tier, draw_seed(), self._n_contexts, invited, self._gap_s)

    def took(self, share: float) -> None:
        """Heed how long a round took.

        Parameters
        ----------
        share : of the longest that a round may take; 1 = it was cut off
        """
        if share >= 1:
            self.n_miners = max(1, self.n_miners // 2)
        elif share < SPARE_SHARE:
            self.n_miners = min(2 * self.n_miners, self._most_miners)
