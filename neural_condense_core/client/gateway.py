"""Clients of a gateway's own routes: ``GatewayClient`` and ``AsyncGatewayClient``.

Where they sit: an application condenses a text once and uses it in many chats by its id; for the
chats themselves any client of OpenAI's API serves.

Design decisions

* One call, one deadline. Only 429 and 503 are asked again, as the gateway says when.
* An id is all that a chat needs; the matrix comes on request.
"""

from __future__ import annotations

from typing import Any, TypeVar, Unpack

import orjson
from pydantic import BaseModel, ValidationError

from neural_condense_core.client.async_client import AsyncClient, Call, CallSettings
from neural_condense_core.client.exchange import Answer
from neural_condense_core.client.loop_thread import SyncClient
from neural_condense_core.errors import BackendError, CodecError
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.codec import decode
from neural_condense_core.wire.gateway import (
    CONDENSE_PATH,
    CONTEXTS_PATH,
    ContextInfo,
    ContextList,
    Deleted,
)

_ASKS = {"Accept": "application/json"}
_SENDS = {**_ASKS, "Content-Type": "application/json"}
_MATRIX = {"Accept": "application/vnd.safetensors"}

M = TypeVar("M", bound=BaseModel)


class Settings(CallSettings, total=False):
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


class AsyncGatewayClient(AsyncClient):
    """Async client; an async context manager, usable by several tasks of one loop.

    Parameters
    ----------
    url : of the gateway, without ``/v1``: ``"http://127.0.0.1:8100"``; ``ConfigError`` if it is no
        URL
    **settings : see ``Settings``
    """

    service = "gateway"
    default_timeout_s = 120.0

    def __init__(self, url: str, **settings: Unpack[Settings]) -> None:
        key = settings.get("api_key")
        super().__init__(url, settings, {"Authorization": f"Bearer {key}"} if key else None)
        self.url = self.url.removesuffix("/v1")

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
        call = Call("POST", CONDENSE_PATH, orjson.dumps(said), lambda _: _SENDS)
        return self._read(ContextInfo, await self._call(call))

    async def context(self, context_id: str) -> ContextInfo:
        """Return what is known of a stored context."""
        return self._read(ContextInfo, await self._call(_asking("GET", context_id)))

    async def contexts(self) -> tuple[ContextInfo, ...]:
        """Return the caller's stored contexts, the newest first."""
        return self._read(ContextList, await self._call(_asking("GET"))).data

    async def tokens(self, context_id: str) -> CondensedTokens:
        """Return a stored context's condensed tokens.

        Raises
        ------
        BackendError
            What came cannot be used.
        """
        path, cap = f"{CONTEXTS_PATH}/{context_id}", self._limits.max_bytes
        answer = await self._call(Call("GET", path, b"", lambda _: _MATRIX, cap))
        try:
            return decode(answer.body, answer.headers.get("content-type", ""), self._limits)
        except CodecError as error:
            message = f"{self.url} answered with tokens that cannot be used: {error.message}"
            raise BackendError(message, error.detail) from error

    async def delete(self, context_id: str) -> None:
        """Forget a stored context."""
        self._read(Deleted, await self._call(_asking("DELETE", context_id)))

    def _read(self, kind: type[M], answer: Answer) -> M:
        try:
            return kind.model_validate_json(answer.body)
        except ValidationError:
            raise BackendError(f"{self.url} answered with something else; is it a gateway?") from (
                None
            )


def _asking(method: str, context_id: str | None = None) -> Call:
    path = CONTEXTS_PATH if context_id is None else f"{CONTEXTS_PATH}/{context_id}"
    return Call(method, path, headers=lambda _: _ASKS)


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
