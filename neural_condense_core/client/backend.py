"""Clients of a condensing backend: ``BackendClient`` and ``AsyncBackendClient``.

Where they sit: the demo, the command line, the load generator and the miner reach a backend through
these; ``client/async_client.py`` holds how it is called, ``client/exchange.py`` what its answers
mean.

Design decisions

* To condense a text twice does no harm: a connection that broke is asked again too, not only 429
  and 503.
* Proxy variables of the environment are not read: a backend is on this machine or this network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Unpack

from neural_condense_core.client.async_client import UNREACHABLE, AsyncClient, Call, CallSettings
from neural_condense_core.client.exchange import (
    Question,
    not_ready_error,
    read_health,
    read_info,
    read_progress,
)
from neural_condense_core.client.loop_thread import SyncClient
from neural_condense_core.errors import BackendError, DeadlineError, RetryableError
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.messages import Info, NotReady, Ready

POLL_S = 0.2
CONTROL_TIMEOUT_S = 10.0
READY_PATH, INFO_PATH = "/health/ready", "/info"

OnProgress = Callable[[NotReady | Ready | None], None]
"""Told the health at every poll; None while the port does not answer. May raise to give up."""


class Settings(CallSettings, total=False):
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
    dtype: str | None
    count_tokens: Callable[[str], int] | None
    estimate_tokens: Callable[[str], int] | None


class AsyncBackendClient(AsyncClient):
    """Async client; an async context manager, usable by several tasks of one loop.

    Parameters
    ----------
    url : where the backend is, ``"http://127.0.0.1:8080"``; ``ConfigError`` if it is no URL
    **settings : see ``Settings``
    """

    service = "backend"
    example = "http://127.0.0.1:8080"
    default_timeout_s = 60.0
    heeds_proxies = False

    def __init__(self, url: str, **settings: Unpack[Settings]) -> None:
        super().__init__(url, settings)
        self._api_path = settings.get("api_path", "/condense")
        self._dtype = settings.get("dtype")
        self._count_tokens = settings.get("count_tokens")
        self._estimate_tokens = settings.get("estimate_tokens")

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
        url, cap = self.url + self._api_path, self._limits.max_bytes
        call = Call("POST", self._api_path, question.body(), question.headers, cap)
        budget = self.budget(self.timeout_s, self._max_retries)
        while True:
            try:
                return question.read(await self._ask(call, budget), url)
            except (RetryableError, BackendError) as error:
                wait_s = budget.wait_before_retry(error)
            await self.sleep(wait_s)

    async def ready(self, timeout_s: float = CONTROL_TIMEOUT_S) -> NotReady | Ready:
        """Return whether the backend is ready, or what it is doing."""
        answer = await self._ask(Call("GET", READY_PATH), self.budget(timeout_s))
        return read_health(answer, self.url + READY_PATH)

    async def info(self) -> Info:
        """Return what the backend serves."""
        answer = await self._ask(Call("GET", INFO_PATH), self.budget(CONTROL_TIMEOUT_S))
        return read_info(answer, self.url + INFO_PATH)

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


def _heed(health: NotReady | Ready | None, on_progress: OnProgress | None) -> Ready | None:
    if on_progress is not None:
        on_progress(health)
    return read_progress(health)


@contextmanager
def _may_be_down() -> Iterator[None]:
    try:
        yield
    except DeadlineError:
        return
    except BackendError as error:
        if error.detail.get("reason") != UNREACHABLE:
            raise
