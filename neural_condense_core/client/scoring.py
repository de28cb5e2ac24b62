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
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel

from neural_condense_core.client.exchange import (
    MAX_CONTROL_BYTES,
    Answer,
    Body,
    Budget,
    error_from,
    read_health,
)
from neural_condense_core.errors import BackendError, ConfigError, RequestError, RetryableError
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

DEFAULT_TIMEOUT_S = 600.0
CONTROL_TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 64_000_000
MAX_RETRIES = 1000
"""A service that is busy or loading is asked until the deadline, which ends it sooner."""


class ScoringClient:
    """Async client; an async context manager, usable by several tasks of one loop.

    Parameters
    ----------
    url : where the service is, ``"http://127.0.0.1:8089"``
    token : what its ``--token_file`` holds; None = it asks for none
    timeout_s : deadline of one ``score`` call, waits for a busy service included
    clock : monotonic seconds
    sleep : waits, seconds
    transport : replaces the network

    Raises
    ------
    ConfigError
        ``url`` is no URL.
    """

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
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ConfigError(f"{url!r} is no URL: {error}") from None
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            raise ConfigError(
                f"{url!r} is no URL of a scoring service; write http://127.0.0.1:8089"
            )
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self._clock = clock
        self._sleep = sleep
        headers = {"Accept-Encoding": "identity"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        # A scoring service is on this machine or this network: no proxy of the environment.
        self._http = httpx.AsyncClient(transport=transport, trust_env=False, headers=headers)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

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
        budget = Budget(self.timeout_s, MAX_RETRIES, self._clock)
        while True:
            answer = await self._ask("POST", SCORE_PATH, budget, body)
            error = None if answer.status == 200 else error_from(answer, self.url)
            if error is None:
                break
            if not isinstance(error, RetryableError):
                raise error
            await self._sleep(budget.wait_before_retry(error))
        found = self._parsed(ScoreAnswer, answer)
        if found.miners.keys() != {reply.miner for reply in request.replies}:
            raise BackendError(f"{self.url} answered about other miners than those asked about")
        return found

    async def info(self) -> ScoringInfo:
        """Return what the service scores for, and within which limits."""
        return self._parsed(ScoringInfo, await self._ask("GET", "/info", self._control()))

    async def ready(self) -> bool:
        """Return whether the service takes rounds; ``BackendError`` if it cannot be reached."""
        answer = await self._ask("GET", "/health/ready", self._control())
        return isinstance(read_health(answer, self.url), Ready)

    def _control(self) -> Budget:
        return Budget(min(CONTROL_TIMEOUT_S, self.timeout_s), 0, self._clock)

    def _parsed(self, kind: type[M], answer: Answer) -> M:
        if answer.status != 200:
            raise error_from(answer, self.url)
        try:
            return parse_message(kind, answer.body)
        except RequestError as error:
            message = f"{self.url} is no scoring service of ours: {error.message}"
            raise BackendError(message, error.detail) from None

    async def _ask(
        self, method: str, path: str, budget: Budget, body: bytes | None = None
    ) -> Answer:
        left_s = budget.remaining_s()
        sent: dict[str, Any] = {}
        if body is not None:
            sent = {"content": body, "headers": {"Content-Type": MEDIA_TYPE}}
        cap = MAX_CONTROL_BYTES if body is None else MAX_ANSWER_BYTES
        try:
            async with (
                asyncio.timeout(left_s),
                self._http.stream(
                    method, self.url + path, timeout=httpx.Timeout(left_s), **sent
                ) as response,
            ):
                found = Body(self.url, response.headers, cap)
                async for part in response.aiter_bytes():
                    found.add(part)
                return Answer(response.status_code, response.headers, found.bytes())
        except (httpx.TimeoutException, TimeoutError) as error:
            raise budget.deadline_error() from error
        except httpx.HTTPError as error:
            raise BackendError(
                f"{self.url} could not be reached ({type(error).__name__}); is the scoring service "
                "running there?",
                {"reason": "unreachable"},
            ) from error
