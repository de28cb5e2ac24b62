"""What a validator knows of the subnet: the roster from the chain, tiers from the miners.

Where it sits: ``node.py`` refreshes it; rounds and the organic API read its ``Board``.

Design decisions

* A read that fails changes nothing: the last roster and the last tier hold.
* Miners are asked what they serve side by side, each with a short deadline, and those that do not
  answer less and less often.
* A board is a value and replaced as a whole, so that nobody sees half a change.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from neural_condense_core.chain.base import Chain, Peer, Roster
from neural_condense_core.constants import TierConfig
from neural_condense_core.errors import ChainUnavailable
from neural_condense_core.validator.dendrite import Dendrite
from neural_condense_core.validator.organic import Board
from neural_condense_core.validator.state import State

log = logging.getLogger(__name__)

ROSTER_TIMEOUT_S = 45.0
METADATA_PERIOD_S = 60.0
MAX_METADATA_PERIOD_S = 960.0


class Watch:
    """Keeps the board.

    Parameters
    ----------
    chain : where the roster is
    dendrite : asks miners what they serve
    state : remembers it
    tiers : limits by name
    hotkey : of this validator, which is no miner of its own
    """

    def __init__(
        self,
        chain: Chain,
        dendrite: Dendrite,
        state: State,
        tiers: Mapping[str, TierConfig],
        hotkey: str,
    ) -> None:
        self._chain = chain
        self._dendrite = dendrite
        self._state = state
        self._tiers = tiers
        self._hotkey = hotkey
        self._waits: dict[tuple[str, int, str | None], tuple[float, float]] = {}
        self.board = Board(tiers)

    async def read_roster(self) -> Roster:
        """Read the chain and put the roster on the board.

        Raises
        ------
        ChainUnavailable
            It did not answer in time, or knows no such subnet.
        """
        try:
            async with asyncio.timeout(ROSTER_TIMEOUT_S):
                roster = await self._chain.roster()
        except TimeoutError:
            message = f"the chain gave no roster within {ROSTER_TIMEOUT_S:g} s"
            raise ChainUnavailable(message) from None
        if roster is None:
            raise ChainUnavailable("the chain knows no such subnet; check --netuid")
        self.board = Board(self._tiers, roster, self.board.ranking)
        return roster

    async def meet(self, now: float, wall: float) -> None:
        """Ask miners whose turn it is what they serve.

        Parameters
        ----------
        now : monotonic seconds
        wall : seconds since 1970
        """
        roster = self.board.roster
        if roster is None:
            return
        due = [
            peer
            for peer in roster.peers
            if peer.endpoint and peer.hotkey != self._hotkey and self._next(peer)[0] <= now
        ]
        await asyncio.gather(*(self._meet(peer, now, wall) for peer in due))

    def rank(self, wall: float) -> None:
        """Put the ranking on the board, from the ratings as they are now.

        Parameters
        ----------
        wall : seconds since 1970
        """
        roster = self.board.roster
        if roster is None:
            return
        ranking = {}
        for tier, peers in self._state.members(roster).items():
            ratings = self._state.ratings(tier, peers, wall)
            awake = [peer for peer in peers if self._state.silence(peer).retry_at <= wall]
            entries = [(peer, ratings.get(peer.hotkey, 0.0)) for peer in awake]
            ranking[tier] = tuple(sorted(entries, key=lambda entry: -entry[1]))
        self.board = Board(self._tiers, roster, ranking)

    def members(self, tier: str) -> list[Peer]:
        """Return a tier's miners, the sleeping too."""
        roster = self.board.roster
        return [] if roster is None else self._state.members(roster).get(tier, [])

    def _next(self, peer: Peer) -> tuple[float, float]:
        # By endpoint too: a miner that moved is asked at once.
        key = (peer.hotkey, peer.registered_at, peer.endpoint)
        return self._waits.get(key, (0.0, METADATA_PERIOD_S))

    async def _meet(self, peer: Peer, now: float, wall: float) -> None:
        info = await self._dendrite.metadata(peer)
        wait_s = METADATA_PERIOD_S
        if info is None:
            wait_s = min(2 * self._next(peer)[1], MAX_METADATA_PERIOD_S)
        elif info.tier in self._tiers:
            await asyncio.to_thread(self._state.met, peer, info, wall)
            wanted = self._tiers[info.tier].target_model
            if info.target_model != wanted:
                log.info("uid %d serves %s for another target model", peer.uid, info.tier)
        key = (peer.hotkey, peer.registered_at, peer.endpoint)
        self._waits[key] = (now + wait_s, wait_s)
