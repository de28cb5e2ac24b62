"""The gateway's HTTP routes: OpenAI's, those of stored contexts, health and metrics.

Where it sits: ``server.py`` runs it; ``answering.py`` and ``keeping.py`` hold what the routes do.

Design decisions

* Who asks is settled before a body is read.
* Every error is in OpenAI's shape and names neither prompt nor context; what was not foreseen is
  logged by type and place only.
* Health answers before anything is loaded, and needs no key; so do the metrics, which hold counts.
* Nothing here loads torch: the model and the condenser are in processes of their own.
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import Response

from neural_condense_core.errors import NeuralCondenseError, UnknownModelError, type_and_frames
from neural_condense_core.gateway.answering import Answering
from neural_condense_core.gateway.keeping import Keeping
from neural_condense_core.gateway.metrics import CONTENT_TYPE
from neural_condense_core.gateway.openapi import (
    CHAT_PATH,
    COMPLETIONS_PATH,
    CONTEXT_PATH,
    LIVE_PATH,
    METRICS_PATH,
    MODELS_PATH,
    READY_PATH,
    ROUTES,
    describe,
)
from neural_condense_core.gateway.parts import Parts
from neural_condense_core.gateway.playground import add_playground
from neural_condense_core.gateway.replies import error_response, status_of
from neural_condense_core.gateway.sources import Source
from neural_condense_core.wire.gateway import CONDENSE_PATH, CONTEXTS_PATH, GatewayHealth
from neural_condense_core.wire.incoming import (
    ClientGoneError,
    UnforeseenError,
    add_error_handlers,
    json_response,
)

log = logging.getLogger(__name__)

REQUEST_ID_HEADER = "x-request-id"

Endpoint = Callable[..., Awaitable[Response]]


def create_app(parts: Parts, lifespan: Callable[[FastAPI], Any] | None = None) -> FastAPI:
    """Return the application.

    Parameters
    ----------
    parts : what the routes work with
    lifespan : starts and ends them; None = somebody else does
    """
    app = FastAPI(
        title="Neural Condense gateway",
        description="OpenAI's API in front of a model that reads long texts condensed.",
        lifespan=lifespan or _nothing,
        docs_url=None,
        redoc_url=None,
    )
    routes, answering, keeping = _Routes(parts), Answering(parts), Keeping(parts)
    for method, path, endpoint, summary in (
        ("POST", CHAT_PATH, answering.chat, "Answer a chat"),
        ("POST", COMPLETIONS_PATH, answering.complete, "Continue a text"),
        ("GET", MODELS_PATH, routes.models, "What is served"),
        ("GET", f"{MODELS_PATH}/{{model:path}}", routes.model, "One model"),
        ("POST", CONDENSE_PATH, keeping.condense, "Condense a text and keep it"),
        ("GET", CONTEXTS_PATH, keeping.list, "Your stored contexts"),
        ("GET", CONTEXT_PATH, keeping.get, "A stored context"),
        ("DELETE", CONTEXT_PATH, keeping.delete, "Forget a stored context"),
        ("GET", LIVE_PATH, routes.live, "Whether the process answers"),
        ("GET", READY_PATH, routes.ready, "Whether requests are served"),
        ("GET", METRICS_PATH, routes.metrics, "Counters for Prometheus"),
    ):
        app.add_api_route(
            path,
            routes.guarded(path, endpoint),
            methods=[method],
            summary=summary,
            response_class=Response,
        )
    add_playground(app, parts, routes.guarded)
    describe(app)
    served = [f"{method} {path}" for method, path in ROUTES]
    add_error_handlers(app, served, error_response)
    return app


@contextlib.asynccontextmanager
async def _nothing(_: FastAPI) -> AsyncIterator[None]:
    yield


class _Routes:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._started = int(time.time())

    def guarded(self, path: str, endpoint: Endpoint) -> Endpoint:
        """Return an endpoint that turns whatever is raised into a reply, and is counted."""

        async def call(request: Request) -> Response:
            begun_s = time.monotonic()
            request_id = uuid.uuid4().hex[:16]
            response = await _answered(request, path, endpoint, request_id)
            response.headers[REQUEST_ID_HEADER] = request_id
            taken_s = time.monotonic() - begun_s
            self._parts.metrics.request(path, response.status_code, taken_s)
            return response

        return call

    async def models(self, request: Request) -> Response:
        await self._parts.door.admit(request, charges=False)
        return _json(200, {"object": "list", "data": [self._model()]})

    async def model(self, request: Request, model: str) -> Response:
        await self._parts.door.admit(request, charges=False)
        if model != self._parts.settings.name:
            raise UnknownModelError(
                f"this gateway serves {self._parts.settings.name!r}", {"param": "model"}
            )
        return _json(200, self._model())

    async def live(self, request: Request) -> Response:
        return _json(200, {"state": "live"})

    async def ready(self, request: Request) -> Response:
        reading, own = self._parts.reading, self._parts.source
        others = [each.source for each in self._parts.others]
        # All of them: what /v1/models offers must be there once this says so.
        are_ready = all(source.is_ready for source in (own, *others))
        body = GatewayHealth(
            state=reading.state if reading.state != "ready" or are_ready else "loading",
            model=reading.state,
            condenser=_state(own),
            also={source.name: _state(source) for source in others},
            reason=None if reading.failure is None else reading.failure.code,
        )
        is_ready = body.state == "ready"
        return json_response(
            200 if is_ready else 503, body, None if is_ready else {"Retry-After": "1"}
        )

    async def metrics(self, request: Request) -> Response:
        return Response(self._parts.metrics.text(), media_type=CONTENT_TYPE)

    def _model(self) -> dict[str, Any]:
        opened, source = self._parts.reading.opened, self._parts.source
        return {
            "id": self._parts.settings.name,
            "object": "model",
            "created": self._started,
            "owned_by": "neural-condense",
            "max_model_len": opened.max_positions if opened else None,
            "condense": {
                "condenser": source.name,
                "ratios": source.ratios,
                "default_ratio": self._parts.settings.ratio or source.ratio,
                "recovery_calibrated_for": self._parts.contexts.calibration.target_model,
                "condensers": self._parts.condensers(),
            },
        }


async def _answered(request: Request, path: str, endpoint: Endpoint, request_id: str) -> Response:
    try:
        return await endpoint(request, **request.path_params)
    except ClientGoneError:
        return Response(status_code=499)
    except NeuralCondenseError as error:
        log.info("%s: %d %s (%s)", path, status_of(error), error.code, request_id)
        return error_response(error)
    except Exception as error:  # noqa: BLE001 - left to itself, its message would be logged
        log.error("%s: 500 (%s), raised %s", path, request_id, type_and_frames(error))
        return error_response(UnforeseenError())


def _state(source: Source) -> Literal["ready", "loading"]:
    return "ready" if source.is_ready else "loading"


def _json(status: int, body: dict[str, Any]) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json")
