"""Client of the scoring service.

Where it sits: the validator hands a round of replies over and gets every miner's score back.

Design decisions

* One deadline for the whole call, waits for a busy service included; 429 and 503 are asked again
  within it, as the same round always has the same answer.
* The answer is read under a cap and parsed strictly: a service that answers with something else is
  a ``BackendError``, never half a score.
* The token never appears in a message or in the client's ``repr``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import httpx
from pydantic import BaseModel

from neural_condense_core.client.async_client import AsyncClient, Call, CallSettings
from neural_condense_core.client.exchange import Answer, Budget, error_from, read_health
from neural_condense_core.errors import BackendError, RequestError
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.messages import Ready
from neural_condense_core.wire.scoring import (
    MEDIA_TYPE,
    SCORE_PATH,
    ScoreAnswer,
    ScoreRequest,
    ScoringInfo,
    encode_score_request,
    parse_message,
)

M = TypeVar("M", bound=BaseModel)

_SENDS = {"Content-Type": MEDIA_TYPE}

DEFAULT_TIMEOUT_S = 600.0
CONTROL_TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 64_000_000
MAX_RETRIES = 1000
"""A service that is busy or loading is asked until the deadline, which ends it sooner."""


class ScoringClient(AsyncClient):
    """Async client; an async context manager, usable by several tasks of one loop.

    Parameters
    ----------
    url : where the service is, ``"http://127.0.0.1:8089"``; ``ConfigError`` if it is no URL
    token : what its ``--token_file`` holds; None = it asks for none
    timeout_s : deadline of one ``score`` call, waits for a busy service included
    clock : monotonic seconds
    sleep : waits, seconds
    transport : replaces the network
    """

    service = "scoring service"
    example = "http://127.0.0.1:8089"
    default_timeout_s = DEFAULT_TIMEOUT_S
    heeds_proxies = False

    def __init__(
        self,
        url: str,
        token: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        settings = CallSettings(
            timeout_s=timeout_s,
            max_retries=MAX_RETRIES,
            clock=clock,
            sleep=sleep,
            transport=transport,
        )
        headers = None if token is None else {"Authorization": f"Bearer {token}"}
        super().__init__(url, settings, headers)

    async def score(
        self, request: ScoreRequest, tensors: Mapping[str, CondensedTokens]
    ) -> ScoreAnswer:
        """Have a round scored.

        Besides what is listed, ``RequestError``, ``OverloadedError``, ``UnavailableError`` and
        ``DeadlineError`` come as the service said them.

        Parameters
        ----------
        request : what was asked and who answered, in the order of arrival
        tensors : reply id -> condensed tokens, one a reply

        Raises
        ------
        BackendError
            The service answered with something else, or about other miners.
        """
        body = encode_score_request(request, tensors)
        call = Call("POST", SCORE_PATH, body, lambda _: _SENDS, MAX_ANSWER_BYTES)
        found = self._parsed(ScoreAnswer, await self._call(call))
        if found.miners.keys() != {reply.miner for reply in request.replies}:
            raise BackendError(f"{self.url} answered about other miners than those asked about")
        return found

    async def info(self) -> ScoringInfo:
        """Return what the service scores for, and within which limits."""
        return self._parsed(ScoringInfo, await self._ask(Call("GET", "/info"), self._control()))

    async def ready(self) -> bool:
        """Return whether the service takes rounds; ``BackendError`` if it cannot be reached."""
        answer = await self._ask(Call("GET", "/health/ready"), self._control())
        return isinstance(read_health(answer, self.url), Ready)

    def _control(self) -> Budget:
        return self.budget(min(CONTROL_TIMEOUT_S, self.timeout_s))

    def _parsed(self, kind: type[M], answer: Answer) -> M:
        if answer.status != 200:
            raise error_from(answer, self.url)
        try:
            return parse_message(kind, answer.body)
        except RequestError as error:
            message = f"{self.url} is no scoring service of ours: {error.message}"
            raise BackendError(message, error.detail) from None
