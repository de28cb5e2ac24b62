"""Weights: computed from the ratings, sent, and read back from the chain.

Where it sits: ``node.py`` runs ``step`` now and then; a chain that hangs delays nothing but this.

Design decisions

* Sent is not set. Whatever the chain answers, a submission counts as done when a later read shows
  the weights, and is noted as confirmed only then.
* The first submission waits for a rating: a validator that has measured nothing says nothing.
* One submission a tempo. After a refusal the next one waits a tenth of that; after an unknown
  outcome the chain is read before anything is sent again.
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
            outcome = Outcome(True, DRY_RUN, "computed, not sent")
        else:
            outcome = await self._submit(vector)
        self._note(roster, vector, outcome, now)
        if outcome.ok and not self._is_dry_run:
            await self._confirm(roster)

    async def _submit(self, vector: Vector) -> Outcome:
        try:
            async with asyncio.timeout(SUBMIT_TIMEOUT_S):
                return await self._chain.submit_weights(vector.weights, self._version_key)
        except TimeoutError:
            return Outcome(False, TIMED_OUT, f"no answer within {SUBMIT_TIMEOUT_S:g} s")

    def _note(self, roster: Roster, vector: Vector, outcome: Outcome, now: float) -> None:
        made = self._state.records.write_weights(
            roster.block,
            vector.rows(),
            code=outcome.code,
            message=outcome.message,
            is_dry_run=self._is_dry_run,
            now=now,
        )
        was_sent = not self._is_dry_run and (outcome.ok or outcome.code == TIMED_OUT)
        wait = roster.tempo if outcome.ok else max(1, roster.tempo // 10)
        self._state.remember(_NEXT_BLOCK, str(roster.block + wait))
        self._state.remember(_UNCONFIRMED, str(made) if was_sent else "")
        shown = ", ".join(f"{uid}: {weight:.4f}" for uid, weight in vector.weights.items())
        level = logging.INFO if outcome.ok else logging.WARNING
        log.log(level, "weights at block %d: %s (%s)", roster.block, outcome.code, outcome.message)
        log.info("weights by uid: %s", shown)

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
        self._state.records.confirm_weights(made)
        self._state.remember(_UNCONFIRMED, "")
        log.info("the chain holds the weights")


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
