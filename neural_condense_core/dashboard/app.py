"""The dashboard's HTTP routes: one page, its data, and word of every change.

Where it sits: ``server.py`` is the process; the validator itself is another one.

Design decisions

* Read-only: it opens the records for reading and has no route that changes anything.
* Everything of the page comes from here and from ``pages/``, and its Content-Security-Policy allows
  nothing else. What the records hold is put into the page as text, never as markup.
* Live without reload: a stream of server-sent events says only *that* something changed, and the
  page asks anew for what it shows. One watcher looks for changes, however many pages are open.
* SQLite is read in threads, a few at a time; answers are bounded by the records' own limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from neural_condense_core.dashboard import reading
from neural_condense_core.errors import OverloadedError, UnavailableError
from neural_condense_core.pages.assets import CSS, HEADERS, HTML, JS, add_assets
from neural_condense_core.records import Records
from neural_condense_core.wire.incoming import add_error_handlers
from neural_condense_core.wire.messages import Live

POLL_S = 1.0
HEARTBEAT_S = 15.0
MAX_STREAMS = 64
THREADS = 2
MAX_WAITING = 32
"""Answers that may be in the making at once; beyond that 429."""

FOLDER = "neural_condense_core.dashboard"
ASSETS = {
    "/": ("index.html", HTML),
    "/dashboard.css": ("dashboard.css", CSS),
    "/dashboard.js": ("dashboard.js", JS),
    "/charts.js": ("charts.js", JS),
}


class Watcher:
    """Looks for changes of the records and wakes whoever waits for one.

    Parameters
    ----------
    version : returns a number that changes with the records; called in a thread
    """

    def __init__(self, version: Callable[[], int]) -> None:
        self._version = version
        self._changed = asyncio.Condition()
        self.n_changes = 0

    async def run(self) -> None:
        """Watch until cancelled."""
        last: int | None = None
        while True:
            # Locked or being replaced: the next look will do.
            with contextlib.suppress(sqlite3.Error):
                found = await asyncio.to_thread(self._version)
                if last is not None and found != last:
                    async with self._changed:
                        self.n_changes += 1
                        self._changed.notify_all()
                last = found
            await asyncio.sleep(POLL_S)

    async def wait(self, seen: int, timeout_s: float) -> int:
        """Return the number of changes as soon as it differs from ``seen``, or after a time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: self.n_changes != seen)
        return self.n_changes


class Routes:
    """The endpoints.

    Parameters
    ----------
    records : open for reading
    """

    def __init__(self, records: Records) -> None:
        self.records = records
        self.watcher = Watcher(records.version)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="records")
        self._n_waiting = 0
        self.n_streams = 0

    async def overview(self) -> Response:
        """Return the leaderboard of every tier."""
        return await self._read(reading.overview)

    async def miner(self, hotkey: str) -> Response:
        """Return everything about one miner."""
        return await self._read(reading.miner, hotkey)

    async def rounds(self) -> Response:
        """Return the newest rounds."""
        return await self._read(reading.rounds)

    async def one_round(self, round_id: int) -> Response:
        """Return one round with every miner's score."""
        return await self._read(reading.one_round, round_id)

    async def weights(self) -> Response:
        """Return the submissions of weights."""
        return await self._read(reading.weights)

    async def events(self, request: Request) -> Response:
        """Stream one event at once and one a change; a comment now and then keeps it alive.

        Raises
        ------
        OverloadedError
            Too many pages are open.
        """
        if self.n_streams >= MAX_STREAMS:
            raise OverloadedError("too many pages are open; this one asks again by itself")
        return _Stream(self, self._stream(request))

    async def live(self) -> Live:
        """Say that the port answers."""
        return Live()

    async def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _stream(self, request: Request) -> AsyncIterator[bytes]:
        seen = -1
        while not await request.is_disconnected():
            now = await self.watcher.wait(seen, HEARTBEAT_S)
            yield b": still here\n\n" if now == seen else b"event: change\ndata: %d\n\n" % now
            seen = now

    async def _read(self, function: Callable[..., dict[str, Any]], *values: object) -> Response:
        if self._n_waiting >= MAX_WAITING:
            raise OverloadedError("too many questions at once; retry later")
        self._n_waiting += 1
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._threads, function, self.records, *values)
        except sqlite3.Error as error:
            raise UnavailableError(f"the records cannot be read now: {error}") from error
        finally:
            self._n_waiting -= 1
        return Response(orjson.dumps(found), media_type="application/json", headers=HEADERS)


class _Stream(StreamingResponse):
    """Counted while it is sent: a client that is gone before the first event never starts it."""

    def __init__(self, routes: Routes, events: AsyncIterator[bytes]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=HEADERS)
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._routes.n_streams += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._routes.n_streams -= 1


def create_app(records: Records) -> FastAPI:
    """Return the application over open records."""
    routes = Routes(records)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(routes.watcher.run())
        yield
        watching.cancel()
        await routes.close()

    app = FastAPI(
        title="Neural Condense dashboard",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    add_assets(app, FOLDER, ASSETS)
    app.add_api_route("/api/overview", routes.overview, response_class=Response)
    app.add_api_route("/api/miners/{hotkey}", routes.miner, response_class=Response)
    app.add_api_route("/api/rounds", routes.rounds, response_class=Response)
    app.add_api_route("/api/rounds/{round_id:int}", routes.one_round, response_class=Response)
    app.add_api_route("/api/weights", routes.weights, response_class=Response)
    app.add_api_route("/api/events", routes.events, response_class=Response)
    app.add_api_route("/health/live", routes.live, response_model=Live)
    paths = [f"GET {getattr(route, 'path', '')}" for route in app.routes]
    add_error_handlers(app, paths)
    return app
