"""What the async clients have in common: an address, one deadline a call, a capped answer.

Where it sits: ``backend.py``, ``organic.py``, ``gateway.py`` and ``scoring.py`` build on it;
``exchange.py`` says what an answer means.

Design decisions

* A call has one deadline, and everything counts against it: connecting, retries, waits, headers
  and a body that trickle in. Only an event loop can cut any of them short, so the sync clients run
  the async ones in a thread (``loop_thread.py``).
* The body is capped while it is read; ``Content-Length`` is not believed.
* Clock, sleep and transport are arguments, so that tests need neither time nor network.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Self, TypedDict

import httpx

from neural_condense_core.client.exchange import (
    DEFAULT_LIMITS,
    LOST,
    MAX_CONTROL_BYTES,
    Answer,
    Body,
    Budget,
    error_from,
)
from neural_condense_core.errors import BackendError, ConfigError, RetryableError
from neural_condense_core.wire.arrays import Limits

MAX_RETRIES = 3
UNREACHABLE = "unreachable"

_BROKEN = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)


class CallSettings(TypedDict, total=False):
    """Keyword arguments that every client takes.

    Parameters
    ----------
    timeout_s : deadline of one call, retries and waits included
    max_retries : how often is asked again where that may help, 3
    limits : what is accepted as an answer
    clock : monotonic seconds
    sleep : waits, seconds
    transport : replaces the network
    """

    timeout_s: float
    max_retries: int
    limits: Limits
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    transport: httpx.AsyncBaseTransport | None


def _no_headers(left_s: float) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True)
class Call:
    """What is asked.

    Parameters
    ----------
    method, path : of the request
    body : of the request
    headers : seconds left -> headers; made anew for every try
    max_bytes : cap of a good answer's body; errors have a cap of their own
    """

    method: str
    path: str
    body: bytes = b""
    headers: Callable[[float], Mapping[str, str]] = _no_headers
    max_bytes: int = MAX_CONTROL_BYTES


class AsyncClient:
    """A client of one service; an async context manager, usable by several tasks of one loop.

    Parameters
    ----------
    url : where the service is
    settings : see ``CallSettings``
    headers : of every request

    Raises
    ------
    ConfigError
        ``url`` is no URL.
    """

    service: ClassVar[str]
    """What it is called in messages."""
    example: ClassVar[str] = "http://host:port"
    default_timeout_s: ClassVar[float]
    heeds_proxies: ClassVar[bool] = True
    """Whether the environment's proxies are used; not for services of this machine or network."""

    def __init__(
        self, url: str, settings: CallSettings, headers: Mapping[str, str] | None = None
    ) -> None:
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ConfigError(f"{url!r} is no URL: {error}") from None
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            raise ConfigError(f"{url!r} is no URL of a {self.service}; write {self.example}")
        self.url = url.rstrip("/")
        self.timeout_s = settings.get("timeout_s", self.default_timeout_s)
        self.sleep = settings.get("sleep", asyncio.sleep)
        self._max_retries = settings.get("max_retries", MAX_RETRIES)
        self._limits = settings.get("limits", DEFAULT_LIMITS)
        self._clock = settings.get("clock", time.monotonic)
        self._http = httpx.AsyncClient(
            transport=settings.get("transport"),
            trust_env=self.heeds_proxies,
            headers={"Accept-Encoding": "identity", **(headers or {})},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def budget(self, timeout_s: float, max_retries: int = 0) -> Budget:
        """Return the time and the tries that a call has."""
        return Budget(timeout_s, max_retries, self._clock)

    async def _call(self, call: Call) -> Answer:
        """Return a good answer; only 429 and 503 are asked again, as the service says when."""
        budget = self.budget(self.timeout_s, self._max_retries)
        while True:
            answer = await self._ask(call, budget)
            if httpx.codes.is_success(answer.status):
                return answer
            error = error_from(answer, self.url)
            if not isinstance(error, RetryableError):
                raise error
            await self.sleep(budget.wait_before_retry(error))

    async def _ask(self, call: Call, budget: Budget) -> Answer:
        """Ask once and return the answer, whatever it is."""
        left_s = budget.remaining_s()
        with self._translated(budget):
            # Around everything, as httpx's own timeouts each bound one read.
            async with (
                asyncio.timeout(left_s),
                self._http.stream(
                    call.method,
                    self.url + call.path,
                    content=call.body or None,
                    headers=dict(call.headers(left_s)),
                    timeout=httpx.Timeout(left_s),
                ) as response,
            ):
                cap = call.max_bytes if response.is_success else MAX_CONTROL_BYTES
                body = Body(self.url, response.headers, cap)
                async for part in response.aiter_bytes():
                    body.add(part)
                return Answer(response.status_code, response.headers, body.bytes())

    @contextmanager
    def _translated(self, budget: Budget) -> Iterator[None]:
        try:
            yield
        except (httpx.TimeoutException, TimeoutError) as error:
            raise budget.deadline_error() from error
        except _BROKEN as error:
            raise BackendError(
                f"the connection to {self.url} broke ({type(error).__name__}); retry, or see its "
                "log",
                {"reason": UNREACHABLE, LOST: True},
            ) from error
        except httpx.HTTPError as error:
            raise BackendError(
                f"{self.url} could not be reached ({type(error).__name__}); is the {self.service} "
                "running there?",
                {"reason": UNREACHABLE},
            ) from error
