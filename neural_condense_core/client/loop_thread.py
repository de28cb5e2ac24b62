"""An event loop in a thread of its own, and the sync client that every async one is wrapped in.

Design decisions

* A thread, not a loop in the caller's: it serves several threads at once, callers that already run
  a loop (a notebook), and a signal handler that raises leaves the loop's own code unharmed.
* Every call that has begun is ended before the loop is closed, so no caller waits for ever.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Generic, Protocol, Self, TypeVar

T = TypeVar("T")


class LoopThread:
    """Runs coroutines for other threads; the thread is a daemon."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return what a coroutine returns; it is cancelled where the wait for it is cut short.

        Raises
        ------
        RuntimeError
            The loop is closed.
        """
        if self._loop.is_closed():
            coroutine.close()
            raise RuntimeError("the client is closed")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()

    def close(self, farewell: Coroutine[Any, Any, None]) -> None:
        """Cancel what runs and end the thread; may be called again.

        Parameters
        ----------
        farewell : what the thread runs last
        """
        if self._loop.is_closed():
            farewell.close()
            return
        self.run(_cancel_others())
        self.run(farewell)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Closable(Protocol):
    """What every async client has."""

    @property
    def url(self) -> str:
        """Where the service is."""

    async def close(self) -> None:
        """Close the connections."""


C = TypeVar("C", bound=Closable)


class SyncClient(Generic[C]):
    """A client for callers without an event loop; a context manager, usable by several threads.

    Parameters
    ----------
    client : the async client that does the work
    """

    def __init__(self, client: C) -> None:
        self._client = client
        self._loop = LoopThread()

    @property
    def url(self) -> str:
        """Where the service is."""
        return self._client.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; calls of other threads end."""
        self._loop.close(self._client.close())


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
