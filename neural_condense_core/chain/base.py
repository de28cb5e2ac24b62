"""The chain as the nodes see it: a ``Chain`` port of seven calls, and the frozen values it speaks.

Miner and validator depend on this module; ``connect.open_chain`` gives them an implementation.

Design decisions

* No name of the bittensor SDK appears here, so that a change of the SDK ends at ``sdk.py``.
* A write answers with an :class:`Outcome`, whatever the chain says; a read that cannot be answered
  raises :class:`~neural_condense_core.errors.ChainUnavailable`.
* What a node knows of the subnet is one :class:`Roster`, read at one block. It is a value: a node
  keeps the last one while the chain is out of reach.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

Clock = Callable[[], float]
"""Seconds since 1970: ``time.time``, or a test's own."""


@dataclass(frozen=True)
class Peer:
    """One registered hotkey of the subnet.

    Parameters
    ----------
    uid : its slot, which another hotkey may take later
    hotkey : ss58 address that signs requests
    coldkey : ss58 address of the owner
    endpoint : ``"ip:port"`` it serves at (IPv6 in brackets); None where it serves nothing
    stake : stake weight, by which the chain ranks: alpha, and root TAO at the chain's rate for it
    permit : whether it may set weights on others
    incentive : share of the miners' emission, 0..1
    last_update : block at which it last set weights
    registered_at : block at which this hotkey took the uid
    """

    uid: int
    hotkey: str
    coldkey: str
    endpoint: str | None
    stake: float
    permit: bool
    incentive: float
    last_update: int
    registered_at: int


@dataclass(frozen=True)
class Roster:
    """Everybody in the subnet, at one block.

    Parameters
    ----------
    netuid : the subnet
    block : at which this was read
    tempo : blocks between epochs
    last_epoch : block of the last epoch
    owner_hotkey : ss58 address of the subnet owner's hotkey
    peers : in the order of their uids
    fetched_at : ``time.time()``, seconds
    """

    netuid: int
    block: int
    tempo: int
    last_epoch: int
    owner_hotkey: str
    peers: tuple[Peer, ...]
    fetched_at: float

    def by_hotkey(self, hotkey: str) -> Peer | None:
        """Return who has this hotkey, or None."""
        return next((peer for peer in self.peers if peer.hotkey == hotkey), None)

    def by_uid(self, uid: int) -> Peer | None:
        """Return who has this uid, or None."""
        return next((peer for peer in self.peers if peer.uid == uid), None)


@dataclass(frozen=True)
class Outcome:
    """What became of a write.

    Parameters
    ----------
    ok : whether the chain took it
    code : ``"ok"``; the reason the chain or the SDK gives (``"rate_limited"``, ...); ``"wallet"``
        where a key cannot be used; ``"chain_unavailable"`` where nothing was sent; ``"unknown"``
        where it was sent and nobody knows what became of it, and ``"unconfirmed"`` where it was
        included and does not show: read before sending again
    message : for people; what to do where it failed
    block : in which it was included
    pending_reveal_round : of the time lock; such weights show only after their reveal
    """

    ok: bool
    code: str
    message: str
    block: int | None = None
    pending_reveal_round: int | None = None


class Chain(Protocol):
    """One subnet, seen and written to with one wallet.

    A read raises ``ChainUnavailable`` when it cannot be answered within its deadline. A write never
    raises that: it returns an :class:`Outcome`.
    """

    async def block(self) -> int:
        """Return the number of the newest block."""
        ...

    async def roster(self) -> Roster | None:
        """Return everybody in the subnet at one block; None where there is no such subnet."""
        ...

    async def register(self) -> Outcome:
        """Register the wallet's hotkey, paid by its coldkey; good too if it is registered."""
        ...

    async def publish(self, ip: str, port: int) -> Outcome:
        """Tell the subnet where this hotkey serves.

        Parameters
        ----------
        ip : a literal address, IPv4 or IPv6
        port : 1..65535
        """
        ...

    async def submit_weights(self, weights: Mapping[int, float], version_key: int) -> Outcome:
        """Set this validator's weights; ``weights()`` tells when the chain holds them.

        Parameters
        ----------
        weights : uid -> share at any scale; finite, not negative, not all zero
        version_key : of the validator's code; the chain may refuse old ones
        """
        ...

    async def weights(self) -> dict[int, dict[int, float]]:
        """Return what the chain holds now: validator uid -> uid -> share, each row sums to 1."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
