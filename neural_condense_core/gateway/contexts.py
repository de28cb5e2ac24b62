"""Find a text's condensed tokens in the store, or have them made and estimated.

Design decisions

* The same text asked for twice at once is condensed once; who asked first giving up does not take
  the work from the other, and when all have given up the work ends.
* What was found out of a context, its estimated recovery, is kept with it.
* A store without room costs a request along the way nothing: its contexts are used and not kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from neural_condense_core.errors import BackendError, OverloadedError
from neural_condense_core.gateway.estimating import Calibration
from neural_condense_core.gateway.reader_messages import Estimate
from neural_condense_core.gateway.reading import Reading
from neural_condense_core.gateway.sources import Source
from neural_condense_core.gateway.store import About, ContextStore, Stored, context_id
from neural_condense_core.tokens import CondensedTokens


@dataclass(eq=False)
class _Making:
    """A context in the making, and how many wait for it."""

    task: asyncio.Task[Stored]
    n_waiting: int = 0


class Contexts:
    """Condensed contexts by text.

    Parameters
    ----------
    store : where they are kept
    source : who makes them
    reading : whose model reads them, and says how well
    calibration : of that model's estimates
    timeout_s : for one context
    clock : seconds since 1970
    """

    def __init__(
        self,
        store: ContextStore,
        source: Source,
        reading: Reading,
        calibration: Calibration,
        *,
        timeout_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.source = source
        self._reading = reading
        self.calibration = calibration
        self._timeout_s = timeout_s
        self._clock = clock
        self._making: dict[str, _Making] = {}

    async def condensed(
        self, owner: str, text: str, ratio: float, *, estimates: bool, pins: bool = False
    ) -> tuple[Stored, bool]:
        """Return a text's condensed tokens, and whether they were in the store.

        Parameters
        ----------
        owner : whose they are
        text : the context
        ratio : one that the source offers
        estimates : whether their content recovery must be known
        pins : keep them until they expire, or refuse
        """
        target = self._reading.served().name
        found_id = context_id(owner, target, self.source.name, ratio, text)
        found = await asyncio.to_thread(self.store.find, owner, found_id)
        was_stored = found is not None
        if found is None:
            found = await self._made(owner, found_id, text, ratio)
        about = found.about
        if estimates and about.recovery is None:
            about = replace(about, recovery=await self.recovery(text, found.tokens))
        if pins and not about.is_pinned:
            about = replace(about, is_pinned=True)
        if was_stored and about == found.about:
            return found, True
        return await self._kept(Stored(about, found.tokens)), was_stored

    async def recovery(self, text: str, tokens: CondensedTokens) -> float | None:
        """Return the estimated content recovery of condensed tokens; None where it is not known."""
        gain = await self._reading.estimate(Estimate(text, tokens))
        return None if gain is None else round(self.calibration.recovery(gain), 4)

    async def _made(self, owner: str, found_id: str, text: str, ratio: float) -> Stored:
        making = self._making.get(found_id)
        if making is None:
            making = _Making(asyncio.create_task(self._make(owner, found_id, text, ratio)))
            self._making[found_id] = making
        making.n_waiting += 1
        try:
            return await asyncio.shield(making.task)
        finally:
            making.n_waiting -= 1
            if making.task.done() or not making.n_waiting:
                self._forget(found_id, making)

    def _forget(self, found_id: str, making: _Making) -> None:
        if self._making.get(found_id) is making:
            del self._making[found_id]
        if not making.task.done():
            making.task.cancel()
        elif not making.task.cancelled():
            making.task.exception()  # read: whoever waited may have gone

    async def _make(self, owner: str, found_id: str, text: str, ratio: float) -> Stored:
        tokens = await self.source.condense(text, ratio, self._timeout_s)
        opened = self._reading.served()
        if tokens.hidden_size != opened.hidden_size:
            raise BackendError(
                f"condensed tokens came {tokens.hidden_size} wide and {opened.name} reads "
                f"{opened.hidden_size}",
                {"reason": "hidden_size"},
            )
        now = self._clock()
        about = About(
            id=found_id,
            owner=owner,
            condenser=tokens.checkpoint or self.source.name,
            target_model=opened.name,
            ratio=ratio,
            n_context_tokens=tokens.n_context_tokens,
            n_condensed_tokens=tokens.n_condensed_tokens,
            hidden_size=tokens.hidden_size,
            nbytes=tokens.nbytes,
            recovery=None,
            made_at=now,
            used_at=now,
            is_pinned=False,
        )
        return Stored(about, replace(tokens, target_model=opened.name))

    async def _kept(self, stored: Stored) -> Stored:
        try:
            return await asyncio.to_thread(self.store.put, stored)
        except OverloadedError:
            if stored.about.is_pinned:
                raise
            return stored
