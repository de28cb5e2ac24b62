"""What ``/openapi.json`` says: every route's body, replies and errors.

Where it sits: ``app.py`` and ``playground.py`` add the routes, whose bodies the framework neither
reads nor writes; this describes all of them in one table.

Design decisions

* A route that is served and not in the table is an error of the programmer, found by a test.
* A stream is described as what it is, text of server-sent events; ``x-event`` names the schema of
  one event's data, as OpenAPI 3.1 has no word for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from neural_condense_core.gateway.messages import ChatRequest, CompletionRequest
from neural_condense_core.gateway.playground import INFO_PATH, TEXT_PATH, TRACE_PATH, TraceBody
from neural_condense_core.gateway.reply_models import (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    FileText,
    ModelBody,
    ModelListBody,
    PlaygroundInfo,
    TracedBody,
)
from neural_condense_core.wire.codec import JSON, MEDIA_TYPES
from neural_condense_core.wire.gateway import (
    CONDENSE_PATH,
    CONTEXTS_PATH,
    CondenseBody,
    ContextInfo,
    ContextList,
    Deleted,
    GatewayErrorBody,
    GatewayHealth,
)
from neural_condense_core.wire.messages import Live

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"
MODELS_PATH = "/v1/models"
MODEL_PATH = f"{MODELS_PATH}/{{model}}"
CONTEXT_PATH = f"{CONTEXTS_PATH}/{{context_id}}"
LIVE_PATH = "/health/live"
READY_PATH = "/health/ready"
METRICS_PATH = "/metrics"

_REF = "#/components/schemas/{model}"
_JSON = JSON.media_type
_NAMES = re.compile(r"{(\w+)}")
_STATUS_TEXT: Mapping[int, str] = MappingProxyType({
    400: "the body is not JSON, a field is wrong, or the prompt does not fit the window",
    401: "no API key, or none that is known here",
    403: "a page of another origin, or another name than this machine's, without keys",
    404: "no such model or stored context",
    413: "the body is too large",
    429: "over the rate or the quota, or too much waits; Retry-After says when",
    500: "the gateway or the engine failed; the log says where",
    502: "the engine, the backend or the validator answered wrongly or not at all",
    503: "the model or the condenser is not ready; Retry-After says when",
    504: "no answer in time",
})
_ASKED = (401, 403, 429, 500)
"""What every route answers that asks who calls."""
_WORKS = (400, *_ASKED, 413, 503, 504)


@dataclass(frozen=True)
class Described:
    """What is said of a route.

    Parameters
    ----------
    ok : status of success
    replies : media type -> model of the reply; None = bytes or text
    text : of that reply
    body : model of the request's body
    files : media types of a body that is a file
    event : model of an event, where the reply may be a stream
    faults : statuses that it can answer with the error body
    other : status -> model of a reply that is no error body
    """

    ok: int = 200
    replies: Mapping[str, type[BaseModel] | None] = field(default_factory=dict)
    text: str = "as asked"
    body: type[BaseModel] | None = None
    files: Sequence[str] = ()
    event: type[BaseModel] | None = None
    faults: Sequence[int] = ()
    other: Mapping[int, type[BaseModel]] = field(default_factory=dict)


def _context_reply() -> dict[str, type[BaseModel] | None]:
    tensors = [each for each in MEDIA_TYPES if each != _JSON and "json" not in each]
    return {_JSON: ContextInfo, **dict.fromkeys(tensors)}


ROUTES: Mapping[tuple[str, str], Described] = MappingProxyType({
    ("POST", CHAT_PATH): Described(
        replies={_JSON: ChatCompletion},
        text="the answer, or with stream its events, then [DONE]; an event with error ends it too",
        body=ChatRequest,
        event=ChatCompletionChunk,
        faults=(*_WORKS, 404, 502),
    ),
    ("POST", COMPLETIONS_PATH): Described(
        replies={_JSON: Completion},
        text="the text, or with stream its events, then [DONE]; an event with error ends it too",
        body=CompletionRequest,
        event=Completion,
        faults=(*_WORKS, 404, 502),
    ),
    ("GET", MODELS_PATH): Described(replies={_JSON: ModelListBody}, faults=_ASKED),
    ("GET", MODEL_PATH): Described(replies={_JSON: ModelBody}, faults=(*_ASKED, 404)),
    ("POST", CONDENSE_PATH): Described(
        ok=201,
        replies=_context_reply(),
        text="what is kept; in a tensor format, with status 200, the matrix itself",
        body=CondenseBody,
        faults=(*_WORKS, 502),
    ),
    ("GET", CONTEXTS_PATH): Described(replies={_JSON: ContextList}, faults=_ASKED),
    ("GET", CONTEXT_PATH): Described(
        replies=_context_reply(),
        text="what is known of it; in a tensor format the matrix",
        faults=(400, *_ASKED, 404),
    ),
    ("DELETE", CONTEXT_PATH): Described(replies={_JSON: Deleted}, faults=(*_ASKED, 404)),
    ("GET", LIVE_PATH): Described(replies={_JSON: Live}, text="the process answers"),
    ("GET", READY_PATH): Described(
        replies={_JSON: GatewayHealth}, text="requests are served", other={503: GatewayHealth}
    ),
    ("GET", METRICS_PATH): Described(replies={"text/plain": None}, text="Prometheus's text format"),
    ("GET", INFO_PATH): Described(replies={_JSON: PlaygroundInfo}, faults=_ASKED),
    ("POST", TEXT_PATH): Described(
        replies={_JSON: FileText},
        files=("text/html", "application/pdf"),
        faults=(400, *_ASKED, 413, 504),
    ),
    ("POST", TRACE_PATH): Described(
        replies={_JSON: TracedBody}, body=TraceBody, faults=(*_WORKS, 404, 502)
    ),
})


def describe(app: FastAPI) -> None:
    """Let an application's ``/openapi.json`` say what is in the table."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            for (method, path), described in ROUTES.items():
                found["paths"][path][method.lower()] |= {
                    **_operation(described),
                    "parameters": [_in_path(name) for name in _NAMES.findall(path)],
                }
            schemes = {"key": {"type": "http", "scheme": "bearer"}}
            found["components"] = {"schemas": _schemas(), "securitySchemes": schemes}
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _operation(described: Described) -> dict[str, Any]:
    replies: dict[str, Any] = {
        kind: {"schema": _ref(model) if model else _plain(kind)}
        for kind, model in described.replies.items()
    }
    if described.event is not None:
        stream = {"type": "string", "x-event": _ref(described.event)}
        replies["text/event-stream"] = {"schema": stream}
    said = {str(described.ok): {"description": described.text, "content": replies}}
    if described.ok != 200:
        tensors = {kind: each for kind, each in replies.items() if kind != _JSON}
        said["200"] = {"description": described.text, "content": tensors}
        said[str(described.ok)]["content"] = {_JSON: replies[_JSON]}
    for status, model in described.other.items():
        said[str(status)] = {"description": "not yet, or no more", "content": _as_json(model)}
    for status in sorted(described.faults):
        text = _STATUS_TEXT[status]
        said[str(status)] = {"description": text, "content": _as_json(GatewayErrorBody)}
    found: dict[str, Any] = {"responses": said}
    body = _as_json(described.body) if described.body is not None else {}
    body |= {kind: {"schema": {"type": "string", "format": "binary"}} for kind in described.files}
    if body:
        found["requestBody"] = {"required": True, "content": body}
    if 401 in described.faults:
        found["security"] = [{"key": []}, {}]  # without keys nobody is asked for one
    return found


def _schemas() -> dict[str, Any]:
    asked: dict[type[BaseModel], JsonSchemaMode] = {}
    for each in ROUTES.values():
        told = [*each.replies.values(), *each.other.values(), each.event, GatewayErrorBody]
        asked |= dict.fromkeys([model for model in told if model is not None], "serialization")
        if each.body is not None:
            asked[each.body] = "validation"
    _, found = models_json_schema(list(asked.items()), ref_template=_REF)
    schemas: dict[str, Any] = found["$defs"]
    return schemas


def _as_json(model: type[BaseModel]) -> dict[str, Any]:
    return {_JSON: {"schema": _ref(model)}}


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}


def _plain(kind: str) -> dict[str, str]:
    return (
        {"type": "string"} if kind.startswith("text/") else {"type": "string", "format": "binary"}
    )
