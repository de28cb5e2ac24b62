"""Clients of a gateway's own routes: ``GatewayClient`` and ``AsyncGatewayClient``.

Where they sit: an application condenses a text once and uses it in many chats by its id; for the
chats themselves any client of OpenAI's API serves.

Design decisions

* One call, one deadline. Only 429 and 503 are asked again, as the gateway says when.
* An id is all that a chat needs; the matrix comes on request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Self, TypedDict, TypeVar, Unpack

import httpx
import orjson
from pydantic import BaseModel, ValidationError

from neural_condense_core.client.exchange import (
    DEFAULT_LIMITS,
    MAX_CONTROL_BYTES,
    Answer,
    Body,
    Budget,
    error_from,
)
from neural_condense_core.client.loop_thread import SyncClient
from neural_condense_core.errors import BackendError, CodecError, ConfigError, RetryableError
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.arrays import Limits
from neural_condense_core.wire.codec import decode
from neural_condense_core.wire.gateway import (
    CONDENSE_PATH,
    CONTEXTS_PATH,
    ContextInfo,
    ContextList,
    Deleted,
)

DEFAULT_TIMEOUT_S = 120.0
MAX_RETRIES = 3
_JSON = "application/json"
_SAFETENSORS = "application/vnd.safetensors"

M = TypeVar("M", bound=BaseModel)


class Settings(TypedDict, total=False):
    """Keyword arguments that both clients take.

    Parameters
    ----------
    api_key : of ``condense keys add --file``
    timeout_s : deadline of a call, 120
    max_retries : how often 429 or 503 is asked again, 3
    limits : what is accepted as a matrix
    clock, sleep : monotonic seconds; waits
    transport : replaces the network
    """

    api_key: str | None
    timeout_s: float
    max_retries: int
    limits: Limits
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    transport: httpx.AsyncBaseTransport | None


class AsyncGatewayClient:
    """Async client; an async context manager, usable by several tasks of one loop.

    Parameters
    ----------
    url : of the gateway, without ``/v1``: ``"http://127.0.0.1:8100"``
    **settings : see ``Settings``

    Raises
    ------
    ConfigError
        ``url`` is no URL.
    """

    def __init__(self, url: str, **settings: Unpack[Settings]) -> None:
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ConfigError(f"{url!r} is no URL: {error}") from None
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            raise ConfigError(f"{url!r} is no URL of a gateway; write http://host:port")
        self.url = url.rstrip("/").removesuffix("/v1")
        self._timeout_s = settings.get("timeout_s", DEFAULT_TIMEOUT_S)
        self._max_retries = settings.get("max_retries", MAX_RETRIES)
        self._limits = settings.get("limits", DEFAULT_LIMITS)
        self._clock = settings.get("clock", time.monotonic)
        self._sleep = settings.get("sleep", asyncio.sleep)
        key = settings.get("api_key")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.AsyncClient(
            transport=settings.get("transport"),
            headers={"Accept-Encoding": "identity", **headers},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def condense(
        self, context: str, *, ratio: float | None = None, condenser: str | None = None
    ) -> ContextInfo:
        """Condense a text and keep it at the gateway.

        Parameters
        ----------
        context : the text
        ratio : context tokens per condensed token; None = the condenser's default
        condenser : one that the gateway serves; None = its own
        """
        wanted = {"context": context, "ratio": ratio, "condenser": condenser}
        said = {name: value for name, value in wanted.items() if value is not None}
        answer = await self._call("POST", CONDENSE_PATH, orjson.dumps(said))
        return self._read(ContextInfo, answer)

    async def context(self, context_id: str) -> ContextInfo:
        """Return what is known of a stored context."""
        return self._read(ContextInfo, await self._call("GET", f"{CONTEXTS_PATH}/{context_id}"))

    async def contexts(self) -> tuple[ContextInfo, ...]:
        """Return the caller's stored contexts, the newest first."""
        return self._read(ContextList, await self._call("GET", CONTEXTS_PATH)).data

    async def tokens(self, context_id: str) -> CondensedTokens:
        """Return a stored context's condensed tokens.

        Raises
        ------
        BackendError
            What came cannot be used.
        """
        path = f"{CONTEXTS_PATH}/{context_id}"
        answer = await self._call("GET", path, accept=_SAFETENSORS, cap=self._limits.max_bytes)
        try:
            return decode(answer.body, answer.headers.get("content-type", ""), self._limits)
        except CodecError as error:
            message = f"{self.url} answered with tokens that cannot be used: {error.message}"
            raise BackendError(message, error.detail) from error

    async def delete(self, context_id: str) -> None:
        """Forget a stored context."""
        self._read(Deleted, await self._call("DELETE", f"{CONTEXTS_PATH}/{context_id}"))

    def _read(self, kind: type[M], answer: Answer) -> M:
        try:
            return kind.model_validate_json(answer.body)
        except ValidationError:
            raise BackendError(f"{self.url} answered with something else; is it a gateway?") from (
                None
            )

    async def _call(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        accept: str = _JSON,
        cap: int = MAX_CONTROL_BYTES,
    ) -> Answer:
        budget = Budget(self._timeout_s, self._max_retries, self._clock)
        while True:
            answer = await self._ask(method, path, body, accept, cap, budget)
            if 200 <= answer.status < 300:
                return answer
            error = error_from(answer, self.url)
            if not isinstance(error, RetryableError):
                raise error
            await self._sleep(budget.wait_before_retry(error))

    async def _ask(
        self, method: str, path: str, body: bytes, accept: str, cap: int, budget: Budget
    ) -> Answer:
        left_s = budget.remaining_s()
        headers = {"Accept": accept, **({"Content-Type": _JSON} if body else {})}
        try:
            async with (
                asyncio.timeout(left_s),
                self._http.stream(
                    method,
                    self.url + path,
                    content=body or None,
                    headers=headers,
                    timeout=httpx.Timeout(left_s),
                ) as response,
            ):
                is_good = response.status_code < 300
                found = Body(self.url, response.headers, cap if is_good else MAX_CONTROL_BYTES)
                async for part in response.aiter_bytes():
                    found.add(part)
                return Answer(response.status_code, response.headers, found.bytes())
        except (httpx.TimeoutException, TimeoutError) as error:
            raise budget.deadline_error() from error
        except httpx.HTTPError as error:
            raise BackendError(
                f"{self.url} could not be reached ({type(error).__name__})",
                {"reason": "unreachable"},
            ) from error


class GatewayClient(SyncClient[AsyncGatewayClient]):
    """Sync client; a context manager, usable by several threads.

    Parameters
    ----------
    url : of the gateway, without ``/v1``; ``ConfigError`` if it is no URL
    **settings : see ``Settings``
    """

    def __init__(self, url: str, **settings: Unpack[Settings]) -> None:
        super().__init__(AsyncGatewayClient(url, **settings))

    def condense(self, context: str, **wanted: Any) -> ContextInfo:
        """Condense a text and keep it; parameters as ``AsyncGatewayClient.condense``."""
        return self._loop.run(self._client.condense(context, **wanted))

    def context(self, context_id: str) -> ContextInfo:
        """Return what is known of a stored context."""
        return self._loop.run(self._client.context(context_id))

    def contexts(self) -> tuple[ContextInfo, ...]:
        """Return the caller's stored contexts, the newest first."""
        return self._loop.run(self._client.contexts())

    def tokens(self, context_id: str) -> CondensedTokens:
        """Return a stored context's condensed tokens."""
        return self._loop.run(self._client.tokens(context_id))

    def delete(self, context_id: str) -> None:
        """Forget a stored context."""
        self._loop.run(self._client.delete(context_id))
