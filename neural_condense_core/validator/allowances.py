"""How often a miner may be asked: the same limiter for rounds and for users, stake-shared.

Where it sits: rounds reserve through it, the organic API counts through it.

Design decisions

* What a tier asks of a miner in an epoch is shared among the validators by stake; this validator
  keeps to its part, so an honest miner never has to refuse it.
* Rounds may use half of that part and users the other half; neither can use up the other's. So
  users always find room, and no amount of their traffic keeps a miner from being judged.
* Rounds of one miner are spread over the epoch rather than spent at its beginning.
* After a restart what the records know was asked still counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from neural_condense_core.chain.base import Peer, Roster
from neural_condense_core.constants import EPOCH_LENGTH_S, TierConfig
from neural_condense_core.ratelimit import RateLimiter, shares
from neural_condense_core.records import Records
from neural_condense_core.validator.results import ORGANIC, SYNTHETIC

SYNTHETIC_SHARE = 0.5
"""Share of a miner's requests that is kept for rounds."""


class Allowances:
    """Counts what is asked of each miner.

    Parameters
    ----------
    tiers : requests an epoch, by tier
    n_contexts : requests of a round; at least one round is always kept room for
    """

    def __init__(self, tiers: Mapping[str, TierConfig], n_contexts: int = 4) -> None:
        self._tiers = tiers
        self._n_contexts = n_contexts
        self._synthetic = {name: RateLimiter(EPOCH_LENGTH_S) for name in tiers}
        self._organic = {name: RateLimiter(EPOCH_LENGTH_S) for name in tiers}
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
        hotkeys = [peer.hotkey for peer in roster.peers]
        for name, tier in self._tiers.items():
            mine = shares(tier.requests_per_epoch, stakes).get(hotkey, 0)
            self._mine[name] = mine
            kept = self._kept(mine, self._n_contexts)
            self._synthetic[name].set_allowances(dict.fromkeys(hotkeys, mine))
            self._organic[name].set_allowances(dict.fromkeys(hotkeys, mine - kept))

    def preload(self, records: Records, now: float, wall: float) -> None:
        """Count what the records know was asked within the last epoch.

        Parameters
        ----------
        records : of this validator
        now : seconds of the limiter's clock
        wall : seconds since 1970, at the same moment
        """
        since = wall - EPOCH_LENGTH_S
        for kind, limiters in ((SYNTHETIC, self._synthetic), (ORGANIC, self._organic)):
            asked = [one for one in records.asked_since(since, kind) if one[2] <= wall]
            for name, limiter in limiters.items():
                limiter.set_allowances({hotkey: len(asked) for _, hotkey, _ in asked})
                for tier, hotkey, at in asked:
                    if tier == name:
                        limiter.check(hotkey, now - (wall - at))

    def may_ask(self, tier: TierConfig, peer: Peer, now: float) -> bool:
        """Count one request of a user if it is allowed.

        Parameters
        ----------
        tier, peer : whom
        now : seconds of a clock that never goes back
        """
        return self._organic[tier.name].check(peer.hotkey, now) == 0.0

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
        beyond = mine - self._kept(mine, n)
        if self._synthetic[tier.name].left(peer.hotkey, now) - beyond < n:
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
                self._synthetic[tier.name].check(peer.hotkey, now)

    @staticmethod
    def _kept(mine: int, n: int) -> int:
        return max(int(SYNTHETIC_SHARE * mine), min(n, mine))
