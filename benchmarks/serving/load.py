"""HTTP clients that cost little: a keep-alive connection, closed loops and open loops over it.

Design decisions

* Raw asyncio protocols: a general client spends more on a small request than the servers that are
  compared here. This one answers to nothing but status, length and body.
* No two requests are the same, so that no cache answers in the condenser's place.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

HOST = "127.0.0.1"
JSON = "application/json"
ID_DIGITS = 8
NAP_S_PER_BYTE = 13e-6
"""What a condenser of a known time takes: 20 ms for 1,536 characters."""
COMPUTED_ENV = "BENCH_COMPUTED"
"""Names the file to which the number of every context that is computed is appended."""
GONE = 0
"""Status of a request whose connection ended without an answer, or was refused."""
LATE = -1
"""Status of a request that was given up after its time."""


@dataclass(frozen=True)
class Reply:
    """What came back: status, and the seconds from the first byte sent to the last received."""

    status: int
    seconds: float
    body: bytes = b""


class Connection(asyncio.Protocol):
    """One keep-alive connection; one request at a time."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.transport: asyncio.Transport | None = None
        self._future: asyncio.Future[Reply] | None = None
        self._head: bytes | None = None
        self._data = bytearray()
        self._left = 0
        self._sent_s = 0.0

    async def ask(self, request: bytes) -> Reply:
        """Send a request and return its reply, ``GONE`` where none comes."""
        loop = asyncio.get_running_loop()
        if self.transport is None or self.transport.is_closing():
            try:
                await loop.create_connection(lambda: self, HOST, self.port)
            except OSError:
                return Reply(GONE, 0.0)
        assert self.transport is not None
        self._future = loop.create_future()
        self._head, self._left = None, 0
        self._data.clear()
        self._sent_s = time.perf_counter()
        self.transport.write(request)
        return await self._future

    def hang_up(self) -> None:
        """Close the connection, whatever is under way."""
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._head is None:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return
            self._head = bytes(self._data[:end]).lower()
            length = self._head.find(b"\r\ncontent-length:")
            assert length >= 0, "the server did not say how long its reply is"
            stop = self._head.find(b"\r\n", length + 2)
            digits = self._head[length + 17 : stop if stop > 0 else None]
            self._left = int(digits)
            del self._data[: end + 4]
        if len(self._data) >= self._left:
            self._finish(int(self._head[9:12]), bytes(self._data))

    def connection_lost(self, _: Exception | None) -> None:
        self.transport = None
        self._finish(GONE, b"")

    def _finish(self, status: int, body: bytes) -> None:
        future, self._future = self._future, None
        if future is not None and not future.done():
            future.set_result(Reply(status, time.perf_counter() - self._sent_s, body))


@dataclass
class Requests:
    """Requests without end, each with a number of its own.

    Parameters
    ----------
    characters : length of a context
    accept : format of the reply
    headers : more header lines, each ended by CRLF
    """

    characters: int = 1536
    accept: str = JSON
    headers: str = ""
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self.numbered(next(self._numbers))

    def numbered(self, number: int) -> bytes:
        """Return the request of a number; its context begins with the number's digits."""
        text = f"{number:0{ID_DIGITS}d}" + " the ship sailed at dawn" * (self.characters // 20)
        return request_of(text[: self.characters], self.accept, self.headers)


def request_of(context: str, accept: str = JSON, headers: str = "") -> bytes:
    """Return a whole request for one context."""
    body = json.dumps({"context": context}).encode()
    head = (
        f"POST /condense HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
        f"Accept: {accept}\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@dataclass
class Load:
    """What a load run saw."""

    seconds: float = 0.0
    replies: list[Reply] = field(default_factory=list)

    @property
    def statuses(self) -> dict[int, int]:
        """Status -> number of replies."""
        return dict(Counter(reply.status for reply in self.replies))

    @property
    def rate(self) -> float:
        """Good replies a second."""
        return sum(reply.status == 200 for reply in self.replies) / self.seconds

    def milliseconds(self, status: int = 200) -> npt.NDArray[np.float64]:
        """Return the times of replies with a status."""
        return np.array([1e3 * one.seconds for one in self.replies if one.status == status])


async def closed_loop(
    port: int,
    requests: Iterator[bytes],
    *,
    connections: int,
    seconds: float,
    until: Callable[[], bool] = lambda: False,
    pause_s: float = 0.0,
) -> Load:
    """Let so many connections ask, each again as soon as it is answered.

    Parameters
    ----------
    port : of the server
    requests : what is asked
    connections : how many ask side by side
    seconds : how long
    until : ends it earlier
    pause_s : wait behind an answer that is no 200, so that a refusal is not hammered
    """
    load = Load()
    began_s = time.perf_counter()

    async def one() -> None:
        connection = Connection(port)
        while time.perf_counter() - began_s < seconds and not until():
            reply = await connection.ask(next(requests))
            load.replies.append(reply)
            if reply.status != 200 and pause_s:
                await asyncio.sleep(pause_s)
        connection.hang_up()

    await asyncio.gather(*(one() for _ in range(connections)))
    load.seconds = time.perf_counter() - began_s
    return load


async def drain(port: int, requests: Sequence[bytes], *, connections: int) -> Load:
    """Have a list of requests answered by so many connections side by side."""
    load, waiting = Load(), iter(requests)
    began_s = time.perf_counter()

    async def one() -> None:
        connection = Connection(port)
        for request in waiting:
            load.replies.append(await connection.ask(request))
        connection.hang_up()

    await asyncio.gather(*(one() for _ in range(connections)))
    load.seconds = time.perf_counter() - began_s
    return load


@dataclass
class Arrival:
    """One request of an open loop: seconds from its scheduled time, and from being sent."""

    reply: Reply
    since_scheduled_s: float


async def open_loop(
    port: int, requests: Iterator[bytes], times_s: Iterable[float], *, give_up_s: float
) -> list[Arrival]:
    """Send requests at given times, whether or not earlier ones have been answered.

    Parameters
    ----------
    port : of the server
    requests : what is asked
    times_s : when, from now on, ascending
    give_up_s : how long each is waited for
    """
    began_s = time.perf_counter()
    free: list[Connection] = []

    async def one(at_s: float) -> Arrival:
        connection = free.pop() if free else Connection(port)
        try:
            async with asyncio.timeout(give_up_s):
                reply = await connection.ask(next(requests))
            free.append(connection)
        except TimeoutError:
            connection.hang_up()
            reply = Reply(LATE, give_up_s)
        return Arrival(reply, time.perf_counter() - began_s - at_s)

    tasks = []
    for at_s in times_s:
        await asyncio.sleep(max(0.0, at_s - (time.perf_counter() - began_s)))
        tasks.append(asyncio.create_task(one(at_s)))
    arrivals = list(await asyncio.gather(*tasks))
    for connection in free:
        connection.hang_up()
    return arrivals
