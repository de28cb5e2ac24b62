"""Clients of a condensing backend: ``BackendClient`` and ``AsyncBackendClient``.

Where they sit: the demo, the command line, the load generator and the miner reach a backend through
these; ``client/exchange.py`` holds what both have in common.

Design decisions

* A call has one deadline, and everything counts against it: connecting, retries, waits, headers
  and a body that trickle in. Only an event loop can cut any of them short, so the sync client runs
  the async one in a thread.
* The body is capped while it is read; ``Content-Length`` is not believed.
* Proxy variables of the environment are not read: a backend is on this machine or this network.
* Clock, sleep and transport are arguments, so that tests need neither time nor network.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self, TypedDict, Unpack

import httpx

from neural_condense_core.client.exchange import (
    DEFAULT_LIMITS,
    LOST,
    MAX_CONTROL_BYTES,
    Answer,
    Body,
    Budget,
    Question,
    not_ready_error,
    read_health,
    read_info,
    read_progress,
)
from neural_condense_core.client.loop_thread import SyncClient
from neural_condense_core.errors import BackendError, ConfigError, DeadlineError, RetryableError
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.arrays import Limits
from neural_condense_core.wire.messages import Info, NotReady, Ready

POLL_S = 0.2
CONTROL_TIMEOUT_S = 10.0
UNREACHABLE = "unreachable"

_BROKEN = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
_HEADERS = {"Accept-Encoding": "identity"}

OnProgress = Callable[[NotReady | Ready | None], None]
"""Told the health at every poll; None while the port does not answer. May raise to give up."""


class Settings(TypedDict, total=False):
    """Keyword arguments that both clients take.

    Parameters
    ----------
    api_path : path of the condensing route, ``"/condense"``
    timeout_s : deadline of one ``condense`` call, retries and waits included, 60
    max_retries : how often a backend is asked again that is overloaded, unavailable or broke the
        connection, 3
    dtype : dtype to ask for on the wire; None = the backend's
    limits : what is accepted as an answer
    count_tokens : counts a context's tokens; needed for backends that answer with bare lists, and
        its count wins over the backend's
    estimate_tokens : counts them roughly, only where the backend does not say
    clock : monotonic seconds
    sleep : waits, seconds
    transport : replaces the network
    """

    api_path: str
    timeout_s: float
    max_retries: int
    dtype: str | None
    limits: Limits
    count_tokens: Callable[[str], int] | None
    estimate_tokens: Callable[[str], int] | None
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    transport: httpx.AsyncBaseTransport | None


class AsyncBackendClient:
    """Async client; an async context manager, usable by several tasks of one loop.

    Parameters
    ----------
    url : where the backend is, ``"http://127.0.0.1:8080"``; ``ConfigError`` if it is no URL
    **settings : see ``Settings``
    """

    def __init__(self, url: str, **settings: Unpack[Settings]) -> None:
        self.url = _checked_url(url)
        self.timeout_s = settings.get("timeout_s", 60.0)
        self._condense_url = self.url + settings.get("api_path", "/condense")
        self._max_retries = settings.get("max_retries", 3)
        self._dtype = settings.get("dtype")
        self._limits = settings.get("limits", DEFAULT_LIMITS)
        self._count_tokens = settings.get("count_tokens")
        self._estimate_tokens = settings.get("estimate_tokens")
        self._clock = settings.get("clock", time.monotonic)
        self.sleep = settings.get("sleep", asyncio.sleep)
        self._http = httpx.AsyncClient(
            transport=settings.get("transport"), trust_env=False, headers=_HEADERS
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def condense(
        self,
        context: str,
        *,
        ratio: float | None = None,
        max_condensed_tokens: int | None = None,
        target_model: str | None = None,
    ) -> CondensedTokens:
        """Condense a text.

        What goes wrong comes as ``RequestError``, ``OverloadedError``, ``UnavailableError``,
        ``DeadlineError`` or ``BackendError``.

        Parameters
        ----------
        context : the text
        ratio : context tokens per condensed token; None = the backend's default
        max_condensed_tokens : never exceeded; the backend raises the ratio
        target_model : the model that will read them; None = the one served
        """
        question = Question(
            context,
            ratio,
            max_condensed_tokens,
            target_model,
            self._dtype,
            self._limits,
            self._count_tokens,
            self._estimate_tokens,
        )
        budget = self.budget(self.timeout_s, self._max_retries)
        while True:
            try:
                answer = await self._ask(self._condense_url, budget, question)
                return question.read(answer, self._condense_url)
            except (RetryableError, BackendError) as error:
                wait_s = budget.wait_before_retry(error)
            await self.sleep(wait_s)

    async def ready(self, timeout_s: float = CONTROL_TIMEOUT_S) -> NotReady | Ready:
        """Return whether the backend is ready, or what it is doing."""
        url = f"{self.url}/health/ready"
        return read_health(await self._ask(url, self.budget(timeout_s)), url)

    async def info(self) -> Info:
        """Return what the backend serves."""
        url = f"{self.url}/info"
        return read_info(await self._ask(url, self.budget(CONTROL_TIMEOUT_S)), url)

    async def wait_ready(self, timeout_s: float, on_progress: OnProgress | None = None) -> Ready:
        """Wait until the backend is ready.

        ``BackendError`` if it says that it failed, ``DeadlineError`` if it takes too long.

        Parameters
        ----------
        timeout_s : how long to wait
        on_progress : told the health at every poll
        """
        polls = _Polls(self, timeout_s)
        while not (ready := _heed(await polls.next(), on_progress)):
            pass
        return ready

    def budget(self, timeout_s: float, max_retries: int = 0) -> Budget:
        """Return the time and the tries that a call has."""
        return Budget(timeout_s, max_retries, self._clock)

    async def _ask(self, url: str, budget: Budget, question: Question | None = None) -> Answer:
        left_s = budget.remaining_s()
        request: dict[str, Any] = {"method": "GET", "url": url}
        if question is not None:
            sent = {"content": question.body(), "headers": question.headers(left_s)}
            request = {"method": "POST", "url": url, **sent}
        with _translated(url, budget):
            # Around everything, as httpx's own timeouts each bound one read.
            async with (
                asyncio.timeout(left_s),
                self._http.stream(**request, timeout=httpx.Timeout(left_s)) as response,
            ):
                is_matrix = question is not None and response.status_code == httpx.codes.OK
                cap = self._limits.max_bytes if is_matrix else MAX_CONTROL_BYTES
                body = Body(str(response.url), response.headers, cap)
                async for part in response.aiter_bytes():
                    body.add(part)
                return Answer(response.status_code, response.headers, body.bytes())


class BackendClient(SyncClient[AsyncBackendClient]):
    """Sync client; a context manager, usable by several threads.

    Parameters
    ----------
    url : where the backend is, ``"http://127.0.0.1:8080"``; ``ConfigError`` if it is no URL
    **settings : see ``Settings``
    """

    def __init__(self, url: str, **settings: Unpack[Settings]) -> None:
        super().__init__(AsyncBackendClient(url, **settings))

    @property
    def timeout_s(self) -> float:
        """Deadline of one ``condense`` call."""
        return self._client.timeout_s

    def condense(
        self,
        context: str,
        *,
        ratio: float | None = None,
        max_condensed_tokens: int | None = None,
        target_model: str | None = None,
    ) -> CondensedTokens:
        """Condense a text; parameters and errors as ``AsyncBackendClient.condense``."""
        return self._loop.run(
            self._client.condense(
                context,
                ratio=ratio,
                max_condensed_tokens=max_condensed_tokens,
                target_model=target_model,
            )
        )

    def ready(self, timeout_s: float = CONTROL_TIMEOUT_S) -> NotReady | Ready:
        """Return whether the backend is ready, or what it is doing."""
        return self._loop.run(self._client.ready(timeout_s))

    def info(self) -> Info:
        """Return what the backend serves."""
        return self._loop.run(self._client.info())

    def wait_ready(self, timeout_s: float, on_progress: OnProgress | None = None) -> Ready:
        """Wait until the backend is ready; parameters and errors as ``AsyncBackendClient``'s.

        ``on_progress`` is called in the caller's thread.
        """
        polls = _Polls(self._client, timeout_s)
        while not (ready := _heed(self._loop.run(polls.next()), on_progress)):
            pass
        return ready


class _Polls:
    """Asks a backend for its health again and again, within one deadline."""

    def __init__(self, client: AsyncBackendClient, timeout_s: float) -> None:
        self._client = client
        self._budget = client.budget(timeout_s)
        self._last: NotReady | Ready | None = None
        self._has_asked = False

    async def next(self) -> NotReady | Ready | None:
        """Return the health, the last known while the port does not answer; wait before it.

        ``DeadlineError`` once the time is over.
        """
        if self._has_asked:
            self._check_time()
            await self._client.sleep(POLL_S)
        self._has_asked = True
        with _may_be_down():
            left_s = max(self._budget.left_s(), POLL_S)
            self._last = await self._client.ready(min(CONTROL_TIMEOUT_S, left_s))
        return self._last

    def _check_time(self) -> None:
        if self._budget.left_s() <= 0:
            raise not_ready_error(self._client.url, self._budget.timeout_s, self._last)


def _checked_url(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"{url!r} is no URL: {error}") from None
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ConfigError(f"{url!r} is no URL of a backend; write http://127.0.0.1:8080")
    return url.rstrip("/")


def _heed(health: NotReady | Ready | None, on_progress: OnProgress | None) -> Ready | None:
    if on_progress is not None:
        on_progress(health)
    return read_progress(health)


@contextmanager
def _translated(url: str, budget: Budget) -> Iterator[None]:
    try:
        yield
    except (httpx.TimeoutException, TimeoutError) as error:
        raise budget.deadline_error() from error
    except _BROKEN as error:
        raise BackendError(
            f"the connection to {url} broke ({type(error).__name__}); retry, or see its log",
            {"reason": UNREACHABLE, LOST: True},
        ) from error
    except httpx.HTTPError as error:
        raise BackendError(
            f"{url} could not be reached ({type(error).__name__}); is the backend running there?",
            {"reason": UNREACHABLE},
        ) from error


@contextmanager
def _may_be_down() -> Iterator[None]:
    try:
        yield
    except DeadlineError:
        return
    except BackendError as error:
        if error.detail.get("reason") != UNREACHABLE:
            raise
