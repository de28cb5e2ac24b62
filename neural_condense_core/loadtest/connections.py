"""HTTP/1.1 for the load generator: little work a request, and times taken where they happen.

Where it sits: below ``generator.py``; nothing else in the project sends requests this way.

Design decisions

* h11 reads and writes the protocol, asyncio's own transports carry it. A general client costs
  several times the CPU of a request (docs/loadtest.md has both), and a generator that is late
  measures itself.
* The time of a reply is taken when its last byte is read, not when a task gets to run.
* A kept connection that the server closed before it said a byte is replaced, once, silently: that
  is a race of keep-alive and no fault of the backend.
* A reply that is given up closes its connection, so that the backend can notice.
* The body is capped while it is read.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import cast

import h11
import httpx

from neural_condense_core.errors import BackendError

CONNECTION = "connection"
BAD_HTTP = "http"
TOO_LARGE = "too_large"

_AGENT = "condense-loadtest"


@dataclass(frozen=True)
class Reply:
    """A whole HTTP answer.

    Parameters
    ----------
    status : HTTP status
    headers : keys in lower case
    body : within the cap
    done_s : the loop's time when the last byte was read
    """

    status: int
    headers: dict[str, str]
    body: bytes
    done_s: float


class Connections:
    """Connections to one backend, as many as there are requests in flight.

    Parameters
    ----------
    url : where the backend is
    path : of the condensing route
    headers : of every request
    max_bytes : largest body of a reply
    """

    def __init__(self, url: str, path: str, headers: dict[str, str], max_bytes: int) -> None:
        parsed = httpx.URL(url)
        self._host = parsed.host
        self._is_tls = parsed.scheme == "https"
        self._port = parsed.port or (443 if self._is_tls else 80)
        self._target = (parsed.path.rstrip("/") + path).encode("ascii", "replace")
        self._headers = [
            ("Host", parsed.netloc.decode("ascii")),
            ("User-Agent", _AGENT),
            *headers.items(),
        ]
        self._max_bytes = max_bytes
        self._idle: list[_Link] = []

    async def post(self, body: bytes) -> Reply:
        """Send a request and return its answer; the caller sets the deadline.

        What goes wrong is a ``BackendError`` whose reason is ``connection``, ``http`` or
        ``too_large``.

        Parameters
        ----------
        body : JSON
        """
        head = [*self._headers, ("Content-Length", str(len(body)))]
        while self._idle:
            link = self._idle.pop()
            if link.is_usable:
                try:
                    return await self._exchange(link, head, body)
                except _StaleError:
                    break
        return await self._exchange(await self._open(), head, body)

    def close(self) -> None:
        """Close every connection that is at rest."""
        while self._idle:
            self._idle.pop().abort()

    async def _open(self) -> _Link:
        loop = asyncio.get_running_loop()
        try:
            _, link = await loop.create_connection(
                lambda: _Link(self._max_bytes),
                self._host,
                self._port,
                ssl=True if self._is_tls else None,
            )
        except OSError as error:
            raise BackendError(
                f"no connection to {self._host}:{self._port} ({type(error).__name__}); is the "
                "backend running there?",
                {"reason": CONNECTION},
            ) from error
        return link

    async def _exchange(self, link: _Link, head: list[tuple[str, str]], body: bytes) -> Reply:
        done = False
        try:
            reply = await link.ask(self._target, head, body)
            done = True
        finally:
            if not done:
                link.abort()
        if link.is_usable:
            self._idle.append(link)
        return reply


class _StaleError(BackendError):
    """A kept connection had been closed by the server."""


class _Link(asyncio.Protocol):
    """One connection; one exchange at a time."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._loop = asyncio.get_running_loop()
        self._http = h11.Connection(h11.CLIENT)
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Reply] | None = None
        self._n_exchanges = 0
        self._reset()

    @property
    def is_usable(self) -> bool:
        """Whether another exchange can follow."""
        at_rest = self._answer is None or self._answer.done()
        return self._transport is not None and at_rest and self._http.our_state is h11.IDLE

    def ask(self, target: bytes, head: list[tuple[str, str]], body: bytes) -> asyncio.Future[Reply]:
        """Write a request; the future gets its answer."""
        self._reset()
        self._n_exchanges += 1
        self._answer = self._loop.create_future()
        request = h11.Request(method="POST", target=target, headers=head)
        parts = [
            self._http.send(request),
            self._http.send(h11.Data(data=body)),
            self._http.send(h11.EndOfMessage()),
        ]
        if self._transport is not None:
            self._transport.write(b"".join(part for part in parts if part))
        return self._answer

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._read(data)

    def eof_received(self) -> None:
        # Nothing heard yet: ``connection_lost``, which follows, knows what that means.
        if self._heard:
            self._read(b"")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        kind = BackendError if self._heard or self._n_exchanges < 2 else _StaleError
        self._fail(kind("the backend closed the connection", {"reason": CONNECTION}))

    def _reset(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._heard = False
        self._response: h11.Response | None = None

    def _read(self, data: bytes) -> None:
        self._heard = self._heard or bool(data)
        try:
            self._http.receive_data(data)
            while self._take(self._http.next_event()):
                pass
        except h11.RemoteProtocolError:
            kind = CONNECTION if not data else BAD_HTTP
            self._fail(BackendError("the answer is no HTTP, or cut short", {"reason": kind}))
            self.abort()

    def _take(self, event: object) -> bool:
        """Take one event; return whether there may be more."""
        if isinstance(event, h11.Response):
            self._response = event
        elif isinstance(event, h11.Data):
            self._size += len(event.data)
            if self._size > self._max_bytes:
                self._fail(
                    BackendError(
                        f"a reply of more than {self._max_bytes} bytes", {"reason": TOO_LARGE}
                    )
                )
                self.abort()
                return False
            self._parts.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            self._finish()
            return False
        else:
            return isinstance(event, h11.InformationalResponse)
        return True

    def _finish(self) -> None:
        response, answer = self._response, self._answer
        if response is None or answer is None or answer.done():
            return
        headers = {
            key.decode("latin-1"): value.decode("latin-1") for key, value in response.headers
        }
        body = b"".join(self._parts)
        reply = Reply(response.status_code, headers, body, self._loop.time())
        self._parts = []
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        else:
            self.abort()
        answer.set_result(reply)

    def _fail(self, error: BackendError) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
