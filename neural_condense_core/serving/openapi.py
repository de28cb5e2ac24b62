"""What ``/openapi.json`` says of ``POST /condense``; its bodies pass the framework by."""

from __future__ import annotations

from typing import Any

from neural_condense_core.wire.codec import JSON, JSON_BASE64, JSON_LIST, NPY, SAFETENSORS, TORCH
from neural_condense_core.wire.messages import (
    CondenseReply,
    CondenseReplyBase64,
    CondenseRequest,
    ErrorBody,
)

_STATUS_TEXT = {
    400: "the body is not JSON",
    404: "another target model than the one served",
    406: "no offered format fits Accept",
    413: "the body or the context is too long",
    415: "the body is not application/json",
    422: "a field is missing, of the wrong type, empty or out of range",
    429: "an answer in time is not to be had; Retry-After says when",
    500: "the condenser failed on this context",
    503: "loading, draining or no worker left; Retry-After says when",
    504: "no answer in time",
}


def condense_body() -> dict[str, Any]:
    """Return the request body of ``POST /condense``."""
    schema = CondenseRequest.model_json_schema()
    example = {"context": "Four score and seven years ago our fathers brought forth ..."}
    content = {"application/json": {"schema": schema, "example": example}}
    return {"required": True, "content": content}


def condense_responses() -> dict[int | str, dict[str, Any]]:
    """Return the replies to ``POST /condense`` by status."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    matrix = CondenseReply.model_json_schema()
    bare = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}
    ok: dict[str, Any] = {
        "description": "the condensed tokens, in the format that Accept asks for",
        "content": {
            JSON.content_type: {"schema": matrix},
            JSON_LIST.content_type: {"schema": bare},
            JSON_BASE64.content_type: {"schema": CondenseReplyBase64.model_json_schema()},
            NPY.content_type: binary,
            SAFETENSORS.content_type: binary,
            TORCH.content_type: binary,
        },
    }
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorBody, "description": text} for status, text in _STATUS_TEXT.items()
    }
    return {200: ok, **errors}


def condense_headers() -> list[dict[str, Any]]:
    """Return the request headers of ``POST /condense`` that mean something here."""
    number = {"type": "number", "exclusiveMinimum": 0}
    texts = {
        "X-Request-Timeout": ("seconds that the client will wait; shortens the limit", number),
        "X-Request-Id": ("comes back in the reply and stands in the log", {"type": "string"}),
    }
    return [
        {"name": name, "in": "header", "required": False, "description": text, "schema": schema}
        for name, (text, schema) in texts.items()
    ]


def metrics_responses() -> dict[int | str, dict[str, Any]]:
    """Return the reply to ``GET /metrics``."""
    content = {"text/plain": {"schema": {"type": "string"}}}
    return {200: {"description": "Prometheus's text format", "content": content}}
