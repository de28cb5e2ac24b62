"""The backend's HTTP routes over an engine.

Design decisions

* The condensing route is answered past the framework, whose machinery costs a small request more
  than the rest of the front does; the framework describes it, and serves everything else.
* Every error, the framework's own too, has the one body of ``errors.py``.
* Nothing here needs torch, and health answers before anything is loaded.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from neural_condense_core.errors import UnavailableError
from neural_condense_core.serving.condense_route import CondenseRoute
from neural_condense_core.serving.engine import Engine
from neural_condense_core.serving.metrics import CONTENT_TYPE, Metrics
from neural_condense_core.serving.openapi import (
    condense_body,
    condense_headers,
    condense_responses,
    metrics_responses,
)
from neural_condense_core.serving.settings import (
    INFO_PATH,
    LIVE_PATH,
    METRICS_PATH,
    OPENAPI_PATH,
    OWN_PATHS,
    READY_PATH,
    ServeSettings,
)
from neural_condense_core.wire.codec import MEDIA_TYPES
from neural_condense_core.wire.incoming import add_error_handlers, json_response
from neural_condense_core.wire.messages import (
    MAX_BODY_BYTES,
    CrewNotReady,
    CrewReady,
    ErrorBody,
    Info,
    InfoLimits,
    Live,
)


class BackendApp(FastAPI):
    """The framework's application, and the route that goes past it."""

    busy_path: str
    busy_route: CondenseRoute

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if (
            scope["type"] == "http"
            and scope["path"] == self.busy_path
            and scope["method"] == "POST"
        ):
            await self.busy_route(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(
    engine: Engine, settings: ServeSettings, metrics: Metrics | None = None
) -> BackendApp:
    """Return the application; its lifespan starts and ends the engine's workers.

    Parameters
    ----------
    engine : who condenses
    settings : limits and defaults
    metrics : what ``GET /metrics`` shows; the engine should have the same
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        try:
            yield
        finally:
            await engine.close()

    metrics = metrics or Metrics()
    app = BackendApp(
        title="Neural Condense backend",
        description="Turns a text into condensed tokens, which a frozen LLM reads as embeddings.",
        lifespan=lifespan,
        openapi_url=OPENAPI_PATH,
        docs_url=None,
        redoc_url=None,
    )
    app.busy_path = settings.api_path
    app.busy_route = CondenseRoute(engine, settings, metrics)
    routes = Routes(engine, settings, metrics)
    app.add_api_route(
        settings.api_path,
        app.busy_route.respond,
        methods=["POST"],
        summary="Condense a text",
        description='`{"context": "..."}` suffices; `Accept` chooses the format of the reply.',
        response_class=Response,
        responses=condense_responses(),
        openapi_extra={"requestBody": condense_body(), "parameters": condense_headers()},
    )
    _add_own_routes(app, routes)
    add_error_handlers(app, [f"POST {settings.api_path}", *(f"GET {path}" for path in OWN_PATHS)])
    return app


def _add_own_routes(app: FastAPI, routes: Routes) -> None:
    app.add_api_route(
        LIVE_PATH, routes.live, response_model=Live, summary="Whether the process answers"
    )
    app.add_api_route(
        READY_PATH,
        routes.ready,
        summary="Whether requests are taken",
        description="Before that, how far loading is.",
        response_model=CrewReady,
        responses={503: {"model": CrewNotReady, "description": "not yet, or no more"}},
    )
    app.add_api_route(
        INFO_PATH,
        routes.info,
        summary="What is served, and within which limits",
        description="Model, width, ratios, limits and formats.",
        response_model=Info,
        responses={503: {"model": ErrorBody, "description": "nothing is loaded yet"}},
    )
    app.add_api_route(
        METRICS_PATH,
        routes.metrics_text,
        summary="Counters and timings for Prometheus",
        response_class=Response,
        responses=metrics_responses(),
    )


class Routes:
    """The endpoints that say something of the backend.

    Parameters
    ----------
    engine : who condenses
    settings : limits and defaults
    metrics : what is counted
    """

    def __init__(self, engine: Engine, settings: ServeSettings, metrics: Metrics) -> None:
        self.engine = engine
        self.settings = settings
        self.metrics = metrics

    async def live(self) -> Live:
        """Say that the process answers."""
        return Live()

    async def ready(self) -> Response:
        """Say whether requests are taken, how many workers there are, and how far loading is."""
        found = self.engine.readiness()
        if found.state == "ready":
            ready = CrewReady(workers=found.workers, total=found.total, reason=found.reason)
            return json_response(200, ready)
        body = CrewNotReady(
            state=found.state,
            stage=found.stage,
            done=found.done,
            elapsed_s=found.elapsed_s,
            reason=found.reason,
            workers=found.workers,
            total=found.total,
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
            model_revision=loaded.revision or None,
            api_path=self.settings.api_path,
            limits=InfoLimits(
                max_body_bytes=MAX_BODY_BYTES,
                max_context_tokens=self.settings.max_context_tokens,
                timeout_s=self.settings.timeout_s,
            ),
            formats=list(MEDIA_TYPES),
        )
        return json_response(200, body)

    async def metrics_text(self) -> Response:
        """Write the metrics in Prometheus's text format."""
        return Response(self.metrics.write(), media_type=CONTENT_TYPE)
