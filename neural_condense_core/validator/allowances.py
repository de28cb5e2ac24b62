"""How often a miner may be asked: the same limiter for rounds and for users, stake-shared.

Where it sits: rounds reserve through it, the organic API counts through it.

Design decisions

* What a tier asks of a miner in an epoch is shared among the validators by stake; this validator
  keeps to its part, so an honest miner never has to refuse it.
* Rounds may use half of that part and no more: users' requests always find room.
* Rounds of one miner are spread over the epoch rather than spent at its beginning.
* After a restart what the records know was asked still counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from neural_condense_core.chain.base import Peer, Roster
from neural_condense_core.constants import EPOCH_LENGTH_S, TierConfig
from neural_condense_core.ratelimit import RateLimiter, shares
from neural_condense_core.records import Records

SYNTHETIC_SHARE = 0.5


class Allowances:
    """Counts what is asked of each miner.

    Parameters
    ----------
    tiers : requests an epoch, by tier
    """

    def __init__(self, tiers: Mapping[str, TierConfig]) -> None:
        self._tiers = tiers
        self._limiters = {name: RateLimiter(EPOCH_LENGTH_S) for name in tiers}
        self._mine: dict[str, int] = dict.fromkeys(tiers, 0)
        self._reserved_at: dict[tuple[str, str], float] = {}

    def update(self, roster: Roster, hotkey: str, least_stake: float) -> None:
        """Work out this validator's part.

        Parameters
        ----------
        roster : who is there
        hotkey : of this validator
        least_stake : validators below it are not served by miners, TAO
        """
        stakes = {
            peer.hotkey: peer.stake
            for peer in roster.peers
            if (peer.permit and peer.stake >= least_stake) or peer.hotkey == hotkey
        }
        for name, tier in self._tiers.items():
            self._mine[name] = shares(tier.requests_per_epoch, stakes).get(hotkey, 0)
            allowed = {peer.hotkey: self._mine[name] for peer in roster.peers}
            self._limiters[name].set_allowances(allowed)

    def preload(self, records: Records, now: float, wall: float) -> None:
        """Count what the records know was asked within the last epoch.

        Parameters
        ----------
        records : of this validator
        now : seconds of the limiter's clock
        wall : seconds since 1970, at the same moment
        """
        asked = [one for one in records.asked_since(wall - EPOCH_LENGTH_S) if one[2] <= wall]
        for name, limiter in self._limiters.items():
            limiter.set_allowances({hotkey: len(asked) for _, hotkey, _ in asked})
            for tier, hotkey, at in asked:
                if tier == name:
                    limiter.check(hotkey, now - (wall - at))

    def may_ask(self, tier: TierConfig, peer: Peer, now: float) -> bool:
        """Count one request if it is allowed.

        Parameters
        ----------
        tier, peer : whom
        now : seconds of a clock that never goes back
        """
        return self._limiters[tier.name].check(peer.hotkey, now) == 0.0

    def is_due(
        self, tier: TierConfig, peer: Peer, n: int, now: float, interval_s: float | None = None
    ) -> bool:
        """Return whether a round may ask a miner now.

        Parameters
        ----------
        tier, peer : whom
        n : requests of the round
        now : seconds of a clock that never goes back
        interval_s : least time between two of its rounds; None = spread over the epoch
        """
        mine = self._mine[tier.name]
        kept_free = mine - int(SYNTHETIC_SHARE * mine)
        if self._limiters[tier.name].left(peer.hotkey, now) < n + min(kept_free, mine - n):
            return False
        last = self._reserved_at.get((tier.name, peer.hotkey))
        spread_s = EPOCH_LENGTH_S * n / max(1.0, SYNTHETIC_SHARE * mine)
        return last is None or now - last >= (spread_s if interval_s is None else interval_s)

    def reserve(self, tier: TierConfig, peers: Iterable[Peer], n: int, now: float) -> None:
        """Count the requests of a round.

        Parameters
        ----------
        tier, peers : whom
        n : requests to each
        now : seconds of a clock that never goes back
        """
        for peer in peers:
            self._reserved_at[tier.name, peer.hotkey] = now
            for _ in range(n):
                self._limiters[tier.name].check(peer.hotkey, now)
