"""What ``/docs`` says of ``POST /condense``; the framework reads and writes none of its bodies."""

from __future__ import annotations

from typing import Any

from neural_condense_core.wire.codec import JSON, JSON_LIST, NPY, SAFETENSORS
from neural_condense_core.wire.messages import CondenseReply, CondenseRequest, ErrorBody

_STATUS_TEXT = {
    400: "the body is not JSON",
    404: "another target model than the one served",
    406: "no offered format fits Accept",
    413: "the body or the context is too long",
    415: "the body is not application/json",
    422: "a field is missing, of the wrong type, empty or out of range",
    429: "too much is waiting; Retry-After says when",
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
            NPY.content_type: binary,
            SAFETENSORS.content_type: binary,
        },
    }
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorBody, "description": text} for status, text in _STATUS_TEXT.items()
    }
    return {200: ok, **errors}
