"""Weights: computed from the ratings, sent, and read back from the chain.

Where it sits: ``node.py`` runs ``step`` now and then; a chain that hangs delays nothing but this.

Design decisions

* Sent is not set. Whatever the chain answers, a submission counts as done when a later read shows
  the weights, and is noted as confirmed only then.
* The first submission waits for a rating: a validator that has measured nothing says nothing.
* One submission a tempo. After a refusal the next one waits a tenth of that; after an outcome that
  is unknown or does not show yet, the chain is read before anything is sent again.
* A submission is noted before it is sent, so that a validator killed meanwhile reads the chain
  first. A refused one leaves an earlier one that may still show to be looked for.
* When it sent last survives a restart, so that restarts do not add submissions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from neural_condense_core.chain.base import Chain, Outcome, Roster
from neural_condense_core.constants import TierConfig
from neural_condense_core.scoring.weights import weights_for
from neural_condense_core.validator.state import State

log = logging.getLogger(__name__)

SUBMIT_TIMEOUT_S = 150.0
READ_TIMEOUT_S = 30.0
TOLERANCE = 1e-3
"""Largest difference between a weight as sent and as the chain holds it, in 16 bits."""
DRY_RUN = "dry_run"
TIMED_OUT = "unknown"
_MAYBE_SET = frozenset({TIMED_OUT, "unconfirmed"})
"""Codes of outcomes after which the chain may come to hold the weights all the same."""

_NEXT_BLOCK = "weights_next_block"
_UNCONFIRMED = "weights_unconfirmed"


@dataclass(frozen=True)
class Vector:
    """Weights to be set.

    Parameters
    ----------
    weights : uid -> weight, summing to 1
    hotkeys : uid -> who has it
    """

    weights: Mapping[int, float]
    hotkeys: Mapping[int, str]

    def rows(self) -> dict[int, tuple[str, float]]:
        """Return uid -> (hotkey, weight), for the records."""
        return {uid: (self.hotkeys[uid], weight) for uid, weight in self.weights.items()}


def vector_for(
    state: State, roster: Roster, tiers: Mapping[str, TierConfig], now: float
) -> Vector | None:
    """Return the weights that the ratings call for; None while nothing is rated.

    Parameters
    ----------
    state : ratings
    roster : who has which uid now
    tiers : shares and sharpness
    now : seconds since 1970
    """
    ratings = state.ratings_by_tier(roster, now)
    if not any(ratings.get(tier) for tier in tiers):
        return None
    owner = roster.by_hotkey(roster.owner_hotkey)
    weights = weights_for(ratings, tiers, None if owner is None else owner.uid)
    return Vector(weights, {peer.uid: peer.hotkey for peer in roster.peers}) if weights else None


class WeightSetter:
    """Sets this validator's weights.

    Parameters
    ----------
    chain : where
    hotkey : of this validator
    state : ratings, and what survives a restart
    tiers : shares and sharpness
    version_key : of this code
    is_dry_run : compute and note, send nothing
    """

    def __init__(
        self,
        chain: Chain,
        hotkey: str,
        state: State,
        tiers: Mapping[str, TierConfig],
        *,
        version_key: int,
        is_dry_run: bool = False,
    ) -> None:
        self._chain = chain
        self._hotkey = hotkey
        self._state = state
        self._tiers = tiers
        self._version_key = version_key
        self._is_dry_run = is_dry_run

    async def step(self, roster: Roster, now: float) -> None:
        """Confirm what was sent, and send if it is time.

        Parameters
        ----------
        roster : fresh
        now : seconds since 1970
        """
        if self._state.fact(_UNCONFIRMED):
            await self._confirm(roster)
        if roster.block < int(self._state.fact(_NEXT_BLOCK) or 0):
            return
        vector = vector_for(self._state, roster, self._tiers, now)
        if vector is None:
            return
        if self._is_dry_run:
            self._dry_run(roster, vector, now)
            return
        earlier = self._state.fact(_UNCONFIRMED) or ""
        made = self._intend(roster, vector, now)
        outcome = await self._submit(vector)
        self._settle(roster, made, outcome, earlier)
        _tell(roster.block, vector, outcome)
        if outcome.ok:
            await self._confirm(roster)

    async def _submit(self, vector: Vector) -> Outcome:
        try:
            async with asyncio.timeout(SUBMIT_TIMEOUT_S):
                return await self._chain.submit_weights(vector.weights, self._version_key)
        except TimeoutError:
            return Outcome(False, TIMED_OUT, f"no answer within {SUBMIT_TIMEOUT_S:g} s")

    def _dry_run(self, roster: Roster, vector: Vector, now: float) -> None:
        outcome = Outcome(True, DRY_RUN, "computed, not sent")
        self._state.records.write_weights(
            roster.block,
            vector.rows(),
            code=outcome.code,
            message=outcome.message,
            is_dry_run=True,
            now=now,
        )
        self._state.remember(_NEXT_BLOCK, str(roster.block + roster.tempo))
        self._state.remember(_UNCONFIRMED, "")
        _tell(roster.block, vector, outcome)

    def _intend(self, roster: Roster, vector: Vector, now: float) -> int:
        made = self._state.records.write_weights(
            roster.block, vector.rows(), code=TIMED_OUT, message="no answer was seen", now=now
        )
        self._state.remember(_NEXT_BLOCK, str(roster.block + _retry_blocks(roster)))
        self._state.remember(_UNCONFIRMED, str(made))
        return made

    def _settle(self, roster: Roster, made: int, outcome: Outcome, earlier: str) -> None:
        self._state.records.answer_weights(made, outcome.code, outcome.message)
        if outcome.ok:
            self._state.remember(_NEXT_BLOCK, str(roster.block + roster.tempo))
        elif outcome.code not in _MAYBE_SET:
            self._state.remember(_UNCONFIRMED, earlier)

    async def _confirm(self, roster: Roster) -> None:
        me = roster.by_hotkey(self._hotkey)
        if me is None:
            return
        async with asyncio.timeout(READ_TIMEOUT_S):
            held = (await self._chain.weights()).get(me.uid, {})
        made = int(self._state.fact(_UNCONFIRMED) or 0)
        sent = {row.uid: row.weight for row in self._state.records.weights(made)}
        if not is_same(sent, held):
            log.info("the chain does not hold the last weights yet")
            return
        block = self._state.records.confirm_weights(made)
        if block is not None:
            self._state.remember(_NEXT_BLOCK, str(block + roster.tempo))
        self._state.remember(_UNCONFIRMED, "")
        log.info("the chain holds the weights")


def _retry_blocks(roster: Roster) -> int:
    return max(1, roster.tempo // 10)


def _tell(block: int, vector: Vector, outcome: Outcome) -> None:
    level = logging.INFO if outcome.ok else logging.WARNING
    log.log(level, "weights at block %d: %s (%s)", block, outcome.code, outcome.message)
    shown = ", ".join(f"{uid}: {weight:.4f}" for uid, weight in vector.weights.items())
    log.info("weights by uid: %s", shown)


def is_same(sent: Mapping[int, float], held: Mapping[int, float]) -> bool:
    """Return whether two vectors are the same but for the chain's rounding.

    Parameters
    ----------
    sent, held : uid -> weight at any scale
    """
    ours, theirs = sum(sent.values()), sum(held.values())
    if ours <= 0 or theirs <= 0:
        return False
    return all(
        abs(sent.get(uid, 0.0) / ours - held.get(uid, 0.0) / theirs) <= TOLERANCE
        for uid in sent.keys() | held.keys()
    )
