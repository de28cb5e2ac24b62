"""The backend's HTTP routes over an engine.

Design decisions

* Bodies are read and parsed here, not by the framework: counted while read, never echoed, and a
  reply's bytes go out as the worker made them.
* A body is not read before it is clear that it can be used, and only so many are in hand at once:
  at most ``MAX_BODIES * MAX_BODY_BYTES`` of memory, 256 MB. Once parsed, a context is bounded by
  the engine's queue. What is left unread, the HTTP server drops.
* What is raised and was not foreseen is logged by type and place: its message may quote a context.
* Every error, the framework's own too, has the one body of ``errors.py``.
* A client that hangs up gives its request up; a worker never sees it.
* Nothing here needs torch, and health answers before anything is loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from neural_condense_core.errors import (
    DeadlineError,
    NeuralCondenseError,
    OverloadedError,
    UnavailableError,
    type_and_frames,
)
from neural_condense_core.serving.engine import Engine
from neural_condense_core.serving.jobs import Answer
from neural_condense_core.serving.openapi import condense_body, condense_responses
from neural_condense_core.serving.settings import (
    DOCS_PATH,
    INFO_PATH,
    LIVE_PATH,
    OPENAPI_PATH,
    READY_PATH,
    ServeSettings,
)
from neural_condense_core.wire.codec import (
    JSON,
    JSON_BASE64,
    JSON_LIST,
    MEDIA_TYPES,
    Format,
    negotiate,
)
from neural_condense_core.wire.incoming import (
    ClientGoneError,
    check_content_type,
    framework_error,
    json_response,
    own_error,
    read_body,
    unforeseen_error,
    until_gone,
)
from neural_condense_core.wire.messages import (
    MAX_BODY_BYTES,
    CondenseRequest,
    ErrorBody,
    Info,
    InfoLimits,
    Live,
    NotReady,
    Ready,
    parse_request,
)

log = logging.getLogger(__name__)

MAX_BODIES = 64
"""How many request bodies may be in hand, arriving or being parsed; above it 429."""


def create_app(engine: Engine, settings: ServeSettings) -> FastAPI:
    """Return the application; its lifespan starts and ends the engine's workers."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        try:
            yield
        finally:
            await engine.close()

    app = FastAPI(
        title="Neural Condense backend",
        description="Turns a text into condensed tokens, which a frozen LLM reads as embeddings.",
        lifespan=lifespan,
        openapi_url=OPENAPI_PATH,
        docs_url=DOCS_PATH,
        swagger_ui_oauth2_redirect_url=None,
        redoc_url=None,
    )
    routes = Routes(engine, settings)
    app.add_api_route(
        settings.api_path,
        routes.condense,
        methods=["POST"],
        summary="Condense a text",
        description='`{"context": "..."}` suffices; `Accept` chooses the format of the reply.',
        response_class=Response,
        responses=condense_responses(),
        openapi_extra={"requestBody": condense_body()},
    )
    app.add_api_route(
        LIVE_PATH, routes.live, response_model=Live, summary="Whether the process answers"
    )
    app.add_api_route(
        READY_PATH,
        routes.ready,
        summary="Whether requests are taken",
        description="Before that, how far loading is.",
        response_model=Ready,
        responses={503: {"model": NotReady, "description": "not yet, or no more"}},
    )
    app.add_api_route(
        INFO_PATH,
        routes.info,
        summary="What is served, and within which limits",
        description="Model, width, ratios, limits and formats.",
        response_model=Info,
        responses={503: {"model": ErrorBody, "description": "nothing is loaded yet"}},
    )
    app.add_exception_handler(NeuralCondenseError, own_error)
    app.add_exception_handler(HTTPException, routes.framework_error)
    app.add_exception_handler(Exception, unforeseen_error)
    return app


