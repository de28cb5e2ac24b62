"""Who may ask a miner, and how often: the roster's permits and stakes as a pure decision.

Where it sits: ``axon.py`` asks for every request; ``node.py`` brings each new roster.

Design decisions

* A signature proves who asks, not that they may: a caller must be registered, hold a validator
  permit and enough stake. Anybody else gets one short refusal, before the body is read.
* The allowance of an epoch is shared by stake among those who may ask, and what was counted
  survives a new roster.
* The window is a little shorter than the validators' own, so that one who keeps to its allowance
  is not refused because requests were bunched on the way.
* Until a first roster is there nobody is let in; once there is one, the last is used for as long
  as the chain is out of reach.
"""

from __future__ import annotations

from neural_condense_core.chain.base import Peer, Roster
from neural_condense_core.constants import EPOCH_LENGTH_S, TierConfig
from neural_condense_core.errors import ForbiddenError, OverloadedError, UnavailableError
from neural_condense_core.ratelimit import ARRIVAL_GRACE, RateLimiter, shares


class Access:
    """The gate of one axon; for one event loop.

    Parameters
    ----------
    tier : its ``requests_per_epoch`` are shared out
    least_stake : stake weight, TAO, below which nobody is let in
    """

    def __init__(self, tier: TierConfig, least_stake: float) -> None:
        self._tier = tier
        self._least_stake = least_stake
        self._roster: Roster | None = None
        self._limiter = RateLimiter(EPOCH_LENGTH_S * (1 - ARRIVAL_GRACE))

    @property
    def roster(self) -> Roster | None:
        """The roster in use."""
        return self._roster

    def update(self, roster: Roster) -> None:
        """Take a new roster."""
        self._roster = roster
        stakes = {peer.hotkey: peer.stake for peer in roster.peers if self._fault(peer) is None}
        self._limiter.set_allowances(shares(self._tier.requests_per_epoch, stakes))

    def allowance(self, hotkey: str) -> int:
        """Return the requests that a hotkey may make in one window."""
        return self._limiter.allowance(hotkey)

    def admit(self, hotkey: str) -> None:
        """Turn away who may not ask at all; counts nothing.

        Parameters
        ----------
        hotkey : as the request claims, to be proven afterwards

        Raises
        ------
        ForbiddenError
            Not registered, no permit or too little stake; ``detail["reason"]`` says which.
        UnavailableError
            Who is registered is not known yet.
        """
        if self._roster is None:
            raise UnavailableError("the miner has not read the chain yet; retry")
        peer = self._roster.by_hotkey(hotkey)
        reason = "unregistered" if peer is None else self._fault(peer)
        if reason is not None:
            raise ForbiddenError(_REFUSALS[reason], {"reason": reason})

    def count(self, hotkey: str, now: float) -> None:
        """Count a request of a caller that has proven who it is.

        Parameters
        ----------
        hotkey : of the caller
        now : monotonic seconds

        Raises
        ------
        OverloadedError
            Its allowance is used up.
        """
        wait_s = self._limiter.check(hotkey, now)
        if wait_s > 0:
            raise OverloadedError(
                "the allowance of this hotkey is used up; see Retry-After",
                {"reason": "rate", "allowance": self.allowance(hotkey)},
                retry_after_s=wait_s,
            )

    def _fault(self, peer: Peer) -> str | None:
        if not peer.permit:
            return "no_permit"
        return None if peer.stake >= self._least_stake else "low_stake"


_REFUSALS = {
    "unregistered": "this hotkey is not registered on the subnet",
    "no_permit": "this hotkey holds no validator permit",
    "low_stake": "this hotkey's stake is below the miner's minimum",
}
