"""``POST /condense``: from a request's bytes to a reply's.

Where it sits: ``app.py`` sends the one busy route straight here, past the framework.

Design decisions

* Bodies are read and parsed here, not by the framework: counted while read, never echoed, and a
  reply's bytes go out as the worker made them.
* A body is not read before it is clear that it can be used, and only so many are in hand at once:
  at most ``MAX_BODIES * MAX_BODY_BYTES`` of memory, 256 MB. Once parsed, a context is bounded by
  the engine's queue. What is left unread, the HTTP server drops.
* What is raised and was not foreseen is logged by type and place: its message may quote a context.
* A client that hangs up gives its request up; a worker never sees it.
* Every request has one line in the log, one outcome in the metrics and an id in its reply.
"""

from __future__ import annotations

import asyncio
import logging
import math
from functools import lru_cache

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from neural_condense_core.errors import (
    DeadlineError,
    NeuralCondenseError,
    OverloadedError,
    type_and_frames,
)
from neural_condense_core.serving.cache import CACHE_HEADER
from neural_condense_core.serving.engine import Engine
from neural_condense_core.serving.jobs import Answer
from neural_condense_core.serving.metrics import Metrics
from neural_condense_core.serving.settings import ServeSettings
from neural_condense_core.serving.timings import REQUEST_ID_HEADER, Timings, request_id
from neural_condense_core.wire.codec import JSON, JSON_BASE64, JSON_LIST, Format, negotiate
from neural_condense_core.wire.incoming import (
    ClientGoneError,
    UnforeseenError,
    check_content_type,
    own_answer,
    read_body,
    timeout_of,
    until_gone,
)
from neural_condense_core.wire.messages import MAX_BODY_BYTES, CondenseRequest, parse_request

log = logging.getLogger(__name__)

MAX_BODIES = 64
"""How many request bodies may be in hand, arriving or being parsed; above it 429."""
MAX_CACHED_ACCEPT = 256
"""Longest ``Accept`` that is remembered, characters."""


class CondenseRoute:
    """The endpoint, an ASGI application.

    Parameters
    ----------
    engine : who condenses
    settings : limits and defaults
    metrics : is told of every request
    """

    def __init__(self, engine: Engine, settings: ServeSettings, metrics: Metrics) -> None:
        self.engine = engine
        self.settings = settings
        self.metrics = metrics
        self.default_reply = JSON_LIST if settings.reply == "list" else JSON
        self._n_bodies = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        response = await self.respond(Request(scope, receive, send))
        await response(scope, receive, send)

    async def respond(self, request: Request) -> Response:
        """Condense one context, and log and count how it went."""
        timings = Timings()
        number = request_id(request.headers.get(REQUEST_ID_HEADER))
        try:
            answer = await self._answer(request, timings)
        except ClientGoneError:
            self.metrics.gone()
            self._log(number, 499, "the client hung up", timings, timings.total_s)
            return Response(status_code=499)
        except NeuralCondenseError as error:
            response = own_answer(error)
            self._failed(number, error, timings)
        except Exception as error:  # noqa: BLE001 - left to itself, its message would be logged
            log.error("POST %s: 500, raised %s", self.settings.api_path, type_and_frames(error))
            response = own_answer(UnforeseenError())
            self._failed(number, NeuralCondenseError("unforeseen"), timings)
        else:
            return self._success(number, answer, timings)
        response.headers[REQUEST_ID_HEADER] = number
        return response

    def _success(self, number: str, answer: Answer, timings: Timings) -> Response:
        total_s = timings.total_s
        self.metrics.answered(timings, total_s)
        self._log(number, 200, f"{answer.n_condensed_tokens} condensed", timings, total_s)
        headers = {
            **answer.headers,
            **timings.headers(total_s),
            REQUEST_ID_HEADER: number,
        }
        if timings.cache is not None:
            headers[CACHE_HEADER] = timings.cache
        return Response(answer.body, headers=headers)

    def _failed(self, number: str, error: NeuralCondenseError, timings: Timings) -> None:
        self.metrics.failed(error)
        self._log(number, error.status, error.code, timings, timings.total_s)

    def _log(
        self, number: str, status: int, outcome: str, timings: Timings, total_s: float
    ) -> None:
        if not log.isEnabledFor(logging.INFO):
            return
        facts = {
            "request_id": number,
            "status": status,
            "outcome": outcome,
            "tokens": timings.n_tokens,
            "total_ms": round(total_s * 1000, 3),
            "tokenization_ms": round(timings.tokenization_s * 1000, 3),
            "queue_ms": round(timings.queue_s * 1000, 3),
            "inference_ms": round(timings.inference_s * 1000, 3),
            "cache": timings.cache,
        }
        log.info(
            "POST %s: %d %s, %d tokens in %.1f ms (queue %.1f, inference %.1f) [%s]",
            self.settings.api_path,
            status,
            outcome,
            timings.n_tokens,
            facts["total_ms"],
            facts["queue_ms"],
            facts["inference_ms"],
            number,
            extra={"facts": facts},
        )

    async def _answer(self, request: Request, timings: Timings) -> Answer:
        limit_s = min(self.settings.timeout_s, timeout_of(request) or math.inf)
        deadline_s = asyncio.get_running_loop().time() + limit_s
        check_content_type(request)
        # Before the body: a client that cannot use the answer need not send the text.
        accept = request.headers.get("accept")
        chosen = negotiated(accept, self.default_reply)
        self.engine.served()
        asked = await self._take(request, deadline_s)
        if asked.encoding_format is not None:
            chosen = negotiated(accept, self._preferred(asked.encoding_format))
        work = self.engine.condense(
            asked.context,
            chosen,
            deadline_s=deadline_s,
            target_model=asked.target_model,
            ratio=asked.ratio,
            max_condensed_tokens=asked.max_condensed_tokens,
            timings=timings,
        )
        return await until_gone(request, work)

    async def _take(self, request: Request, deadline_s: float) -> CondenseRequest:
        if self._n_bodies >= MAX_BODIES:
            raise OverloadedError(
                f"{self._n_bodies} requests are arriving; retry later",
                {"reason": "bodies_in_hand", "limit": MAX_BODIES},
            )
        self._n_bodies += 1
        try:
            async with asyncio.timeout_at(deadline_s):
                body = await read_body(request, MAX_BODY_BYTES)
            return parse_request(body, max_body_bytes=MAX_BODY_BYTES)
        except TimeoutError:
            raise DeadlineError("the body did not arrive in time; send it faster") from None
        finally:
            self._n_bodies -= 1

    def _preferred(self, encoding_format: str) -> Format:
        return JSON_BASE64 if encoding_format == "base64" else self.default_reply


def negotiated(accept: str | None, prefer: Format) -> Format:
    """Return the format that fits ``Accept``; as ``negotiate``, and remembered."""
    if accept is not None and len(accept) > MAX_CACHED_ACCEPT:
        return negotiate(accept, prefer)
    return _remembered(accept, prefer)


@lru_cache(maxsize=128)
def _remembered(accept: str | None, prefer: Format) -> Format:
    return negotiate(accept, prefer)