class Routes:
    """The endpoints.

    Parameters
    ----------
    engine : who condenses
    settings : limits and defaults
    """

    def __init__(self, engine: Engine, settings: ServeSettings) -> None:
        self.engine = engine
        self.settings = settings
        self.default_reply = JSON_LIST if settings.reply == "list" else JSON
        self._n_bodies = 0

    async def condense(self, request: Request) -> Response:
        """Condense one context and log how it went.

        Raises
        ------
        NeuralCondenseError
            It could not be; the handlers below turn it into a reply.
        """
        start_s = asyncio.get_running_loop().time()
        deadline_s = start_s + self.settings.timeout_s
        try:
            answer = await self._answer(request, deadline_s)
        except ClientGoneError:
            log.info("POST %s: the client hung up", self.settings.api_path)
            return Response(status_code=499)
        except NeuralCondenseError as error:
            log.info("POST %s: %d %s", self.settings.api_path, error.status, error.code)
            raise
        except Exception as error:  # noqa: BLE001 - left to itself, its message would be logged
            log.error("POST %s: 500, raised %s", self.settings.api_path, type_and_frames(error))
            return await unforeseen_error(request, error)
        taken_ms = (asyncio.get_running_loop().time() - start_s) * 1000
        log.info(
            "POST %s: 200, %d tokens to %d in %.1f ms",
            self.settings.api_path,
            answer.n_context_tokens,
            answer.n_condensed_tokens,
            taken_ms,
        )
        return Response(answer.body, headers=dict(answer.headers))

    async def live(self) -> Live:
        """Say that the process answers."""
        return Live()

    async def ready(self) -> Response:
        """Say whether requests are taken, and how far loading is."""
        found = self.engine.readiness()
        if found.state == "ready":
            return json_response(200, Ready(workers=found.workers))
        body = NotReady(
            state=found.state,
            stage=found.stage,
            done=found.done,
            elapsed_s=found.elapsed_s,
            reason=found.reason,
        )
        return json_response(503, body, {"Retry-After": "1"})

    async def info(self) -> Response:
        """Say what is served and within which limits.

        Raises
        ------
        UnavailableError
            No worker has loaded yet.
        """
        loaded = self.engine.loaded
        if loaded is None:
            raise UnavailableError(f"no worker has loaded yet; see {READY_PATH}")
        body = Info(
            condenser=loaded.condenser,
            target_model=loaded.target_model,
            hidden_size=loaded.hidden_size,
            ratios=None if loaded.ratios is None else list(loaded.ratios),
            default_ratio=loaded.ratio,
            api_path=self.settings.api_path,
            limits=InfoLimits(
                max_body_bytes=MAX_BODY_BYTES,
                max_context_tokens=self.settings.max_context_tokens,
                timeout_s=self.settings.timeout_s,
            ),
            formats=list(MEDIA_TYPES),
        )
        return json_response(200, body)

    async def framework_error(self, request: Request, error: Exception) -> Response:
        """Answer what the framework refuses, 404 and 405, in the one error body."""
        paths = (LIVE_PATH, READY_PATH, INFO_PATH, DOCS_PATH)
        served = [f"POST {self.settings.api_path}", *(f"GET {path}" for path in paths)]
        return framework_error(request, error, served)

    async def _answer(self, request: Request, deadline_s: float) -> Answer:
        check_content_type(request)
        # Before the body: a client that cannot use the answer need not send the text.
        negotiate(request.headers.get("accept"), self.default_reply)
        self.engine.served()
        asked = await self._take(request, deadline_s)
        work = self.engine.condense(
            asked.context,
            self._format(request, asked),
            deadline_s=deadline_s,
            target_model=asked.target_model,
            ratio=asked.ratio,
            max_condensed_tokens=asked.max_condensed_tokens,
        )
        return await until_gone(request, work)

    async def _take(self, request: Request, deadline_s: float) -> CondenseRequest:
        if self._n_bodies >= MAX_BODIES:
            raise OverloadedError(
                f"{self._n_bodies} requests are arriving; retry later", {"limit": MAX_BODIES}
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

    def _format(self, request: Request, asked: CondenseRequest) -> Format:
        preferred = {None: self.default_reply, "float": JSON, "base64": JSON_BASE64}
        prefer = preferred[asked.encoding_format]
        if asked.encoding_format == "float" and self.settings.reply == "list":
            prefer = JSON_LIST
        return negotiate(request.headers.get("accept"), prefer)
