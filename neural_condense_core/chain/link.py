"""``Link``: one connection to the chain that many calls share, and replace when it fails.

``sdk.py`` reads and writes through it.

Design decisions

* Reads are tried three times with growing pauses, on a fresh connection after each failure, within
  one deadline; after that ``ChainUnavailable``.
* A connection that failed a call is replaced at once, and closed when the last call on it is over,
  so that a write under way is not cut off.
* ``Exception`` is caught at this edge: the SDK leaks errors of its transport.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

import bittensor as bt

from neural_condense_core.errors import ChainUnavailable

T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Deadlines:
    """How long the adapter waits; seconds, but for ``attempts``.

    Parameters
    ----------
    read_s : a read, all attempts together
    attempt_s : one attempt of a read
    connect_s : one attempt to connect
    write_s : a write until its inclusion
    settle_s : to look up what became of a write
    close_s : to close a connection
    attempts : of a read, and of a write that was not sent
    pause_s : after the first failure; doubles
    """

    read_s: float = 20.0
    attempt_s: float = 8.0
    connect_s: float = 20.0
    write_s: float = 120.0
    settle_s: float = 30.0
    close_s: float = 2.0
    attempts: int = 3
    pause_s: float = 0.5


class _Connection:
    """A client that several calls share."""

    def __init__(self, client: bt.Client) -> None:
        self.client = client
        self.users = 0
        self.retired = False


class Link:
    """Connections to one chain, one at a time.

    Parameters
    ----------
    make_client : a fresh, unconnected client
    label : network's name, for messages
    deadlines : how long to wait
    """

    def __init__(
        self, make_client: Callable[[], bt.Client], label: str, deadlines: Deadlines
    ) -> None:
        self._make_client = make_client
        self._label = label
        self._deadlines = deadlines
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()

    async def close(self) -> None:
        """Let go of the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._close_client(connection.client)

    async def read(self, ask: Callable[[bt.Client], Awaitable[T]]) -> T:
        """Ask the chain, up to the deadline.

        Parameters
        ----------
        ask : one or several reads of a client, which may be asked again

        Raises
        ------
        ChainUnavailable
            No attempt was answered.
        """
        limits = self._deadlines
        failure: Exception = TimeoutError("no answer in time")
        with suppress(TimeoutError):
            async with asyncio.timeout(limits.read_s):
                for attempt in range(limits.attempts):
                    if attempt:
                        await asyncio.sleep(limits.pause_s * 2 ** (attempt - 1))
                    try:
                        async with self.lease() as client, asyncio.timeout(limits.attempt_s):
                            return await ask(client)
                    except Exception as error:  # noqa: BLE001 - the edge to the SDK
                        failure = error
                        logger.warning("reading from %s failed: %s", self._label, said(error))
        raise ChainUnavailable(
            f"the chain {self._label!r} does not answer: {said(failure)}"
        ) from failure

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[bt.Client]:
        """Lend a connected client; one that an exception passes is not lent again."""
        connection = await self._connected()
        connection.users += 1
        try:
            yield connection.client
        except BaseException:  # a deadline's, too: who did not answer once is not asked again
            connection.retired = True
            if self._connection is connection:
                self._connection = None
            raise
        finally:
            connection.users -= 1
            if connection.retired and not connection.users:
                await self._close_client(connection.client)

    async def _connected(self) -> _Connection:
        async with self._connecting:
            if self._connection is None:
                client = self._make_client()
                try:
                    async with asyncio.timeout(self._deadlines.connect_s):
                        await client.connect()
                except BaseException:
                    await self._close_client(client)
                    raise
                self._connection = _Connection(client)
            return self._connection

    async def _close_client(self, client: bt.Client) -> None:
        try:
            async with asyncio.timeout(self._deadlines.close_s):
                await client.close()
        except Exception as error:  # noqa: BLE001 - the edge to the SDK
            logger.debug("closing a connection to %s failed: %s", self._label, said(error))


def said(error: Exception) -> str:
    """Return an error's text, or its kind where it has none."""
    return str(error).strip() or type(error).__name__
