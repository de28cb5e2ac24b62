"""``/v1/condense`` and ``/v1/contexts``: condense a text, keep it, look at it, forget it.

``Accept`` chooses: JSON describes the context, a tensor format brings the matrix itself. It is read
before anything is done: a client that cannot use the reply is told so at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from fastapi import Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from neural_condense_core.errors import DeadlineError, OverloadedError, UnavailableError
from neural_condense_core.gateway.answering import body_of
from neural_condense_core.gateway.messages import parse
from neural_condense_core.gateway.parts import Parts
from neural_condense_core.gateway.policy import Rules, ladder
from neural_condense_core.gateway.sources import Source
from neural_condense_core.gateway.store import About, Stored
from neural_condense_core.wire.codec import JSON, Format, encode, negotiate, reply_headers
from neural_condense_core.wire.gateway import (
    CONTEXT_ID_HEADER,
    CondenseBody,
    ContextInfo,
    ContextList,
    Deleted,
)
from neural_condense_core.wire.incoming import check_content_type, json_response, until_gone
from neural_condense_core.wire.messages import MAX_BODY_BYTES

MAX_IN_HAND = 16


class Keeping:
    """The routes of stored contexts.

    Parameters
    ----------
    parts : of the gateway
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._n_in_hand = 0

    async def condense(self, request: Request) -> Response:
        """Condense a text and keep it until it expires.

        Raises
        ------
        UnavailableError
            Nobody condenses yet.
        DeadlineError
            It took too long.
        """
        owner = await self._parts.door.admit(request, charges=True)
        check_content_type(request)
        format_ = negotiate(request.headers.get("accept"))
        with self._one():
            wanted = parse(CondenseBody, await body_of(request, MAX_BODY_BYTES))
            contexts = self._parts.contexts_by(wanted.condenser)
            if not contexts.source.is_ready:
                raise UnavailableError("the condenser is not ready; see /health/ready")
            ratio = self._ratio(wanted, contexts.source)
            try:
                async with asyncio.timeout(self._parts.settings.timeout_s):
                    work = contexts.condensed(
                        owner, wanted.context, ratio, estimates=True, pins=True
                    )
                    stored, was_stored = await until_gone(request, work)
            except TimeoutError:
                raise DeadlineError("the text was not condensed in time; send less") from None
            return await self._told(format_, stored, was_stored=was_stored)

    async def get(self, request: Request, context_id: str) -> Response:
        """Tell about a context, or send it."""
        owner = await self._parts.door.admit(request, charges=False)
        store = self._parts.contexts.store
        format_ = negotiate(request.headers.get("accept"))
        with self._one():
            stored = await run_in_threadpool(store.get, owner, context_id)
            return await self._told(format_, stored)

    async def delete(self, request: Request, context_id: str) -> Response:
        """Forget a context."""
        owner = await self._parts.door.admit(request, charges=False)
        await run_in_threadpool(self._parts.contexts.store.delete, owner, context_id)
        return json_response(200, Deleted(id=context_id))

    async def list(self, request: Request) -> Response:
        """List the caller's contexts."""
        owner = await self._parts.door.admit(request, charges=False)
        found = await run_in_threadpool(self._parts.contexts.store.list, owner)
        return json_response(200, ContextList(data=tuple(self._info(each) for each in found)))

    @contextlib.contextmanager
    def _one(self) -> Iterator[None]:
        if self._n_in_hand >= MAX_IN_HAND:
            raise OverloadedError("too many texts are in hand; retry later")
        self._n_in_hand += 1
        try:
            yield
        finally:
            self._n_in_hand -= 1

    def _ratio(self, wanted: CondenseBody, source: Source) -> float:
        ratio = wanted.ratio or self._parts.default_ratio(source)
        rules = Rules("always", ratio, 1, 0, 1)
        return ladder(source.ratios, rules, max(self._parts.settings.max_ratio, source.ratio))[0]

    async def _told(
        self, format_: Format, stored: Stored, *, was_stored: bool | None = None
    ) -> Response:
        if format_.media_type == JSON.media_type:
            status = 200 if was_stored is None else 201
            found = json_response(status, self._info(stored.about, was_stored))
            found.headers["Vary"] = "Accept"
            return found
        body = await run_in_threadpool(encode, stored.tokens, format_)
        headers = {**reply_headers(stored.tokens, format_), CONTEXT_ID_HEADER: stored.about.id}
        return Response(body, headers=headers)

    def _info(self, about: About, was_stored: bool | None = None) -> ContextInfo:
        return ContextInfo(
            id=about.id,
            created=int(about.made_at),
            expires_at=int(self._parts.contexts.store.expires_at(about)),
            target_model=about.target_model,
            condenser=about.condenser,
            ratio=about.ratio,
            n_context_tokens=about.n_context_tokens,
            n_condensed_tokens=about.n_condensed_tokens,
            hidden_size=about.hidden_size,
            nbytes=about.nbytes,
            recovery=about.recovery,
            from_store=was_stored,
        )
