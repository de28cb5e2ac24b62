"""What an axon has in hand: requests that arrive, requests that are worked on, and when it is idle.

Where it sits: ``axon.py`` enters each request here; draining waits for the last to leave.

Design decisions

* Anybody can claim a validator's hotkey, and only the whole body shows who lies. So bodies are read
  and checked in places of their own, more of them but few for each address; only who has proved to
  be a validator takes one of those in which the backend is asked.
* Draining waits for both: whose body is being read has been let in.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from neural_condense_core.errors import OverloadedError
from neural_condense_core.wire.places import Places

MAX_UNPROVEN, MAX_UNPROVEN_EACH = 256, 16


class InHand:
    """Counts an axon's requests; for one event loop.

    Parameters
    ----------
    most : proven requests at once
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.unproven = Places(MAX_UNPROVEN, MAX_UNPROVEN_EACH)
        self._n_proven = 0
        self._n_open = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """Hold a request that draining waits for, proven or not."""
        self._n_open += 1
        self._is_idle.clear()
        try:
            yield
        finally:
            self._n_open -= 1
            if self._n_open == 0:
                self._is_idle.set()

    @contextlib.contextmanager
    def proven(self) -> Iterator[None]:
        """Hold one of the places in which the backend is asked; ``OverloadedError`` if none is."""
        self.check_room()
        self._n_proven += 1
        try:
            yield
        finally:
            self._n_proven -= 1

    def check_room(self) -> None:
        """Refuse, before a body is read, what would find no place after it.

        Raises
        ------
        OverloadedError
            All places of proven requests are taken.
        """
        if self._n_proven >= self.most:
            raise OverloadedError(
                f"{self._n_proven} requests are in hand; retry", {"limit": self.most}
            )

    async def wait_idle(self, patience_s: float) -> bool:
        """Wait until nothing is in hand.

        Parameters
        ----------
        patience_s : how long, seconds

        Returns
        -------
        whether it came to that
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._is_idle.wait()
        return self._n_open == 0
