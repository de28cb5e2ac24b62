"""The scoring service's HTTP routes.

Where it sits: validators reach it through ``client/scoring.py``; ``server.py`` is the process.

Design decisions

* Loopback by default, a bearer token where one is set, compared in constant time before a byte of
  the body is read.
* One model, the one named at the start: a request can neither load another nor any code.
* Bodies are counted while they are read and checked here, before they wait for their turn; so a
  broken round is refused at once.
* Errors have the one body of ``errors.py`` and hold nothing of a context or a token.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.responses import Response

from neural_condense_core.errors import (
    DeadlineError,
    NeuralCondenseError,
    OverloadedError,
    UnauthorizedError,
    UnavailableError,
    UnknownModelError,
    UnsupportedMediaError,
    type_and_frames,
)
from neural_condense_core.scoring.challenges import TASKS
from neural_condense_core.scoring.checks import MAX_NORM, MIN_NORM
from neural_condense_core.scoring.host import ModelHost
from neural_condense_core.scoring.settings import ScoringSettings
from neural_condense_core.wire.accept import parse_media_type
from neural_condense_core.wire.incoming import (
    ClientGoneError,
    UnforeseenError,
    add_error_handlers,
    json_response,
    own_answer,
    read_body,
    until_gone,
)
from neural_condense_core.wire.messages import Live, NotReady, Ready
from neural_condense_core.wire.scoring import (
    MEDIA_TYPE,
    SCORE_PATH,
    ScoringInfo,
    decode_score_request,
)

log = logging.getLogger(__name__)

LIVE_PATH, READY_PATH, INFO_PATH = "/health/live", "/health/ready", "/info"
MAX_BODIES = 4
"""Rounds that may be arriving at once; with ``max_body_bytes`` it bounds the memory."""
BODY_TIMEOUT_S = 120.0
ACCEPTED = (MEDIA_TYPE, "application/octet-stream")


def create_app(host: ModelHost, settings: ScoringSettings) -> FastAPI:
    """Return the application; its lifespan starts the model's process."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        host.start()
        yield

    app = FastAPI(
        title="Neural Condense scoring service",
        description="Scores rounds of condensed tokens by what a frozen LLM makes of them.",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    routes = Routes(host, settings)
    app.add_api_route(SCORE_PATH, routes.score, methods=["POST"], response_class=Response)
    app.add_api_route(LIVE_PATH, routes.live, response_model=Live)
    app.add_api_route(READY_PATH, routes.ready, response_class=Response)
    app.add_api_route(INFO_PATH, routes.info, response_class=Response)
    paths = (LIVE_PATH, READY_PATH, INFO_PATH)
    add_error_handlers(app, [f"POST {SCORE_PATH}", *(f"GET {path}" for path in paths)])
    return app


class Routes:
    """The endpoints.

    Parameters
    ----------
    host : the model's process
    settings : limits and token
    """

    def __init__(self, host: ModelHost, settings: ScoringSettings) -> None:
        self.host = host
        self.settings = settings
        self._n_bodies = 0

    async def score(self, request: Request) -> Response:
        """Score a round and log how it went.

        Raises
        ------
        NeuralCondenseError
            It could not be; the handlers turn it into a reply.
        """
        start_s = time.monotonic()
        try:
            self._check(request)
            body = await self._take(request)
            n_replies = await asyncio.to_thread(self._n_replies, body)
            answer = await until_gone(request, self.host.score(body))
        except ClientGoneError:
            log.info("POST %s: the validator hung up", SCORE_PATH)
            return Response(status_code=499)
        except NeuralCondenseError as error:
            log.info("POST %s: %d %s", SCORE_PATH, error.status, error.code)
            raise
        except Exception as error:  # noqa: BLE001 - left to itself, its message would be logged
            log.error("POST %s: 500, raised %s", SCORE_PATH, type_and_frames(error))
            return own_answer(UnforeseenError())
        taken_s = time.monotonic() - start_s
        log.info("POST %s: 200, %d replies in %.1f s", SCORE_PATH, n_replies, taken_s)
        return Response(answer, media_type="application/json")

    async def live(self) -> Live:
        """Say that the process answers."""
        return Live()

    async def ready(self) -> Response:
        """Say whether rounds are taken."""
        host = self.host
        if host.state == "ready":
            return json_response(200, Ready(workers=1))
        body = NotReady(
            state=host.state,
            stage="load" if host.state == "loading" else "",
            elapsed_s=max(0.0, time.monotonic() - host.started_s),
            reason=None if host.failure is None else host.failure.message,
        )
        return json_response(503, body, {"Retry-After": "1"})

    async def info(self) -> Response:
        """Say what is scored and within which limits.

        Raises
        ------
        UnavailableError
            The model is not loaded yet.
        """
        loaded, settings = self.host.loaded, self.settings
        if loaded is None:
            raise UnavailableError(f"the model is not loaded yet; see {READY_PATH}")
        body = ScoringInfo(
            target_model=loaded.target_model,
            hidden_size=loaded.hidden_size,
            max_condensed_tokens=settings.max_condensed_tokens,
            max_body_bytes=settings.max_body_bytes,
            max_replies=settings.max_replies,
            max_challenges=settings.max_challenges,
            tasks=TASKS,
            baselines=settings.baseline_names,
            perturbations=settings.perturbation_names,
            min_norm=MIN_NORM,
            max_norm=MAX_NORM,
        )
        return json_response(200, body)

    def _check(self, request: Request) -> None:
        """Refuse what need not be read.

        Raises
        ------
        UnauthorizedError
            No token, or another.
        UnsupportedMediaError
            The body is something else than safetensors.
        UnavailableError
            The model is not loaded.
        """
        if self.settings.token is not None:
            given = request.headers.get("authorization", "").encode()
            wanted = f"Bearer {self.settings.token}".encode()
            if not hmac.compare_digest(given, wanted):
                raise UnauthorizedError(
                    "this scoring service asks for a token; send Authorization: Bearer TOKEN"
                )
        if parse_media_type(request.headers.get("content-type", ""))[0] not in ACCEPTED:
            raise UnsupportedMediaError(
                f"the body must be {MEDIA_TYPE}; set the Content-Type header",
                {"supported": list(ACCEPTED)},
            )
        if self.host.state != "ready":
            raise UnavailableError(f"the scoring service is {self.host.state}; retry later")

    async def _take(self, request: Request) -> bytes:
        if self._n_bodies >= MAX_BODIES:
            raise OverloadedError(
                f"{self._n_bodies} rounds are arriving; retry later", {"limit": MAX_BODIES}
            )
        self._n_bodies += 1
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                return await read_body(request, self.settings.max_body_bytes)
        except TimeoutError:
            raise DeadlineError("the body did not arrive in time; send it faster") from None
        finally:
            self._n_bodies -= 1

    def _n_replies(self, body: bytes) -> int:
        found, _ = decode_score_request(body, self.settings.limits)
        loaded = self.host.loaded
        if loaded is not None and found.target_model != loaded.target_model:
            raise UnknownModelError(
                f"this service scores for {loaded.target_model!r} only",
                {"served": loaded.target_model},
            )
        return len(found.replies)
