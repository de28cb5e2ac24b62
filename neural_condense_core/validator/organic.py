"""Users' requests, served by the best miner that answers in time.

Where it sits: ``gate.py`` puts HTTP around it; the dendrite that asks here is the one that asks
in rounds, so a miner sees no difference.

Design decisions

* Best first, with failover: who fails is followed by the next at once, and who dawdles is joined
  by the next before the deadline is lost; the first usable reply wins.
* Some replies are kept (``sampling.py``), at random and after the fact, and judged with the
  miner's next round. They count there as any other: junk for users costs the same as junk for a
  test.
* A uid that a caller names is looked up, never used as an index.
* An exchange that was given less than the tier's time, or was cut short because another miner had
  won, says nothing about the miner and is not kept.
* The log is written beside the event loop, and a log that cannot be written costs no user a reply.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from neural_condense_core.chain.base import Peer, Roster
from neural_condense_core.constants import TierConfig
from neural_condense_core.errors import (
    BackendError,
    ContextTooLongError,
    DeadlineError,
    NeuralCondenseError,
    UnavailableError,
    UnknownMinerError,
    UnknownModelError,
    UnknownTierError,
)
from neural_condense_core.records import OrganicRow
from neural_condense_core.validator.dendrite import Asker
from neural_condense_core.validator.replies import TIMEOUT, Reply
from neural_condense_core.validator.rounds import Sample
from neural_condense_core.validator.sampling import SamplePool, Sampler
from neural_condense_core.wire.organic import MAX_DEADLINE_S

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
HEDGE_SHARE = 0.35
"""Share of the deadline after which a silent miner is joined by the next."""
EQUAL_SHARE = 0.9
"""Share of the best rating from which on miners are equals."""


@dataclass(frozen=True)
class OrganicRequest:
    """What a user wants.

    Parameters
    ----------
    context : the text
    tier : name; None = the first that has a miner
    target_model : must be the tier's, if given
    uid : only this miner; None = the best
    deadline_s : for everything; None = twice the tier's timeout
    """

    context: str = field(repr=False)
    tier: str | None = None
    target_model: str | None = None
    uid: int | None = None
    deadline_s: float | None = None


@dataclass(frozen=True)
class Board:
    """What the validator knows when a request comes; replaced as a whole, never changed.

    Parameters
    ----------
    tiers : limits by name
    roster : who has which uid; None = not read yet
    ranking : tier -> (miner, rating), best first; who is not rated yet comes last with 0
    """

    tiers: Mapping[str, TierConfig]
    roster: Roster | None = None
    ranking: Mapping[str, Sequence[tuple[Peer, float]]] = field(default_factory=dict)


class Allowance(Protocol):
    """Says whether a miner may be asked once more, and counts it if so."""

    def __call__(self, tier: TierConfig, peer: Peer) -> bool:
        """Return whether it may."""
        ...


class OrganicService:
    """Serves users.

    Parameters
    ----------
    dendrite : asks miners
    board : what is known now
    allow : the limiter that rounds use too
    pool : where samples wait
    note : writes one attempt down; called in a thread
    rng : decides what is sampled and the order among equals
    clock : monotonic seconds
    wall : seconds since 1970
    """

    def __init__(
        self,
        dendrite: Asker,
        board: Callable[[], Board],
        allow: Allowance,
        pool: SamplePool,
        note: Callable[[OrganicRow], None],
        rng: Random,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._dendrite = dendrite
        self._board = board
        self._allow = allow
        self._sampler = Sampler(pool, rng)
        self._note = note
        self._rng = rng
        self._clock = clock
        self._wall = wall

    async def serve(self, asked: OrganicRequest, caller: str) -> tuple[Reply, TierConfig]:
        """Return the first usable reply.

        What goes wrong has a class for each cause: unknown tier, model or miner, context too long,
        nobody there, the deadline passed, or everybody failed.

        Parameters
        ----------
        asked : what the user wants
        caller : id of the user, for the records
        """
        board = self._board()
        tier = chosen_tier(board, asked)
        deadline_s = min(asked.deadline_s or 2 * tier.timeout_s, MAX_DEADLINE_S)
        peers = candidates(board, tier, asked.uid, self._rng)
        race = _Race(self, tier, asked, caller, self._clock() + deadline_s)
        reply = await race.run(peers, deadline_s)
        if reply is not None:
            return reply, tier
        raise race.error(deadline_s)

    def may_ask(self, tier: TierConfig, peer: Peer) -> bool:
        """Return whether a miner may be asked once more; counts it."""
        return self._allow(tier, peer)

    async def ask(
        self, peer: Peer, tier: TierConfig, asked: OrganicRequest, caller: str, end_s: float
    ) -> Reply:
        """Ask one miner and write down what came of it.

        Parameters
        ----------
        peer, tier : of the exchange
        asked : what the user wants
        caller : id of the user
        end_s : when the user's deadline is, on this service's clock
        """
        timeout_s = min(tier.timeout_s, max(end_s - self._clock(), 0.001))
        reply = await self._dendrite.ask(peer, tier, asked.context, timeout_s=timeout_s)
        wall = self._wall()
        had_its_time = reply.status != TIMEOUT or timeout_s >= tier.timeout_s
        is_sampled = (
            had_its_time
            and asked.uid is None
            and self._sampler.offer(tier, Sample(asked.context, reply), caller, wall)
        )
        await self._write(
            OrganicRow(
                at=wall,
                caller=caller,
                tier=tier.name,
                hotkey=peer.hotkey,
                uid=peer.uid,
                status=reply.status,
                code=reply.code if had_its_time else "cut_short",
                elapsed_s=reply.elapsed_s,
                n_chars=len(asked.context),
                n_condensed=reply.tokens.n_condensed_tokens if reply.tokens else None,
                is_sampled=is_sampled,
            )
        )
        return reply

    async def _write(self, row: OrganicRow) -> None:
        try:
            await asyncio.to_thread(self._note, row)
        except sqlite3.Error as error:
            log.warning("a request could not be written down: %s", error)


class _Race:
    """The attempts of one request."""

    def __init__(
        self,
        service: OrganicService,
        tier: TierConfig,
        asked: OrganicRequest,
        caller: str,
        end_s: float,
    ) -> None:
        self._service = service
        self._tier = tier
        self._asked = asked
        self._caller = caller
        self._end_s = end_s
        self._codes: list[str] = []
        self._running: set[asyncio.Task[Reply]] = set()

    async def run(self, peers: Sequence[Peer], deadline_s: float) -> Reply | None:
        patience_s = HEDGE_SHARE * deadline_s
        waiting = deque(peers)
        n_left = MAX_ATTEMPTS
        try:
            async with asyncio.timeout(deadline_s):
                while True:
                    if n_left and self._start_next(waiting):
                        n_left -= 1
                    elif not self._running:
                        return None
                    may_join = bool(n_left and waiting)
                    done, _ = await asyncio.wait(
                        self._running,
                        timeout=patience_s if may_join else None,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    won = self._heed(done)
                    if won is not None:
                        return won
        except TimeoutError:
            self._codes.append("deadline")
            return None
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    def _start_next(self, waiting: deque[Peer]) -> bool:
        while waiting:
            peer = waiting.popleft()
            if not self._service.may_ask(self._tier, peer):
                self._codes.append("allowance")
                continue
            exchange = self._service.ask(peer, self._tier, self._asked, self._caller, self._end_s)
            self._running.add(asyncio.create_task(exchange))
            return True
        return False

    def _heed(self, done: set[asyncio.Task[Reply]]) -> Reply | None:
        self._running -= done
        replies = [task.result() for task in done]
        self._codes += [reply.code for reply in replies if not reply.is_ok]
        return next((reply for reply in replies if reply.is_ok), None)

    def error(self, deadline_s: float) -> NeuralCondenseError:
        """Return the error for a race that nobody won."""
        detail: dict[str, object] = {"attempts": list(self._codes), "tier": self._tier.name}
        if "deadline" in self._codes or set(self._codes) == {TIMEOUT}:
            return DeadlineError(
                f"no miner of tier {self._tier.name!r} answered within {deadline_s:g} s; allow "
                "more by X-Request-Timeout, or try again",
                detail,
            )
        if set(self._codes) <= {"allowance"}:
            return UnavailableError(
                f"every miner of tier {self._tier.name!r} is at its rate limit; retry later",
                detail,
                retry_after_s=5.0,
            )
        return BackendError(
            f"{len(self._codes)} miners of tier {self._tier.name!r} were asked and none gave a "
            "usable reply; try again",
            detail,
        )


def chosen_tier(board: Board, asked: OrganicRequest) -> TierConfig:
    """Return the tier of a request, its limits checked.

    Parameters
    ----------
    board : what is known
    asked : the request

    Raises
    ------
    UnknownTierError
        There is no such tier.
    UnknownModelError
        The tier's model is another.
    ContextTooLongError
        The context has more characters than the tier allows.
    """
    name = asked.tier or next((n for n in board.tiers if board.ranking.get(n)), None)
    name = name or next(iter(board.tiers), "")
    tier = board.tiers.get(name)
    if tier is None:
        known = ", ".join(board.tiers)
        raise UnknownTierError(f"no such tier; there are {known}", {"tiers": list(board.tiers)})
    if asked.target_model not in {None, tier.target_model}:
        raise UnknownModelError(
            f"tier {tier.name!r} is for target model {tier.target_model!r}",
            {"target_model": tier.target_model},
        )
    if len(asked.context) > tier.max_context_chars:
        limit = tier.max_context_chars
        raise ContextTooLongError(
            f"tier {tier.name!r} takes contexts of up to {limit} characters; send less, or ask "
            "another tier",
            {"limit": limit, "n_chars": len(asked.context)},
        )
    return tier


def candidates(board: Board, tier: TierConfig, uid: int | None, rng: Random) -> list[Peer]:
    """Return whom to ask, in order.

    Parameters
    ----------
    board : what is known
    tier : of the request
    uid : only this one; None = all, best first, those within a tenth of the best in random order
    rng : of that order

    Raises
    ------
    UnknownMinerError
        Nobody in this tier has the uid.
    UnavailableError
        Nobody serves the tier.
    """
    ranking = list(board.ranking.get(tier.name, ()))
    if uid is not None:
        found = [peer for peer, _ in ranking if peer.uid == uid]
        if not found:
            raise UnknownMinerError(f"no miner of tier {tier.name!r} has uid {uid}", {"uid": uid})
        return found
    if not ranking:
        raise UnavailableError(
            f"nobody serves tier {tier.name!r} just now; retry later", retry_after_s=30.0
        )
    rng.shuffle(ranking)
    best = max(rating for _, rating in ranking)
    ranking.sort(key=lambda entry: -min(entry[1], EQUAL_SHARE * best))
    return [peer for peer, _ in ranking]
